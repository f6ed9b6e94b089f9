"""The price book for a command, the same as a server's."""

from typing import TYPE_CHECKING

from farebox.cli.session import Stopped

if TYPE_CHECKING:
    from farebox.pricing.pricebook import PriceBook
    from farebox.storage.sql import Connection


def price_book_of(connection: "Connection") -> "PriceBook":
    """The price book. Raises Stopped if the loaded supplement cannot be read."""
    from farebox.pricing.compiler import PriceList
    from farebox.pricing.supplement import InvalidSupplement, Supplement, shipped
    from farebox.runtime.configuration import price_book
    from farebox.storage import config

    text = config.find_supplement(connection)
    try:
        supplement = Supplement(text.encode()) if text else shipped()
    except InvalidSupplement as error:
        raise Stopped(f"the loaded price supplement cannot be read: {error}") from error
    prices, markups = config.list_prices(connection), config.list_markups(connection)
    return price_book(prices, markups, PriceList(supplement=supplement), demo=True)
