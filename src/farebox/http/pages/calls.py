"""Calls: a list whose filters are in its address, and the page of one call, with its receipt explained."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import urlencode

from farebox import errors
from farebox.calls import logs
from farebox.calls.spending.rules import end_user
from farebox.detection.profiles import API_KEYS
from farebox.errors import NOT_FOUND, ErrorKind, Problem
from farebox.http.pages import labels, replay
from farebox.http.pages.receipts import explain_receipt
from farebox.http.pages.table import BUILD, Shown
from farebox.http.pages.times import moment
from farebox.http.pages.timing import timing_of
from farebox.http.pages.token_names import tokens_to_choose
from farebox.http.pages.visit import Visit
from farebox.storage.accounts import token_labels
from farebox.storage.call_lists import CallFilter, find_call, list_calls
from farebox.storage.gateways import list_gateways

PER_PAGE = 30
_NAMES = ("gateway", "provider", "model", "outcome", "token", "user", "key", "metadata", "from", "to")
_LOG_ID = re.compile(r"[0-9a-f-]{36}")
_SHOWN_BYTES = 32_768
"""Bytes of a body that the page of a call shows."""
_VALUE_MAX = 256
_LIVE_LOOKS_AT = 500
"""Calls that are looked at every two seconds for a live list."""

OUTCOMES = {
    "": "all",
    "ok": "answered, or from the cache",
    "failed": "failed",
    "refused": "refused",
    "charged": "any that was charged",
}
"""The states of calls, in the words of `labels.call_state`; and the charged calls, whatever their state."""


async def call_list(visit: Visit) -> Shown:
    """The latest calls that match the filters in the address."""
    services, account_id = visit.services, visit.account_id
    given, faults = _given(visit), list[str]()
    wanted = _wanted(visit, given, faults)
    live = _is_live(wanted)
    seen = await latest(visit) if live else ""
    page = await services.database.scan(
        lambda connection: list_calls(connection, account_id, wanted, PER_PAGE, end_user)
    )
    gateways = await services.database.scan(partial(list_gateways, account_id=account_id))
    shown = [given.get("token", ""), *(call.detail.token_id for call in page.calls)]
    tokens = await services.database.scan(partial(tokens_to_choose, account_id=account_id, also=shown, at=visit.now))
    return {
        "page": page,
        "looks_at": wanted.looks_at,
        "given": {name: given.get(name, "") for name in _NAMES},
        "faults": faults,
        "filtered": bool(given) or bool(wanted.before),
        "older": f"/ui/calls?{urlencode({**given, 'before': page.more})}" if page.more else "",
        "newest": f"/ui/calls?{urlencode(given)}" if wanted.before else "",
        "seen": seen,
        "live": f"events?{urlencode({**given, 'of': 'calls'})}" if live else "",
        "gateways": [gateway.gateway_id for gateway in gateways],
        "tokens": tokens,
        "outcomes": OUTCOMES,
        "builders": BUILD,
    }


def is_live(visit: Visit) -> bool:
    """Whether the list at this address is live."""
    return _is_live(_wanted(visit, _given(visit), []))


def _is_live(wanted: CallFilter) -> bool:
    """Whether the list is live. Not with the end-user filter: searching the bodies of calls every two seconds would be
    too expensive."""
    return not (wanted.before or wanted.user or wanted.end is not None)


async def latest(visit: Visit) -> str:
    """A text that changes when the list does: when a call is added and, without filters, also when one changes."""
    account_id, wanted = visit.account_id, _wanted(visit, _given(visit), [])
    recent = replace(wanted, looks_at=_LIVE_LOOKS_AT)
    page = await visit.services.database.scan(
        lambda connection: list_calls(connection, account_id, recent, PER_PAGE, end_user)
    )
    # With filters, older ones may drop out of the 500 calls looked at, but stay in the list.
    shown = page.calls[:1] if wanted.selects else page.calls
    return hashlib.sha256(" ".join(call.log_id for call in shown).encode()).hexdigest()[:16]


def _wanted(visit: Visit, given: Mapping[str, str], faults: list[str]) -> CallFilter:
    """The filter in the address; parts that are not understood are added to `faults`."""
    before = dict(visit.request.query_pairs()).get("before", "")
    return CallFilter(
        gateway_id=given.get("gateway", ""),
        provider=given.get("provider", ""),
        model=given.get("model", ""),
        outcome=given.get("outcome", "") if given.get("outcome") in OUTCOMES else "",
        token_id=given.get("token", ""),
        user=given.get("user", ""),
        key=given.get("key", ""),
        metadata=given.get("metadata", ""),
        start=moment(given.get("from", ""), faults),
        end=moment(given.get("to", ""), faults),
        before=before if _LOG_ID.fullmatch(before) else "",
    )


def _given(visit: Visit) -> dict[str, str]:
    """The filters that are set."""
    pairs = dict(visit.request.query_pairs())
    return {name: pairs[name].strip()[:_VALUE_MAX] for name in _NAMES if pairs.get(name, "").strip()}


# --- one call ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call failed on our side: the kind of error, and what to do about it."""

    name: str
    remedy: str


async def one_call(visit: Visit) -> Shown:
    """One call: the request and response, what it cost and why."""
    services, account_id = visit.services, visit.account_id
    log_id = visit.request.path["log_id"]
    call = await services.database.scan(partial(find_call, account_id=account_id, log_id=log_id))
    if call is None:
        raise Problem(NOT_FOUND, "This call does not exist")
    receipt = await logs.receipt(services, account_id, log_id) if call.receipt is not None else None
    token_id = call.detail.token_id
    named = await services.database.scan(partial(token_labels, account_id=account_id, token_ids=[token_id]))
    sees = visit.may(BUILD)
    return {
        "title": f"Call of {call.provider}/{call.model}",
        "call": call,
        "detail": call.detail,
        "token": named.get(token_id, token_id[:8]),
        "state": labels.call_state(call),
        "refusal": _refusal(call.detail.error),
        "receipt": None if receipt is None else explain_receipt(receipt, services.configuration.prices),
        "sees": sees,
        "request_body": _body(call.request_body) if sees else None,
        "response_body": _body(call.response_body) if sees else None,
        "replays": [(name, masked(text)) for name, text in replay.snippets(services.base_url, call)] if sees else [],
        "timing": timing_of(call, services.settle_times.of(log_id)),
    }


def _refusal(name: str) -> Refusal | None:
    kinds = {kind.name: kind for kind in vars(errors).values() if isinstance(kind, ErrorKind)}
    if not name:
        return None
    return Refusal(name, kinds[name].remedy if name in kinds else "")


_SECRETS = re.compile(
    "|".join(
        [
            # Up to its end, or the end of the JSON string that contains it.
            r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?:[A-Za-z0-9+/=:,.\s-]|\\+[nrt])*",
            r"\beyJ[A-Za-z0-9_-]+\.eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*",  # a JSON Web Token
            *(detector.pattern for detector in API_KEYS.detectors),
        ]
    )
)
_KEPT = re.compile(r"-----BEGIN [A-Z0-9 ]+-----|[A-Za-z0-9]{1,6}[-_]|.{4}")
"""The beginning of a masked secret that is kept: enough to tell which key it is."""
_SECRET_MIN = 10
"""Minimum length: shorter than any key, but longer than most words that begin like one."""


def masked(text: str) -> str:
    """The text with everything masked that looks like a key. These are the guardrails' patterns, but in doubtful cases
    more is masked than they would block."""
    return _SECRETS.sub(_mask, text)


def _mask(found: re.Match[str]) -> str:
    if len(found[0]) < _SECRET_MIN:
        return found[0]
    kept = _KEPT.match(found[0])
    return f"{kept[0] if kept else ''}…"


def _body(body: bytes | None) -> tuple[str, int] | None:
    """The beginning of a stored body as text, and how many bytes of it are not shown."""
    if body is None:
        return None
    text = masked(replay.pretty(body[:_SHOWN_BYTES]))
    return text, max(0, len(body) - _SHOWN_BYTES)
