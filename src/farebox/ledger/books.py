"""The books, the transfers allowed between them, and the states of a hold: as tables.

`credit` and `granted` are the account's own books; their sum is `posted`. The others stand against them, belong to the
house, and store no balance: their totals are sums over transfers. Of one of them, `receivable`, the account's part is
kept on its row nonetheless, as `owed`: what was taken back from the account beyond what it had left.
"""

OWN_BOOKS = ("granted", "credit")
RECEIVABLE = "receivable"
"""What has gone out of it for an account and has not come back is what the account owes."""

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
"""Kind of transfer → the (from, to) pairs it may have. A pair that is not here does not exist."""

TAKEN_BACK: dict[str, str] = {"refund": "refunded", "dispute": "disputed"}
"""Why money is taken back → the book it goes to. Both are kinds of transfer too."""

GIVEN_BACK: dict[str, str] = {"refund_failed": "refund", "dispute_won": "dispute"}
"""Why what was taken back is given back → why it had been taken."""

HOLD_STATES: dict[str, frozenset[str]] = {
    "open": frozenset({"settled", "released", "expired"}),
    "expired": frozenset({"settled"}),  # a late settle still posts
    "released": frozenset(),
    "settled": frozenset(),
}
"""State of a hold → the states it may go to."""
