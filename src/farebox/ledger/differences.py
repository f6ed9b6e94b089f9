"""What the audit can find: stable names, and one difference as a value."""

from dataclasses import dataclass

NODE_UNAVAILABLE = "node_away"
"""Not a difference, but accounts that could not be checked: those in one bucket."""
WHAT: dict[str, str] = {
    NODE_UNAVAILABLE: "they were not checked, because their node of the database is unavailable",
    "account_missing": "it has rows in the ledger but is not in the directory",
    "balance_missing": "it has no balance row",
    "balance_posted": "`posted` is not the sum of its transfers",
    "balance_held": "`held` is not the sum of its open holds",
    "balance_bounds": "`held` is below zero or above `posted`",
    "balance_owed": "`owed` is not what was taken back beyond what there was, less what was collected",
    "balance_version": "`version` is not the number of its latest transfer",
    "transfer_version": "its transfers are not numbered 1, 2, 3 …",
    "transfer_books": "a transfer of this kind may not go between these books",
    "transfer_amount": "the transfer's amount is not above zero",
    "transfer_repeated": "more than one transfer has this id",
    "transfer_overdraws": "with this transfer the sum of all so far is below zero",
    "transfer_lot": "the transfer fills a lot that is not named after it",
    "transfer_collects": "the transfer collects more than was owed",
    "given_back": "the transfer gives back more than was taken by the refund or dispute of its id",
    "lot_missing": "the lot that the transfer filled is not there",
    "lot_opening": "the lot's amount is not that of the transfer that filled it",
    "lot_overdrawn": "the transfer takes more than was left of its lot",
    "lot_remaining": "what is left of the lot is not what went in less what went out",
    "lot_spent": "the lot is marked as spent while something is left of it, or the other way round",
    "hold_state": "the hold's state is not known",
    "hold_amount": "the hold keeps less than was asked for, or a negative amount",
    "hold_charge": "the hold's charge less what was written off is not the sum of its charge transfers",
    "hold_write_off": "what the hold says was written off is not its write_off transfer",
    "charge_unsettled": "the transfer charges a hold that is not settled",
    "hold_counted": "what the hold counts in budgets is not what it was charged",
    "budget_missing": "an open hold reserves something in a budget that has no counter for it",
    "budget_spent": "what a budget says is spent is not the sum of what the settled holds count in it",
    "budget_held": "what a budget says is held is not the sum of what the open holds reserve in it",
    "call_charge": "the call's row says another charge than its hold",
    "usage_hour": "the hour's sum is not the sum of its calls and of the charges without one",
    "corrected_calls": "the calls that the correction names do not add up to what it moved",
    "limit_spent": "the sum kept for the spending limit is not that of the hours it counts",
}
"""Stable name of each difference → what it says about an account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A contradiction between two records in the ledger. Amounts in nano-dollars."""

    account_id: str
    what: str
    """A key of WHAT."""
    expected: int | str | None
    found: int | str | None
    transfer_id: str | None = None
    """The transfer; for lots the one that filled it, which has the lot's id."""
    hold_id: str | None = None
    """The hold, or the call of the same id."""

    @property
    def message(self) -> str:
        if self.what == NODE_UNAVAILABLE:
            return f"accounts {self.account_id}: {WHAT[self.what]}"
        where = "".join(
            f", {noun} {name}" for noun, name in (("transfer", self.transfer_id), ("hold", self.hold_id)) if name
        )
        return f"account {self.account_id}{where}: {WHAT[self.what]} (expected {self.expected}, found {self.found})"
