"""Lists of an account's calls over all its gateways, the latest first: what the pages show.

A list looks at a bounded number of calls, whatever it filters by, and says how far back it got.

Times are milliseconds since the Unix epoch.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from farebox.storage.account_keys import OF_ACCOUNT, key_of
from farebox.storage.call_reports import REQUEST_CONTAINS, any_entry_contains, detail_text, entry_is, rare_text
from farebox.storage.calls import COLUMNS, CallRow, call_of
from farebox.storage.log_totals import id_at
from farebox.storage.sql import Connection, row, rows
from farebox.storage.usage_values import BODY_MAX

LOOKED_AT = 5_000
"""Calls that one list looks at, which takes 20 ms. Older ones are on another page."""
_LAST_ID = "g"
"""Above every log ID."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFilter:
    """Which calls to list; an empty field does not restrict the list. Times in milliseconds: `start` is included, `end`
    is not."""

    gateway_id: str = ""
    provider: str = ""
    model: str = ""
    outcome: str = ""
    """ok, charged, failed, refused."""
    token_id: str = ""
    user: str = ""
    """The end user, named by a header or else by the body."""
    key: str = ""
    """A key of the metadata whose value must be `metadata`. Empty: any key."""
    metadata: str = ""
    """The value of `key`; without a key, text that any value contains."""
    start: int | None = None
    end: int | None = None
    before: str = ""
    """Only calls before this one, with which the previous page ended."""
    looks_at: int = LOOKED_AT
    """How many calls are looked at, if they are looked at one by one."""

    @property
    def selects(self) -> bool:
        """Whether the filter requires looking at calls one by one."""
        named = (self.gateway_id, self.provider, self.model, self.outcome, self.token_id, self.user, self.key)
        return any((*named, self.metadata))


@dataclass(frozen=True, slots=True)
class CallPage:
    """One page of a list. `more` is the call before which the next page begins; empty: there is none. `ended_at`: the
    oldest call that was looked at, where the bound ended the search before the page was full."""

    calls: list[CallRow]
    more: str
    ended_at: int | None


def list_calls(
    connection: Connection, account_id: str, wanted: CallFilter, limit: int, user_of: Callable[[bytes], str | None]
) -> CallPage:
    """The latest logged calls. `user_of` reads the end user from a request body; a page of one user's calls may have
    fewer than `limit` although there are more."""
    key = key_of(connection, account_id)
    low = "" if wanted.start is None else id_at(wanted.start)
    high = min(wanted.before or _LAST_ID, _LAST_ID if wanted.end is None else id_at(wanted.end))
    body = ", request" if wanted.user else ""
    recent = (
        f"SELECT log_id, gateway_id, provider, model, success, charge, detail{body} FROM calls WHERE {OF_ACCOUNT} "
        "AND log_id >= ? AND log_id < ? AND logged = 1 ORDER BY log_id DESC LIMIT ?"
    )
    values: list[object] = [*key, low, high, wanted.looks_at if wanted.selects else limit + 1]
    tests, tested = _tests(wanted)
    found = rows(
        connection,
        f"SELECT log_id FROM ({recent}) AS recent WHERE {tests} ORDER BY log_id DESC LIMIT ?",
        (*values, *tested, limit + 1),
    )
    log_ids = [log_id for (log_id,) in found]
    calls = [] if not log_ids else _calls(connection, account_id, log_ids[:limit])
    if wanted.user:
        calls = [each for each in calls if _user(connection, each, user_of) == wanted.user]
    if len(log_ids) > limit:
        return CallPage(calls, log_ids[limit - 1], None)
    if not wanted.selects:
        return CallPage(calls, "", None)
    oldest = row(
        connection,
        f"SELECT log_id FROM calls WHERE {OF_ACCOUNT} AND log_id >= ? AND log_id < ? AND logged = 1 "
        "ORDER BY log_id DESC LIMIT 1 OFFSET ?",
        (*key, low, high, wanted.looks_at - 1),
    )
    return CallPage(calls, "", None) if oldest is None else CallPage(calls, oldest[0], time_of(oldest[0]))


def find_call(connection: Connection, account_id: str, log_id: str) -> CallRow | None:
    """One call of the account, with the bodies that were stored, whether it is logged or not."""
    found = row(
        connection,
        f"SELECT {COLUMNS}, request, response FROM calls WHERE {OF_ACCOUNT} AND log_id = ?",
        (*key_of(connection, account_id), log_id),
    )
    return None if found is None else call_of(found[:-2], *found[-2:])


def time_of(log_id: str) -> int:
    """When the call began: a log ID begins with its time."""
    return int(log_id.replace("-", "")[:12], 16)


def _calls(connection: Connection, account_id: str, log_ids: list[str]) -> list[CallRow]:
    """The calls with these IDs, which are sorted, latest first. The bounds are for PostgreSQL: it assumes that the
    account is of average size, and would read all calls of a large one."""
    places = ", ".join("?" for _ in log_ids)
    found = rows(
        connection,
        f"SELECT {COLUMNS} FROM calls WHERE {OF_ACCOUNT} AND log_id >= ? AND log_id <= ? AND log_id IN ({places}) "
        "ORDER BY log_id DESC",
        (*key_of(connection, account_id), log_ids[-1], log_ids[0], *log_ids),
    )
    return [call_of(fields) for fields in found]


def _user(connection: Connection, call: CallRow, user_of: Callable[[bytes], str | None]) -> str | None:
    if call.detail.end_user:
        return call.detail.end_user
    found = find_call(connection, call.account_id, call.log_id)
    return None if found is None or found.request_body is None else user_of(found.request_body)


def _tests(wanted: CallFilter) -> tuple[str, list[object]]:
    tests: list[str] = ["TRUE"]
    values: list[object] = []
    named = ((wanted.gateway_id, "gateway_id"), (wanted.provider, "provider"), (wanted.model, "model"))
    for value, sql in (*named, (wanted.token_id, detail_text("token_id"))):
        if value:
            tests.append(f"{sql} = ?")
            values.append(value)
    refused = f"{detail_text('outcome')} = 'refused'"
    if wanted.outcome:
        outcomes = {"ok": "success = 1", "charged": "charge > 0", "failed": f"success = 0 AND NOT {refused}"}
        tests.append(outcomes.get(wanted.outcome, refused))
    if wanted.user:
        end_user = rare_text("end_user")
        spelled = dict.fromkeys(json.dumps(wanted.user, ensure_ascii=way) for way in (True, False))
        in_body = " OR ".join(REQUEST_CONTAINS for _ in spelled)
        tests.append(f"({end_user} = ? OR ({end_user} = '' AND length(request) <= {BODY_MAX} AND ({in_body})))")
        values += [wanted.user, *(text.encode() for text in spelled)]
    if wanted.key:
        tests.append(entry_is())
        values += [wanted.key, wanted.metadata]
    elif wanted.metadata:
        tests.append(any_entry_contains())
        values.append(wanted.metadata)
    return " AND ".join(tests), values
