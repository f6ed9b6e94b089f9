"""Farebox extension: holds for applications that do not send their calls through Farebox. Money is in nano-dollars."""

from typing import Annotated

import msgspec

from farebox.calls import external_holds
from farebox.calls.external_holds import EXPIRES_MAX_MS, EXPIRES_MIN_MS, LABEL_MAX, MODEL_MAX, NOTE_MAX, PROVIDER_MAX
from farebox.http.control.topups import idempotency_key
from farebox.http.control.wire import iso, iso_or_none
from farebox.http.envelope import Response, ok
from farebox.http.request import Request
from farebox.http.validation import invalid
from farebox.money import AMOUNT_MAX
from farebox.storage.app_holds import AppHold

EXPIRES_MS = 600_000
"""How long a hold lasts if the application does not say."""

_Id = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
_Amount = Annotated[int, msgspec.Meta(ge=1, le=AMOUNT_MAX)]
_Charge = Annotated[int, msgspec.Meta(ge=0, le=AMOUNT_MAX)]
_Lifetime = Annotated[int, msgspec.Meta(ge=EXPIRES_MIN_MS, le=EXPIRES_MAX_MS)]


class HoldCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`hold_id` is the application's own name for the work; by default the `Idempotency-Key` header."""

    amount_nanos: _Amount
    """The most that the work can cost."""
    hold_id: _Id | None = None
    expires_in_ms: _Lifetime = EXPIRES_MS
    label: Annotated[str, msgspec.Meta(max_length=LABEL_MAX)] = ""


class HoldExtend(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`amount_nanos` is the total, not an addition; neither amount nor expiry is ever lowered."""

    amount_nanos: _Amount | None = None
    expires_in_ms: _Lifetime | None = None


class HoldSettle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the work cost. Provider and model are counted in usage."""

    amount_nanos: _Charge
    provider: Annotated[str, msgspec.Meta(max_length=PROVIDER_MAX)] = ""
    model: Annotated[str, msgspec.Meta(max_length=MODEL_MAX)] = ""
    note: Annotated[str, msgspec.Meta(max_length=NOTE_MAX)] = ""


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Money held for an application's work."""

    hold_id: str
    state: str
    """open, settled, released, or expired (its money was released; it can still be settled)."""
    asked_nanos: int
    """The amount when the hold was created."""
    amount_nanos: int
    """The current amount, including extensions."""
    charged_nanos: int
    """If settled: what the account was charged."""
    written_off_nanos: int
    """If settled: what the account could not pay."""
    label: str
    provider: str
    model: str
    note: str
    created_at: str
    expires_at: str
    settled_at: str | None


async def create(request: Request, body: HoldCreate) -> Response:
    """Hold money. A request with the same id and amount as before returns the existing hold in its current state."""
    hold_id = body.hold_id or idempotency_key(request)
    if hold_id is None:
        raise invalid("Required (or send an Idempotency-Key)", "body", "hold_id")
    made = await external_holds.create(
        request.services,
        request.account_id,
        hold_id=hold_id,
        amount=body.amount_nanos,
        expires_in_ms=body.expires_in_ms,
        label=body.label,
    )
    return ok(_shown(made), status=201)


async def get(request: Request, _: None) -> Response:
    return ok(_shown(await external_holds.get(request.services, request.account_id, request.path["hold_id"])))


async def extend(request: Request, body: HoldExtend) -> Response:
    extended = await external_holds.extend(
        request.services,
        request.account_id,
        request.path["hold_id"],
        amount=body.amount_nanos,
        expires_in_ms=body.expires_in_ms,
    )
    return ok(_shown(extended))


async def settle(request: Request, body: HoldSettle) -> Response:
    settled = await external_holds.settle(
        request.services,
        request.account_id,
        request.path["hold_id"],
        amount=body.amount_nanos,
        provider=body.provider,
        model=body.model,
        note=body.note,
    )
    return ok(_shown(settled))


async def release(request: Request, _: None) -> Response:
    return ok(_shown(await external_holds.release(request.services, request.account_id, request.path["hold_id"])))


def _shown(hold: AppHold) -> Hold:
    return Hold(
        hold_id=hold.hold_id,
        state=hold.state,
        asked_nanos=hold.asked,
        amount_nanos=hold.amount,
        charged_nanos=hold.charge,
        written_off_nanos=hold.written_off,
        label=hold.label,
        provider=hold.provider,
        model=hold.model,
        note=hold.note,
        created_at=iso(hold.created_at),
        expires_at=iso(hold.expires_at),
        settled_at=iso_or_none(hold.settled_at),
    )
