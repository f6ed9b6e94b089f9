"""The books, the transfers allowed between them, and the states of a hold: as tables.

`credit` and `granted` are the account's own books; their sum is `posted`. The others stand against them, belong to the
house, and store no balance: their totals are sums over transfers.
"""

OWN_BOOKS = ("granted", "credit")

TRANSFERS: dict[str, frozenset[tuple[str, str]]] = {
    "top_up": frozenset({("processor", "credit")}),
    "grant": frozenset({("promotion", "granted")}),
    "charge": frozenset({("granted", "revenue"), ("credit", "revenue")}),
    "write_off": frozenset({("written_off", "revenue")}),
    "expiry": frozenset({("granted", "expired"), ("credit", "expired")}),
    "correction": frozenset({("revenue", "credit"), ("granted", "revenue"), ("credit", "revenue")}),
}
"""Kind of transfer → the (from, to) pairs it may have. A pair that is not here does not exist."""

HOLD_STATES: dict[str, frozenset[str]] = {
    "open": frozenset({"settled", "released", "expired"}),
    "expired": frozenset({"settled"}),  # a late settle still posts
    "released": frozenset(),
    "settled": frozenset(),
}
"""State of a hold → the states it may go to."""
