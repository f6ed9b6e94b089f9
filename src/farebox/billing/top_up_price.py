"""What a purchase of credit costs an account, and how large it may be: settings, its profile, the operator's taxes."""

from farebox.payments.purchase import Purchase, price_purchase
from farebox.settings import Settings
from farebox.storage.customers import find_profile
from farebox.storage.sql import Connection
from farebox.storage.tax import tax_of_purchase


def limits_of(connection: Connection, settings: Settings, account_id: str) -> tuple[int, int]:
    """The smallest and the largest single purchase of the account, in cents of credit."""
    profile = find_profile(connection, account_id)
    low, high = profile.top_up_min_cents, profile.top_up_max_cents
    return (
        settings.topup_min_cents if low is None else low,
        settings.topup_max_cents if high is None else high,
    )


def price_for(connection: Connection, settings: Settings, account_id: str, credit_cents: int) -> Purchase:
    """The purchase as it is priced now, for the country and tax id of the account's profile."""
    profile = find_profile(connection, account_id)
    tax = tax_of_purchase(
        connection, country=profile.country, tax_id=profile.tax_id, seller_country=settings.seller_country
    )
    return price_purchase(credit_cents, fee_ppm=settings.fee_ppm, fee_fixed_cents=settings.fee_fixed_cents, tax=tax)
