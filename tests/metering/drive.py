"""Drives rows of the table through a running Farebox, and reports deviations from the row."""

import asyncio
import functools
import gzip
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from farebox.ledger.commands import Grant
from farebox.model import AccessToken, Balance, Permission
from farebox.money import parse_usd
from farebox.providers.catalogue import format_of, provider_of, upstream_path
from farebox.providers.formats.base import InvalidRequest, Reference
from farebox.providers.provider import Plain
from farebox.storage.accounts import add_account, add_token, read_balance
from farebox.storage.stored_objects import StoredObject, keep_objects
from farebox.vault import TOKEN_PREFIX
from tests.engines import engine_now
from tests.long import LONG
from tests.metering.cases import Case
from tests.metering.client import Response, fetch
from tests.metering.pace import Pauses, PinnedClock
from tests.metering.upstream import CHUNKINGS, RUN_HEADER, Run, ScriptedUpstream
from tests.support import Farebox

DEFAULT_USD = "1000"
MOMENT = "2026-11-29T12:00:00Z"
"""The default time of the rows' calls: a Sunday at noon, outside of every provider's peak hours."""
TOGETHER = 24
SECONDS = 300.0
GIVE_UP_SECONDS = 120.0


@dataclass
class Outcome:
    """The outcome of a run."""

    chunking: str
    status: int
    wrong: list[str]
    """Deviations from the row."""
    held: int = 0
    charged: int = 0
    written_off: int = 0
    limit: int | None = None
    """The output limit to which the call was clamped, in tokens."""
    reached: bool = False
    """Whether the provider was called."""


@dataclass
class Bench:
    """A server with the scripted upstream behind it, shared by the runs."""

    farebox: Farebox
    upstream: ScriptedUpstream
    pauses: Pauses
    clock: PinnedClock

    def drive(self, cases: Iterable[Case]) -> dict[str, list[Outcome]]:
        """Every run of these cases, by the case's ID."""
        return self.farebox.run(_drive(self, list(cases)), SECONDS * 5)

    def together(self, case: Case, times: int, usd: str) -> list[Outcome]:
        """Run the case this many times concurrently, on one account with this credit."""
        return self.farebox.run(_together(self, case, times, usd), SECONDS)


async def _drive(bench: Bench, cases: list[Case]) -> dict[str, list[Outcome]]:
    outcomes: dict[str, list[Outcome]] = {case.id: [] for case in cases}
    for moment in {case.moment or MOMENT for case in cases}:
        bench.clock.pin(int(datetime.fromisoformat(moment).timestamp() * 1000))
        of_moment = [case for case in cases if (case.moment or MOMENT) == moment]
        for chunking in CHUNKINGS:
            runs = [Run(case, chunking) for case in of_moment if chunking in chunkings_of(case)]
            accounts = await _open_accounts(bench, [run.case.balance_usd or DEFAULT_USD for run in runs])
            await _hand_out(bench, zip([run.case for run in runs], accounts, strict=True))
            gate = asyncio.Semaphore(len(runs) if chunking == "paused" else TOGETHER)
            tasks = [
                asyncio.ensure_future(_one(bench, run, account, gate))
                for run, account in zip(runs, accounts, strict=True)
            ]
            if tasks:
                await asyncio.wait(tasks, timeout=SECONDS)
            for run, task in zip(runs, tasks, strict=True):
                outcomes[run.case.id].append(task.result() if task.done() else Outcome(chunking, 0, ["did not end"]))
    return outcomes


async def _together(bench: Bench, case: Case, times: int, usd: str) -> list[Outcome]:
    bench.clock.pin(int(datetime.fromisoformat(case.moment or MOMENT).timestamp() * 1000))
    account = (await _open_accounts(bench, [usd]))[0]
    await _hand_out(bench, [(case, account)])
    gate = asyncio.Semaphore(times)
    runs = [_one(bench, Run(case, f"whole/{number}"), account, gate) for number in range(times)]
    return list(await asyncio.gather(*runs))


def chunkings_of(case: Case) -> tuple[str, ...]:
    """The chunkings with which a case is driven. Chunks are reassembled before anything is stored, so one chunking is
    enough on PostgreSQL."""
    chunkings = _all_chunkings(case)
    if engine_now() == "postgres":
        return ("events",) if "events" in chunkings else chunkings[:1]
    return chunkings


def _all_chunkings(case: Case) -> tuple[str, ...]:
    if case.only:
        return tuple(case.only)
    if case.refused or case.leaves_after is not None:
        return ("events",)
    chunkings = CHUNKINGS if case.streamed else CHUNKINGS[:4]
    return chunkings if LONG else tuple(each for each in chunkings if each != "random")


async def _open_accounts(bench: Bench, credits: list[str]) -> list[tuple[str, str]]:
    """Accounts with this much credit, each with the secret of a token."""
    services = bench.farebox.services
    at = services.clock.now_ms()
    accounts = [(services.ids.account_id(), TOKEN_PREFIX + services.ids.secret()) for _ in credits]

    def add(connection: Any) -> None:
        for account_id, secret in accounts:
            add_account(connection, account_id, "row", at)
            token = AccessToken(services.ids.log_id(), account_id, "row", frozenset(Permission), at, None, None)
            add_token(connection, token, services.vault.hash_token(secret))

    await services.database.write(add)
    grants = [
        Grant(account_id=account_id, grant_id=services.ids.log_id(), amount=parse_usd(usd), at=at)
        for (account_id, _), usd in zip(accounts, credits, strict=True)
    ]
    await asyncio.gather(*[services.ledger.do(grant) for grant in grants])
    return accounts


async def _hand_out(bench: Bench, rows: Iterable[tuple[Case, tuple[str, str]]]) -> None:
    """Record the objects to which the rows' requests refer as handed out to their accounts by earlier calls."""
    kept = [
        StoredObject(account_id, "default", case.provider, kind, object_id, "", 0)
        for case, (account_id, _) in rows
        for kind, object_id in references_of(case)
    ]
    if kept:
        await bench.farebox.services.database.write(lambda connection: keep_objects(connection, kept))


@functools.cache
def references_of(case: Case) -> tuple[Reference, ...]:
    provider = provider_of(case.provider)
    if not case.tools or provider is None:
        return ()
    path, (body, content_type) = upstream_path(provider, case.path), case.request_body()
    wire = format_of(provider, case.method or "POST", path)
    try:
        return () if isinstance(wire, Plain) else wire.parse(path, content_type, body).references
    except InvalidRequest:
        return ()


async def _one(bench: Bench, run: Run, account: tuple[str, str], gate: asyncio.Semaphore) -> Outcome:
    bench.upstream.runs[run.id] = run
    async with gate:
        bench.pauses.begin()
        try:
            response = await _call(bench, run, account)
        except OSError as error:
            return Outcome(run.chunking, 0, [f"the client sees {error!r}"])
        finally:
            bench.pauses.end()
            del bench.upstream.runs[run.id]
        receipt = await _receipt(bench, response, account)
        balance = await bench.farebox.services.database.get(lambda c: read_balance(c, account[0]))
    assert balance is not None
    wrong = _refusal(run, response) if run.case.refused else _respond(run, response)
    limit = response.headers.get("farebox-output-limit")
    reported = receipt or {}
    return Outcome(
        run.chunking,
        response.status,
        [*wrong, *_money(run, response, receipt, balance)],
        reported.get("hold_nanos", 0),
        reported.get("charge_nanos", 0),
        reported.get("written_off_nanos", 0),
        None if limit is None else int(limit),
        bool(run.requests),
    )


async def _call(bench: Bench, run: Run, account: tuple[str, str]) -> Response:
    account_id, secret = account
    case = run.case
    body, content_type = case.request_body()
    place = f"{bench.farebox.url}/v1/{account_id}/default/{case.provider}/{case.path}"
    headers = {
        "authorization": f"Bearer {secret}",
        "content-type": content_type,
        "accept-encoding": "identity",
        RUN_HEADER: run.id,
        **(case.request_headers or {}),
    }
    last = case.events[case.leaves_after - 1].strip() if case.leaves_after else b""
    response = await fetch(case.method or "POST", place, headers, body, (lambda got: last in got) if last else None)
    run.left.set()
    return response


async def _receipt(bench: Bench, response: Response, account: tuple[str, str]) -> dict[str, Any] | None:
    """The call's receipt; if the client hung up, it may take a moment to appear."""
    log_id = response.headers.get("cf-aig-log-id")
    if log_id is None:
        return None
    url = f"{bench.farebox.url}/client/v4/accounts/{account[0]}/farebox/receipts/{log_id}"
    for _ in range(int(GIVE_UP_SECONDS / 0.02)):
        found = await fetch("GET", url, {"authorization": f"Bearer {account[1]}"})
        if found.status == 200:
            receipt: dict[str, Any] = json.loads(found.body)["result"]
            return receipt
        await asyncio.sleep(0.02)
    return None


def _refusal(run: Run, response: Response) -> list[str]:
    wanted = run.case.refusal
    found = []
    if response.status != wanted["status"]:
        found.append(f"status {response.status}, right is {wanted['status']}: {response.body[:200]!r}")
    if (code := wanted.get("code", "").encode()) not in response.body:
        found.append(f"the refusal does not say {code!r}: {response.body[:300]!r}")
    if run.requests:
        found.append("the refused call reached the provider")
    return found


def _respond(run: Run, response: Response) -> list[str]:
    case, found = run.case, []
    if not run.requests:
        return [f"nothing reached the provider: {response.status} {response.body[:300]!r}"]
    path, _, body = run.requests[-1]
    if len(run.requests) > 1:
        found.append(f"the provider was called {len(run.requests)} times")
    if response.status != (case.status or 200):
        found.append(f"status {response.status}, right is {case.status or 200}: {response.body[:200]!r}")
    forwarded = case.forwarded or {}
    if "path" in forwarded and path != forwarded["path"]:
        found.append(f"the provider was called at {path}, right is {forwarded['path']}")
    found += [
        f"{text!r} was not forwarded: {body[:300]!r}" for text in forwarded.get("has", ()) if text not in str(body)
    ]
    if case.leaves_after is not None:
        return found
    got, wanted = _decoded(response), case.received
    if case.cut and not got.startswith(wanted):
        found.append(f"of {len(wanted)} bytes the client got {len(got)}, and not those: {_first(got, wanted)}")
    elif not case.cut and got != wanted:
        found.append(f"of {len(wanted)} bytes the client got {len(got)}: {_first(got, wanted)}")
    if response.broke and not case.cut:
        found.append("the client saw the answer break off")
    return found


def _decoded(response: Response) -> bytes:
    encoding = response.headers.get("content-encoding", "identity")
    if encoding == "gzip":
        return gzip.decompress(response.body)
    if encoding == "deflate":
        return zlib.decompress(response.body)
    return response.body


def _first(got: bytes, wanted: bytes) -> str:
    same = next((i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), min(len(got), len(wanted)))
    return f"at byte {same} {got[same : same + 60]!r} instead of {wanted[same : same + 60]!r}"


def _money(run: Run, response: Response, receipt: dict[str, Any] | None, balance: Balance) -> list[str]:
    case, found = run.case, []
    right = 0 if case.refused else case.charge
    if right == "hold":
        right = (receipt or {}).get("hold_nanos", 0)
        found += [] if right else ["nothing was held"]
    low, high = right if isinstance(right, list) else (right, right)
    paid = parse_usd(case.balance_usd or DEFAULT_USD) - balance.posted
    if not low <= paid <= high:
        found.append(f"charged {paid:,}, right is {low:,}{f' to {high:,}' * (low != high)} ({case.why})")
    if balance.held:
        found.append(f"{balance.held:,} are still held")
    if receipt is None:
        return found if case.refused else [*found, "there is no receipt"]
    if receipt["charge_nanos"] != paid:
        found.append(f"the receipt says {receipt['charge_nanos']:,}, paid was {paid:,}")
    if case.refused:
        return found
    return found + _told(case, response, receipt)


def _told(case: Case, response: Response, receipt: dict[str, Any]) -> list[str]:
    """Check the notes and fields of the receipt."""
    found = []
    if case.source is not None and receipt["usage_source"] != case.source:
        found.append(f"the receipt's source is {receipt['usage_source']}, right is {case.source}")
    for key in ("policy", "notes"):
        said = str(receipt.get(key) or "")
        found += [
            f"the receipt's {key} do not say {text!r}: {said}" for text in _texts(case.row.get(key)) if text not in said
        ]
        if case.row.get(key, "unsaid") in (None, []) and receipt.get(key):
            found.append(f"the receipt's {key} say {said}")
    lines = {line["meter"]: line["quantity"] for line in receipt.get("lines", ())}
    for meter, quantity in (case.lines or {}).items():
        if lines.get(meter) != str(quantity):
            found.append(f"the receipt has {lines.get(meter)} {meter}, right is {quantity}: {lines}")
    held, limit = receipt.get("hold_nanos", 0), response.headers.get("farebox-output-limit")
    if receipt.get("written_off_nanos"):
        found.append(f"{receipt['written_off_nanos']:,} written off")
    if held < receipt["charge_nanos"] and case.hold != "below":
        found.append(f"held {held:,}, charged {receipt['charge_nanos']:,}")
    if case.hold == "clamped" and limit is None:
        found.append("the output was not clamped")
    return found


def _texts(value: Any) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)
