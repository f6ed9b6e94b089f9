"""What a journal stores about one call: the end of its hold, its row and its receipt, as far as they are known before
the ledger's verdict."""

from dataclasses import dataclass
from typing import Literal

import msgspec
from msgspec.structs import replace

from farebox.ledger.commands import CallWritten, Release, Settle, Verdict
from farebox.pricing.receipt import Receipt
from farebox.pricing.stored_receipt import stored
from farebox.runtime.verdicts import notes_of
from farebox.storage.calls import CallRow


class JournalEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a journal. Amounts are in nano-dollars, times in milliseconds."""

    ends: Literal["settle", "release", "nothing"]
    """How the hold ends; `nothing` if there was none."""
    at: int
    amount: int = 0
    """The amount to charge."""
    note: str = ""
    counts: int | None = None
    """The amount that counts in budgets, if it differs from the charge."""
    call: CallRow
    """The call's row without its charge and receipt, which the ledger decides."""
    receipt: Receipt
    """The receipt for a charge of zero."""

    @property
    def command(self) -> Settle | Release | None:
        """The command for the ledger: always the same, so that a repeat finds its own effect."""
        account_id, hold_id, record = self.call.account_id, self.call.log_id, JournaledCall(self.call, self.receipt)
        if self.ends == "settle":
            return Settle(
                account_id=account_id, hold_id=hold_id, amount=self.amount, at=self.at, record=record, note=self.note,
                counts=self.counts,
            )  # fmt: skip
        if self.ends == "release":
            return Release(account_id=account_id, hold_id=hold_id, at=self.at, record=record)
        return None

    @property
    def record(self) -> "JournaledCall":
        return JournaledCall(self.call, self.receipt)


@dataclass(frozen=True, slots=True)
class JournaledCall(CallWritten):
    """The record of a call as restored from a journal."""

    call: CallRow
    receipt: Receipt

    @property
    def at(self) -> int:
        """When the call began: it is counted in that hour."""
        return self.call.created_at

    def row(self, verdict: Verdict) -> CallRow:
        """The call's row, with the charge that the ledger took."""
        receipt = replace(
            self.receipt,
            charge_nanos=verdict.amount,
            written_off_nanos=verdict.written_off,
            notes=(*self.receipt.notes, *notes_of(verdict)),
        )
        call = self.call
        return replace(call, charge=verdict.amount, receipt=stored(receipt, call.model, call.cost))


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(JournalEntry).decode
