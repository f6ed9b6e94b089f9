"""The books, the transfers allowed between them, and the states of a hold: as tables.

`credit` and `granted` are the account's own books; their sum is `posted`. The others are their counterparts; they
belong to the operator and store no balance: their totals are sums over transfers. Only for `receivable` the account's
part is stored, as `owed` on its balance row: what was taken back from the account beyond what it had left.
"""

OWN_BOOKS = ("granted", "credit")
RECEIVABLE = "receivable"
"""What has been paid out of it for an account and has not come back is what the account owes."""

TRANSFERS: dict[str, frozenset[tuple[str, str]]] = {
    "top_up": frozenset({("processor", "credit")}),
    "grant": frozenset({("promotion", "granted")}),
    "charge": frozenset({("granted", "revenue"), ("credit", "revenue")}),
    "write_off": frozenset({("written_off", "revenue")}),
    "expiry": frozenset({("granted", "expired"), ("credit", "expired")}),
    "correction": frozenset(
        {("revenue", "credit"), ("revenue", "granted"), ("granted", "revenue"), ("credit", "revenue")}
    ),
    "refund": frozenset({("credit", "refunded"), ("receivable", "refunded")}),
    "dispute": frozenset({("credit", "disputed"), ("receivable", "disputed")}),
    "refund_failed": frozenset({("refunded", "credit")}),
    "dispute_won": frozenset({("disputed", "credit")}),
    "collection": frozenset({("credit", "receivable")}),
}
"""Kind of transfer → the (from, to) pairs it may have. No other pair is allowed."""

TAKEN_BACK: dict[str, str] = {"refund": "refunded", "dispute": "disputed"}
"""Why money is taken back → the book it goes to. Both are kinds of transfer too."""

GIVEN_BACK: dict[str, str] = {"refund_failed": "refund", "dispute_won": "dispute"}
"""Why money is given back → why it had been taken back."""

HOLD_STATES: dict[str, frozenset[str]] = {
    "open": frozenset({"settled", "released", "expired"}),
    "expired": frozenset({"settled"}),  # a late settle still posts
    "released": frozenset(),
    "settled": frozenset(),
}
"""State of a hold → the states it may go to."""
