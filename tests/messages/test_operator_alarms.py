"""Operator alarms: sent once per day and subject, only to the operator, and open until closed."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from farebox.calendar import DAY_MS
from farebox.errors import NOT_FOUND, Problem
from farebox.operator import endpoints, messages
from farebox.runtime import operator_alarms
from farebox.runtime.operator_alarms import raise_alarm
from farebox.runtime.pending_alarms import SUBJECTS_MAX
from farebox.runtime.services import Services
from farebox.storage.buckets import OPERATOR, bucket_of
from farebox.storage.notices import list_notices
from farebox.storage.operator_alarms import open_alarms, resolve_alarms
from farebox.storage.sql import DatabaseUnavailable
from tests.engines import ON_BOTH_ENGINES
from tests.messages.kit import ANN, START, ManualClock, Receiver, change, open_services, receiving, sql

pytestmark = ON_BOTH_ENGINES


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def services(engine: str, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Services]:
    async with open_services(tmp_path, clock, webhook_private="allow") as made:
        yield made


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as made:
        yield made


async def reported(services: Services) -> list[str]:
    """IDs of the operator's own notices."""
    notices, _ = await services.database.scan(lambda c: list_notices(c, OPERATOR, 0, 100))
    return sorted(notice.notice_id for notice in notices)


async def alarms(services: Services) -> list[tuple[str, str, int, dict[str, Any]]]:
    found = await services.database.scan(open_alarms)
    return [(alarm.kind, alarm.about, alarm.times, alarm.content) for alarm in found]


async def test_an_alarm_is_sent_once_a_day_and_subject_and_counted(services: Services, clock: ManualClock) -> None:
    for status in (401, 402, 429):
        raise_alarm(services, "provider_key_trouble", "openai", status=status)
    raise_alarm(services, "provider_key_trouble", "anthropic", status=401)
    await operator_alarms.work(services)
    raise_alarm(services, "provider_key_trouble", "openai", status=403)
    await operator_alarms.work(services)
    await operator_alarms.work(services)
    assert await alarms(services) == [
        ("provider_key_trouble", "anthropic", 1, {"status": 401}),
        ("provider_key_trouble", "openai", 4, {"status": 403}),
    ]
    today = START // DAY_MS
    expected = [f"provider_key_trouble:anthropic:{today}", f"provider_key_trouble:openai:{today}"]
    assert await reported(services) == expected

    clock.now += DAY_MS
    raise_alarm(services, "provider_key_trouble", "openai", status=401)
    await operator_alarms.work(services)
    assert await reported(services) == [*expected, f"provider_key_trouble:openai:{today + 1}"]
    assert (await alarms(services))[0] == ("provider_key_trouble", "openai", 5, {"status": 401})


async def test_an_alarm_is_sent_to_the_operator_only(services: Services, receiver: Receiver) -> None:
    """Even if the account's owner subscribes to every kind of message."""
    await endpoints.create(services, ANN, url=receiver.url + "/ann", kinds=())
    await services.database.write(
        lambda c: endpoints.add_endpoint(
            c, services.vault, services.ids, services.settings, account_id=None, url=receiver.url, kinds=(), at=START
        )
    )
    raise_alarm(services, "overrun", "openai/acme-1", account=ANN, written_off_nanos=7)
    await operator_alarms.work(services)
    assert await messages.work(services) == 1
    (got,) = receiver.received
    assert got.path == "/hook"
    body = json.loads(got.body)
    assert (body["type"], body["account_id"]) == ("overrun", None)
    assert body["data"] == {"about": "openai/acme-1", "account": ANN, "written_off_nanos": 7}
    assert (await messages.history(services, ANN, 0, 10))[1] == 0
    with pytest.raises(Problem) as caught:
        await messages.replay(services, body["notice_id"], account_id=ANN)
    assert caught.value.kind is NOT_FOUND
    with pytest.raises(Problem):
        await endpoints.create(services, ANN, url=receiver.url, kinds=("overrun",))


async def test_an_alarm_is_mailed_to_the_seller_and_to_no_owner(services: Services) -> None:
    services = replace(
        services, settings=replace(services.settings, smtp_url="smtp://127.0.0.1:1", seller_email="ops@acme.example")
    )
    await change(
        services,
        "INSERT INTO billing_profiles (bucket, account_id, email, updated_at) VALUES (0, ?, 'ann@acme.example', 1)",
        (ANN,),
    )
    raise_alarm(services, "tier_unknown", "openai/acme-1", tier="ultra")
    await operator_alarms.work(services)
    await messages.work(services)
    assert await sql(services, "SELECT account_id, target FROM deliveries") == [("", "mailto:ops@acme.example")]


async def test_a_closed_alarm_opens_again_when_it_is_raised_again(services: Services, clock: ManualClock) -> None:
    for about in ("a", "b"):
        raise_alarm(services, "cost_differs", about, stated="1")
    raise_alarm(services, "overrun", "a")
    await operator_alarms.work(services)
    close = services.database.write
    assert await close(lambda c: resolve_alarms(c, START, kind="cost_differs", about="a")) == 1
    assert await close(lambda c: resolve_alarms(c, START, kind="cost_differs")) == 1
    assert await close(lambda c: resolve_alarms(c, START)) == 1
    assert await alarms(services) == []
    clock.now += 5
    raise_alarm(services, "cost_differs", "b", stated="2")
    await operator_alarms.work(services)
    assert await alarms(services) == [("cost_differs", "b", 1, {"stated": "2"})]
    assert await sql(services, "SELECT first_at FROM operator_alarms WHERE resolved_at IS NULL") == [(START + 5,)]


async def test_unwritable_alarms_are_queued(services: Services) -> None:
    class Away:
        async def write(self, job: object) -> None:
            raise_alarm(services, "overrun", "a", n=2)
            raise DatabaseUnavailable("away")

    away = replace(services, database=cast(Any, Away()))
    raise_alarm(services, "overrun", "a", n=1)
    with pytest.raises(DatabaseUnavailable):
        await operator_alarms.work(away)
    await operator_alarms.keep_last(away)
    await operator_alarms.keep_last(services)
    assert await alarms(services) == [("overrun", "a", 3, {"n": 2})]


async def test_tenant_input_cannot_block_an_alarm(services: Services) -> None:
    """PostgreSQL does not accept NUL, no database accepts lone surrogates, and a terminal interprets control
    characters."""
    raise_alarm(services, "tier_unknown", "openai/acme-1: \0\ud800\x1b[2J", why="a\0b\nc", n=1)
    raise_alarm(services, "provider_key_trouble", "openai", status=401)
    await operator_alarms.work(services)
    assert await alarms(services) == [
        ("provider_key_trouble", "openai", 1, {"status": 401}),
        ("tier_unknown", "openai/acme-1: \ufffd\ufffd\ufffd[2J", 1, {"why": "a\ufffdb\ufffdc", "n": 1}),
    ]


async def test_many_alarms_of_one_kind_do_not_displace_others(services: Services, clock: ManualClock) -> None:
    for day in range(2):
        clock.now += day * DAY_MS
        for number in range(5 * SUBJECTS_MAX):
            raise_alarm(services, "tier_unknown", f"openai/acme-1: tier {number}")
        raise_alarm(services, "provider_key_trouble", "openai", status=401)
        assert services.alarms.dropped == (day + 1) * 4 * SUBJECTS_MAX
    await operator_alarms.work(services)
    kinds = [kind for kind, *_ in await alarms(services)]
    assert (kinds.count("tier_unknown"), kinds.count("provider_key_trouble")) == (SUBJECTS_MAX, 1)


async def test_pending_alarms_are_bounded_and_never_raise(services: Services, clock: ManualClock) -> None:
    for number in range(SUBJECTS_MAX + 5):
        raise_alarm(services, "usage_disbelieved", f"openai/{number}")
    assert services.alarms.dropped == 5
    raise_alarm(services, "usage_disbelieved", "openai/0", text="x" * 10_000)
    raise_alarm(services, "no such kind", "a")
    raise_alarm(services, "overrun", cast(Any, None))
    assert services.alarms.dropped == 7
    await operator_alarms.work(services)
    found = {about: (times, content) for _, about, times, content in await alarms(services)}
    assert len(found) == SUBJECTS_MAX
    assert found["openai/0"] == (2, {"text": "x" * 300})
    clock.now += DAY_MS
    raise_alarm(services, "overrun", "another day")
    assert services.alarms.dropped == 7


def test_the_operators_rows_stay_in_bucket_0() -> None:
    """Even after an installation is copied: `list_notices` and `find_notice` look there."""
    assert {bucket_of(OPERATOR, buckets) for buckets in range(1, 40)} == {0}
