"""Usage by gateway, token, user and metadata: charges are added to stored aggregates after the calls, in steps.

A job does this for accounts that are far behind; a read of the sums first does it for its own account. So accounts
whose sums nobody reads cost few writes, and what is read is current.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import msgspec

from farebox.calendar import HOUR_MS
from farebox.calls.spending.rules import end_user, value_of_metadata
from farebox.runtime.leases import run_exclusive
from farebox.runtime.services import Services
from farebox.storage.usage_values import (
    METADATA,
    Charge,
    Sum,
    SumKey,
    accounts_behind,
    as_of,
    clipped,
    keep,
    new_charges,
)

EVERY_SECONDS = 60.0
BEHIND = 1_000
"""How many transfers an account must be behind before the job adds them."""
STEP = 500
"""Transfers that are added at once: they take a few milliseconds on the thread that decodes them."""
STEPS_OF_A_READ = BEHIND // STEP
"""Maximum number of steps in one read: enough if the job keeps up. If not, the read reports how far its sums go."""
STEPS_OF_A_ROUND = 2_000
PAUSE_SECONDS = 0.01
_ACCOUNTS = 200


class _Detail(msgspec.Struct, frozen=True):
    """The fields of storage.calls.CallDetail that are read here."""

    token_id: str = ""
    end_user: str = ""
    metadata: msgspec.Raw = msgspec.Raw(b"null")


_detail = msgspec.json.Decoder(_Detail).decode
_metadata = msgspec.json.Decoder(dict[str, str | int | float | bool] | None).decode


class _Kind(msgspec.Struct, frozen=True):
    """Properties by which calls are counted together."""

    hour: int
    gateway_id: str
    token_id: str
    user: str
    metadata: bytes


async def work(services: Services) -> None:
    """One round of the job, run by one process for all: accounts that are far behind."""
    await run_exclusive(services, "usage_values", every_ms=0, retry_ms=0, job=_catch_up)


async def _catch_up(services: Services) -> None:
    steps = STEPS_OF_A_ROUND
    for account_id in await services.database.scan(partial(accounts_behind, transfers=BEHIND, limit=_ACCOUNTS)):
        while steps and await _step(services, account_id) >= BEHIND:
            steps -= 1
            await services.clock.sleep(PAUSE_SECONDS)


async def refresh(services: Services, account_id: str) -> int | None:
    """Add the charges that the account's sums lack, unless there are very many. Returns the time up to which the sums
    are complete, in milliseconds; None: they contain every charge."""
    for _ in range(STEPS_OF_A_READ):
        if not await _step(services, account_id):
            break
    return await services.database.scan(partial(as_of, account_id=account_id))


async def _step(services: Services, account_id: str) -> int:
    """Add the next charges. Returns how many transfers remain."""
    new = await services.database.scan(partial(new_charges, account_id=account_id, limit=STEP))
    if new.upto == new.after:
        return 0
    sums = sum_charges(new.charges)
    await services.database.write(partial(keep, new=new, sums=sums, now=services.clock.now_ms()))
    return new.left


def sum_charges(charges: Sequence[Charge]) -> Mapping[SumKey, Sum]:
    """The sums of the charges for each dimension, hour and value."""
    kinds = dict[_Kind, Sum]()
    for each in charges:
        detail = _detail(each.detail or "{}")
        user = detail.end_user or (end_user(each.request) if each.request else None) or ""
        kind = _Kind(each.at - each.at % HOUR_MS, each.gateway_id, detail.token_id, user, bytes(detail.metadata))
        found = kinds.setdefault(kind, Sum())
        if each.part:
            found.charge += each.amount
        else:
            found.add(1, each.amount, each.tokens_in, each.tokens_out)
    places = dict[SumKey, Sum]()
    for kind, found in kinds.items():
        for dimension, value in _values(kind):
            place = SumKey(dimension, kind.hour, value)
            places.setdefault(place, Sum()).add(found.calls, found.charge, found.tokens_in, found.tokens_out)
    return places


def _values(kind: _Kind) -> Iterator[tuple[str, str]]:
    """Pairs of dimension and value; a call without a token or a user has an empty value."""
    yield "gateway", clipped(kind.gateway_id)
    yield "token", kind.token_id
    yield "user", clipped(kind.user)
    for name, value in (_metadata(kind.metadata) or {}).items():
        key = clipped(name)
        if key:
            yield METADATA, key
            yield f"{METADATA}.{key}", clipped("".join(value_of_metadata(value)))
