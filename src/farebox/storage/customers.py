"""The store of customers: an account's ID at the payment processor, its saved cards, and who its invoices go to."""

from collections.abc import Sequence

import msgspec

from farebox.money import NANOS_PER_CENT
from farebox.payments.model import Card
from farebox.payments.states import OPEN_TOP_UPS
from farebox.storage.account_keys import OF_ACCOUNT, find_key, key_of
from farebox.storage.sql import Connection, row, rows


class CustomerProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Who an account's invoices are made out to, and the account's own limits; None: the setting applies."""

    name: str = ""
    email: str = ""
    address: str = ""
    """Lines, separated by newlines."""
    country: str = ""
    """ISO 3166-1 alpha-2, upper case."""
    tax_id: str = ""
    top_up_min_cents: int | None = None
    top_up_max_cents: int | None = None
    low_balance_cents: int | None = None
    """A posted balance below this notifies the owner; 0: never."""


# --- customers --------------------------------------------------------------------------------------------------------


def find_customer(connection: Connection, account_id: str) -> str | None:
    """The processor's customer ID of the account."""
    found = row(connection, "SELECT customer_id FROM customers WHERE account_id = ?", (account_id,))
    return None if found is None else str(found[0])


def account_of_customer(connection: Connection, customer_id: str) -> str | None:
    found = row(connection, "SELECT account_id FROM customers WHERE customer_id = ?", (customer_id,))
    return None if found is None else str(found[0])


def add_customer(connection: Connection, account_id: str, customer_id: str, at: int) -> str:
    """Store the processor's customer ID of the account unless there is one. Returns the stored one."""
    connection.execute(
        "INSERT INTO customers (account_id, customer_id, created_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        (account_id, customer_id, at),
    )
    return find_customer(connection, account_id) or customer_id


def forget_customer(connection: Connection, account_id: str, customer_id: str) -> None:
    """Delete this customer ID: the processor no longer knows it."""
    connection.execute("DELETE FROM customers WHERE account_id = ? AND customer_id = ?", (account_id, customer_id))


# --- cards ------------------------------------------------------------------------------------------------------------

_CARD = "card_id, brand, last4, exp_month, exp_year, fingerprint, is_default, created_at"


def cards_of(connection: Connection, account_id: str) -> list[Card]:
    """The saved cards as last reported by the processor, the default one first, then the newest."""
    found = rows(
        connection,
        f"SELECT {_CARD} FROM cards WHERE {OF_ACCOUNT} ORDER BY is_default DESC, created_at DESC, card_id",
        key_of(connection, account_id),
    )
    return [_card(fields) for fields in found]


def find_card(connection: Connection, account_id: str, card_id: str) -> Card | None:
    """A card of this account; never another account's."""
    return next((card for card in cards_of(connection, account_id) if card.card_id == card_id), None)


def default_card(connection: Connection, account_id: str) -> Card | None:
    return next((card for card in cards_of(connection, account_id) if card.is_default), None)


def was_default(connection: Connection, account_id: str, card_id: str) -> bool:
    """Whether the card is known and is, or has been, the default."""
    found = row(
        connection,
        f"SELECT was_default FROM cards WHERE {OF_ACCOUNT} AND card_id = ?",
        (*key_of(connection, account_id), card_id),
    )
    return found is not None and bool(found[0])


def replace_cards(connection: Connection, account_id: str, cards: Sequence[Card], *, requested_at: int) -> bool:
    """Store the cards that the processor returned to a request at `requested_at`.

    The response to an earlier request than the stored one changes nothing, and False is returned.
    """
    connection.execute(
        "UPDATE customers SET cards_at = ? WHERE account_id = ? AND cards_at <= ?",
        (requested_at, account_id, requested_at),
    )
    changed = connection.changes()
    key = find_key(connection, account_id)
    if changed == 0 or key is None:
        return False
    known = {item[0] for item in rows(connection, f"SELECT card_id FROM cards WHERE {OF_ACCOUNT}", key)}
    for card_id in known - {card.card_id for card in cards}:
        connection.execute(f"DELETE FROM cards WHERE {OF_ACCOUNT} AND card_id = ?", (*key, card_id))
    for card in cards:
        connection.execute(
            f"INSERT INTO cards (bucket, account_id, {_CARD}, was_default) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (bucket, account_id, card_id) DO UPDATE SET brand = excluded.brand, last4 = excluded.last4, "
            "exp_month = excluded.exp_month, exp_year = excluded.exp_year, "
            "fingerprint = excluded.fingerprint, is_default = excluded.is_default, created_at = excluded.created_at, "
            "was_default = CASE WHEN excluded.is_default = 1 THEN 1 ELSE cards.was_default END",
            (
                *key,
                card.card_id,
                card.brand,
                card.last4,
                card.exp_month,
                card.exp_year,
                card.fingerprint,
                int(card.is_default),
                card.created_at,
                int(card.is_default),
            ),
        )
    return True


def cards_in_use(connection: Connection, account_id: str) -> frozenset[str]:
    """The cards that open top-ups will charge."""
    marks = ", ".join("?" for _ in OPEN_TOP_UPS)
    found = rows(
        connection,
        f"SELECT card_id FROM top_ups WHERE {OF_ACCOUNT} AND card_id IS NOT NULL AND state IN ({marks})",
        (*key_of(connection, account_id), *OPEN_TOP_UPS),
    )
    return frozenset(card_id for (card_id,) in found)


def _card(fields: tuple[object, ...]) -> Card:
    card_id, brand, last4, exp_month, exp_year, fingerprint, is_default, created_at = fields
    return Card(
        card_id=str(card_id),
        brand=str(brand),
        last4=str(last4),
        exp_month=int(str(exp_month)),
        exp_year=int(str(exp_year)),
        fingerprint=str(fingerprint),
        is_default=bool(is_default),
        created_at=int(str(created_at)),
    )


# --- billing profiles -------------------------------------------------------------------------------------------------


def find_profile(connection: Connection, account_id: str) -> CustomerProfile:
    """The account's profile; an empty one if it has none."""
    found = row(
        connection,
        "SELECT coalesce(p.name, ''), coalesce(p.email, ''), coalesce(p.address, ''), coalesce(p.country, ''), "
        "coalesce(p.tax_id, ''), p.top_up_min_cents, p.top_up_max_cents, b.low_below FROM balances b "
        "LEFT JOIN billing_profiles p ON p.bucket = b.bucket AND p.account_id = b.account_id "
        "WHERE b.bucket = ? AND b.account_id = ?",
        key_of(connection, account_id),
    )
    if found is None:
        return CustomerProfile()
    name, email, address, country, tax_id, low, high, low_below = found
    return CustomerProfile(
        name=name,
        email=email,
        address=address,
        country=country,
        tax_id=tax_id,
        top_up_min_cents=low,
        top_up_max_cents=high,
        low_balance_cents=None if low_below is None else low_below // NANOS_PER_CENT,
    )


def put_profile(connection: Connection, account_id: str, profile: CustomerProfile, at: int) -> None:
    """Replace the account's profile."""
    key = find_key(connection, account_id)
    assert key is not None, f"there is no account {account_id}"
    connection.execute(
        "INSERT INTO billing_profiles (bucket, account_id, name, email, address, country, tax_id, top_up_min_cents, "
        "top_up_max_cents, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (bucket, account_id) DO UPDATE SET name = excluded.name, email = excluded.email, "
        "address = excluded.address, country = excluded.country, tax_id = excluded.tax_id, "
        "top_up_min_cents = excluded.top_up_min_cents, top_up_max_cents = excluded.top_up_max_cents, "
        "updated_at = excluded.updated_at",
        (
            *key,
            profile.name,
            profile.email,
            profile.address,
            profile.country,
            profile.tax_id,
            profile.top_up_min_cents,
            profile.top_up_max_cents,
            at,
        ),
    )
    set_low_balance(connection, account_id, profile.low_balance_cents)


def set_low_balance(connection: Connection, account_id: str, cents: int | None) -> None:
    """Change the low-balance threshold. If it changes, a balance below it is reported again."""
    nanos = None if cents is None else cents * NANOS_PER_CENT
    connection.execute(
        f"UPDATE balances SET low_below = ?, low_told = 0 WHERE {OF_ACCOUNT} AND low_below IS DISTINCT FROM ?",
        (nanos, *key_of(connection, account_id), nanos),
    )


def default_low_balance(connection: Connection, bucket: int, account_id: str, cents: int) -> None:
    """Set the low-balance mark of an account that has none."""
    connection.execute(
        "UPDATE balances SET low_below = ? WHERE bucket = ? AND account_id = ? AND low_below IS NULL",
        (cents * NANOS_PER_CENT, bucket, account_id),
    )
