"""What needs the operator, with what to do about it beside it: the first lines of the page "Accounts"."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final

from farebox.http.pages import labels
from farebox.http.pages.attention import Attention
from farebox.http.pages.operator_keys import keys_of
from farebox.http.pages.table import OPERATOR
from farebox.http.pages.view import Tone
from farebox.http.pages.visit import Visit
from farebox.messages.email_templates import SUBJECTS
from farebox.runtime.services import Services
from farebox.storage.buckets import OPERATOR as OPERATORS_OWN
from farebox.storage.config import list_provider_keys, list_providers
from farebox.storage.deliveries import count_given_up
from farebox.storage.findings import count_open
from farebox.storage.operator_alarms import Alarm, latest_alarms
from farebox.storage.refunds import count_open_disputes
from farebox.storage.sql import Connection

SHOWN: Final = 5
"""Alarms and keys, each."""
COUNTED: Final = 100
"""Findings, disputes and deliveries, as far as they are counted."""
_ABOUT_MAX: Final = 120
_ACTIONS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "provider_key_trouble": ("See the keys", "/ui/provider-keys"),
        "cost_differs": ("See the prices", "/ui/prices"),
        "tier_unknown": ("See the prices", "/ui/prices"),
        "bill_differs": ("See the margins", "/ui/margins"),
    }
)
"""What is done about an alarm, besides closing it."""


@dataclass(frozen=True, slots=True)
class _Stored:
    alarms: list[Alarm]
    findings: int
    disputes: int
    given_up: int
    slugs: list[str]


async def operator_attention(visit: Visit) -> list[Attention]:
    """What needs the operator, the most urgent first."""
    services = visit.services
    ready = await services.readiness.check()
    found: list[Attention] = []
    if ready.failure is not None:
        text = f"Calls are refused: the database is “{ready.failure.state}”."
        found.append(_line("bad", text, "See the system", "/ui/system"))
    if ready.journal == "unwritable":
        found.append(_line("bad", "The journal cannot be written.", "See the system", "/ui/system"))
    elif ready.journal == "waiting":
        found.append(_line("warn", "Charges are waiting in the journal to be posted.", "See the system", "/ui/system"))
    found += _jobs(services)
    stored = await services.database.scan(_stored)
    found += _alarms(stored.alarms)
    found += _counts(stored)
    found += _paused_keys(services, stored.slugs)
    return sorted(found, key=lambda each: each.tone != "bad")


def _stored(connection: Connection) -> _Stored:
    slugs = {row.name for row in list_providers(connection)} | {row.provider for row in list_provider_keys(connection)}
    return _Stored(
        latest_alarms(connection, SHOWN + 1),
        count_open(connection, COUNTED + 1),
        count_open_disputes(connection, COUNTED + 1),
        count_given_up(connection, COUNTED + 1),
        sorted(slugs),
    )


def _jobs(services: Services) -> Iterator[Attention]:
    """Background jobs of this process."""
    for name in services.jobs.late():
        yield _line("bad", f"The background job {name} is stuck.", "See the jobs", "/ui/system#jobs")
    for name in services.jobs.failing():
        yield _line("bad", f"The background job {name} keeps failing.", "See the jobs", "/ui/system#jobs")


def _alarms(alarms: list[Alarm]) -> Iterator[Attention]:
    for alarm in alarms[:SHOWN]:
        action, path = _ACTIONS.get(alarm.kind, ("See the alarm", "/ui/system#alarms"))
        about = f"{alarm.about}." if len(alarm.about) <= _ABOUT_MAX else f"{alarm.about[:_ABOUT_MAX]}…"
        yield _line("bad", f"{SUBJECTS.get(alarm.kind, alarm.kind)}: {about}", action, path)
    if len(alarms) > SHOWN:
        yield _line("bad", "There are more alarms.", "See all alarms", "/ui/system#alarms")


def _counts(stored: _Stored) -> Iterator[Attention]:
    counted = partial(labels.counted, most=COUNTED)
    if stored.disputes:
        text = counted(stored.disputes, "dispute is", "disputes are")
        text += " undecided: answer the bank at the payment processor."
        yield _line("bad", text, "See the disputes", "/ui/money?view=disputes")
    if stored.findings:
        text = f"{counted(stored.findings, 'finding is', 'findings are')} open: "
        text += "Farebox’s books and the payment processor’s differ."
        yield _line("warn", text, "See the findings", "/ui/money?view=findings")
    if stored.given_up:
        text = f"{counted(stored.given_up, 'delivery', 'deliveries')} of messages failed."
        yield _line("warn", text, "See the messages", "/ui/messages")


def _paused_keys(services: Services, slugs: list[str]) -> list[Attention]:
    """Keys that this process does not use for a while, at all or for a model, because their provider refused them or
    limits their rate."""
    now, found = services.clock.now_ms(), list[Attention]()
    pauses = defaultdict[str, dict[str, int]](dict)
    for (key_id, model), until in services.paused_keys.of(OPERATORS_OWN).items():
        if until > now:
            pauses[key_id][model] = until
    for slug in slugs:
        access = services.configuration.provider(slug)
        for key in () if access is None else keys_of(access):
            if key.key_id in pauses:
                text = f"A key at {slug} is paused {_paused(pauses[key.key_id])}: "
                text += "the provider refused it or limited its rate."
                found.append(_line("warn", text, "See the keys", "/ui/provider-keys"))
    return found[:SHOWN]


def _paused(pauses: dict[str, int]) -> str:
    """`pauses`: until when, by model; for the empty one, for all models."""
    if "" in pauses:
        return f"until {labels.second(pauses[''])}"
    model, until = max(pauses.items(), key=lambda pause: pause[1])
    if len(pauses) > 1:
        return f"for {len(pauses)} models, the longest until {labels.second(until)}"
    return f"for {model[:_ABOUT_MAX]} until {labels.second(until)}"


def _line(tone: Tone, text: str, action: str, path: str) -> Attention:
    return Attention(tone, text, action, path, OPERATOR)
