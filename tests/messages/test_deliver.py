"""Delivery of messages: to every endpoint that wants them, retried after failures, and once after success."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farebox.errors import NOT_FOUND, VALIDATION_FAILED, Problem
from farebox.messages.send import UNREACHABLE
from farebox.messages.sign import message_id
from farebox.operator import deliver, endpoints, messages
from farebox.operator.administer import ActionRefused
from farebox.runtime.services import Services
from farebox.storage.deliveries import claim, due_deliveries, finish
from farebox.storage.notices import new_notices
from farebox.storage.sql import Connection
from tests.engines import TESTER
from tests.messages.kit import (
    ANN,
    BOB,
    START,
    ManualClock,
    Receiver,
    notify,
    open_services,
    receiving,
    sql,
    until,
    verified,
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def services(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Services]:
    async with open_services(tmp_path, clock, webhook_private="allow") as made:
        yield made


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as made:
        yield made


async def operators(services: Services, url: str, *kinds: str) -> endpoints.NewEndpoint:
    """An endpoint of the operator."""
    return await services.database.write(
        lambda c: endpoints.add_endpoint(
            c, services.vault, services.ids, services.settings, account_id=None, url=url, kinds=kinds, at=START
        )
    )


async def states(services: Services) -> list[tuple[Any, ...]]:
    """(notice, attempts, due time relative to the start, whether it was delivered, error)."""
    found = await sql(
        services, "SELECT notice_id, attempts, next_at, delivered_at, last_error FROM deliveries ORDER BY 1, target"
    )
    return [(a, b, None if c is None else c - START, d is not None, e) for a, b, c, d, e in found]


# Where a message goes, and what arrives ---------------------------------------------------------------------------


async def test_a_message_arrives_signed(services: Services, receiver: Receiver) -> None:
    made = await endpoints.create(services, ANN, url=receiver.url, kinds=())
    await notify(services, "low_balance:7", posted_nanos=1_990_000_000, low_below_nanos=2_000_000_000)
    assert await messages.work(services) == 1

    (got,) = receiver.received
    assert verified(made.secret, got.headers, got.body)
    assert not verified(made.secret, got.headers, got.body + b" ")
    assert not verified(made.secret, got.headers | {"webhook-id": "msg_other"}, got.body)
    assert not verified(made.secret, got.headers | {"webhook-timestamp": "1"}, got.body)
    assert got.headers["webhook-timestamp"] == str(START // 1000)
    assert got.headers["content-type"] == "application/json"
    assert got.path == "/hook"
    assert json.loads(got.body) == {
        "type": "low_balance",
        "id": got.headers["webhook-id"],
        "timestamp": "2026-11-18T11:06:40.000Z",
        "account_id": ANN,
        "notice_id": "low_balance:7",
        "data": {"posted_nanos": 1_990_000_000, "low_below_nanos": 2_000_000_000},
    }
    assert await states(services) == [("low_balance:7", 1, None, True, None)]
    assert await messages.work(services) == 0


async def test_which_recipients_get_which_messages(services: Services) -> None:
    async with receiving() as anns, receiving() as picky, receiving() as bobs, receiving() as ours, receiving() as calm:
        await endpoints.create(services, ANN, url=anns.url, kinds=())
        await endpoints.create(services, ANN, url=picky.url, kinds=("refunded",))
        await endpoints.create(services, BOB, url=bobs.url, kinds=())
        await operators(services, ours.url)
        await operators(services, calm.url, "dispute_opened")
        await notify(services, "a", "low_balance")
        await notify(services, "a", "refunded", BOB)
        await messages.work(services)
        got = [[json.loads(item.body)["account_id"] for item in place.received] for place in (anns, picky, bobs, calm)]
        assert got == [[ANN], [], [BOB], []]
        assert sorted(json.loads(item.body)["account_id"] for item in ours.received) == [ANN, BOB]
        assert len({item.headers["webhook-id"] for item in ours.received}) == 2


async def test_a_new_endpoint_does_not_get_earlier_messages(services: Services, receiver: Receiver) -> None:
    await notify(services, "a")
    await messages.work(services)
    await endpoints.create(services, ANN, url=receiver.url, kinds=())
    await messages.work(services)
    assert receiver.received == []


async def test_a_repeated_notice_is_one_message(services: Services, receiver: Receiver) -> None:
    await endpoints.create(services, ANN, url=receiver.url, kinds=())
    await notify(services, "a")
    await messages.work(services)
    await notify(services, "a")
    await messages.work(services)
    assert len(receiver.received) == 1


# When it fails ----------------------------------------------------------------------------------------------------


async def test_a_failing_delivery_is_retried_and_then_abandoned(
    services: Services, receiver: Receiver, clock: ManualClock
) -> None:
    made = await endpoints.create(services, ANN, url=receiver.url, kinds=())
    receiver.responses = [500] * 20
    await notify(services, "a")
    waits = [5, 30, 120, 900, 3_600, 21_600, 86_400, 86_400]
    for number, wait in enumerate(waits, 1):
        assert await messages.work(services) == 1
        assert await states(services) == [("a", number, clock.now - START + wait * 1000, False, "answered 500")]
        clock.now += wait * 1000 - 1
        assert await messages.work(services) == 0
        clock.now += 1
    assert clock.now - START < 3 * 86_400_000
    assert await messages.work(services) == 1
    assert await states(services) == [("a", 9, None, False, "answered 500")]
    clock.now += 30 * 86_400_000
    assert await messages.work(services) == 0
    assert len(receiver.received) == 9
    assert len({item.headers["webhook-id"] for item in receiver.received}) == 1
    assert len({item.body for item in receiver.received}) == 1
    assert all(verified(made.secret, item.headers, item.body) for item in receiver.received)
    assert len({item.headers["webhook-timestamp"] for item in receiver.received}) == 9


@pytest.mark.parametrize("status", [300, 302, 307, 400, 401, 404, 429, 503])
async def test_only_2xx_is_success_and_redirects_are_not_followed(
    services: Services, receiver: Receiver, clock: ManualClock, status: int
) -> None:
    async with receiving() as elsewhere:
        receiver.responses = [status]
        receiver.headers = f"location: {elsewhere.url}\r\n"
        await endpoints.create(services, ANN, url=receiver.url, kinds=())
        await notify(services, "a")
        await messages.work(services)
        assert await states(services) == [("a", 1, 5_000, False, f"answered {status}")]
        clock.now += 5_000
        await messages.work(services)
        assert await states(services) == [("a", 2, None, True, None)]
        assert elsewhere.received == []


async def test_after_410_gone_a_delivery_is_given_up_at_once(services: Services, receiver: Receiver) -> None:
    receiver.responses = [410]
    await endpoints.create(services, ANN, url=receiver.url, kinds=())
    await notify(services, "a")
    await messages.work(services)
    assert await states(services) == [("a", 1, None, False, "answered 410")]


async def test_connection_is_refused(services: Services) -> None:
    async with receiving() as gone:
        url = gone.url
    await endpoints.create(services, ANN, url=url, kinds=())
    await notify(services, "a")
    await messages.work(services)
    assert await states(services) == [("a", 1, 5_000, False, UNREACHABLE)]


async def test_a_removed_endpoint_gets_nothing_more(services: Services, receiver: Receiver, clock: ManualClock) -> None:
    receiver.responses = [500]
    made = await endpoints.create(services, ANN, url=receiver.url, kinds=())
    await notify(services, "a")
    await messages.work(services)
    await endpoints.remove(services, ANN, made.endpoint.endpoint_id)
    clock.now += 86_400_000
    assert await messages.work(services) == 0
    assert await states(services) == [("a", 1, None, False, "the endpoint was removed")]


async def test_one_slow_endpoint_does_not_block_the_others(services: Services, receiver: Receiver) -> None:
    async with receiving() as slow:
        slow.hold = asyncio.Event()
        await endpoints.create(services, ANN, url=slow.url, kinds=())
        await endpoints.create(services, BOB, url=receiver.url, kinds=())
        for number in range(100):
            await notify(services, f"{number}", account_id=ANN)
        round_ = asyncio.create_task(messages.work(services))
        await until(lambda: len(slow.received) == deliver.WEBHOOKS_MAX_EACH)
        for number in range(30):
            await notify(services, f"{number}", account_id=BOB)
        await until(lambda: len(receiver.received) == 30)
        assert len(slow.received) == deliver.WEBHOOKS_MAX_EACH
        slow.hold.set()
        assert await round_ == 130
        assert all(delivered for *_, delivered, _ in await states(services))


async def test_a_round_that_is_stopped_leaves_its_attempts_to_the_next(
    services: Services, receiver: Receiver, clock: ManualClock
) -> None:
    await endpoints.create(services, ANN, url=receiver.url, kinds=())
    receiver.hold = asyncio.Event()
    await notify(services, "a")
    round_ = asyncio.create_task(messages.work(services))
    await until(lambda: len(receiver.received) == 1)
    round_.cancel()
    with pytest.raises(asyncio.CancelledError):
        await round_
    receiver.hold.set()
    assert await messages.work(services) == 0  # the lease of the interrupted attempt has not expired
    clock.now += deliver.LEASE_MS
    assert await messages.work(services) == 1
    assert await states(services) == [("a", 2, None, True, None)]


# Several processes ------------------------------------------------------------------------------------------------


async def test_two_processes_deliver_each_message_once(
    services: Services, receiver: Receiver, tmp_path: Path, clock: ManualClock
) -> None:
    await endpoints.create(services, ANN, url=receiver.url, kinds=())
    for number in range(60):
        await notify(services, f"{number}")
    async with open_services(tmp_path, clock, webhook_private="allow") as other:
        made = await asyncio.gather(*(messages.work(who) for who in (services, other, services, other)))
    assert sum(made) == 60
    assert len(receiver.received) == 60
    assert len({item.headers["webhook-id"] for item in receiver.received}) == 60
    assert await sql(services, "SELECT count(*), sum(attempts), count(delivered_at) FROM deliveries") == [(60, 60, 60)]


async def test_only_the_attempt_with_the_lease_records_the_outcome(services: Services) -> None:
    await operators(services, "http://127.0.0.1:9/")
    await notify(services, "a")
    await services.database.write(lambda c: messages.fan_out(c, services.settings, START, new_notices(c, 9)))
    (due,) = await services.database.scan(lambda c: due_deliveries(c, START, mail=False, without=(), limit=9))
    first = await services.database.write(lambda c: claim(c, due, START + 10))
    assert first is not None
    assert await services.database.write(lambda c: claim(c, due, START + 10)) is None
    second = await services.database.write(lambda c: claim(c, replace(first), START + 20))
    assert second is not None
    late = await services.database.write(lambda c: finish(c, first, next_at=None, delivered_at=None, error="late"))
    assert late is False
    assert await services.database.write(lambda c: finish(c, second, next_at=None, delivered_at=START, error=None))
    assert await states(services) == [("a", 2, None, True, None)]


# Replays ----------------------------------------------------------------------------------------------------------


async def test_a_replay_sends_the_same_message_again(services: Services, receiver: Receiver) -> None:
    await endpoints.create(services, ANN, url=receiver.url, kinds=())
    await notify(services, "a")
    await messages.work(services)
    assert await messages.replay(services, "a", account_id=ANN) == 1
    assert await messages.work(services) == 1
    first, second = receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == message_id(ANN, "a")
    assert first.body == second.body
    for account_id, notice_id in ((BOB, "a"), (ANN, "b")):
        with pytest.raises(Problem) as refused:
            await messages.replay(services, notice_id, account_id=account_id)
        assert refused.value.kind is NOT_FOUND


async def test_a_replay_also_reaches_an_endpoint_made_later(services: Services, receiver: Receiver) -> None:
    await notify(services, "a")
    await messages.work(services)
    await endpoints.create(services, ANN, url=receiver.url, kinds=())
    await messages.replay(services, "a", account_id=ANN)
    await messages.work(services)
    assert len(receiver.received) == 1


async def test_an_owner_replays_to_their_own_endpoints_only(services: Services, receiver: Receiver) -> None:
    await operators(services, receiver.url)
    await notify(services, "a")
    await messages.work(services)
    assert await messages.replay(services, "a", account_id=ANN) == 0
    await messages.work(services)
    assert len(receiver.received) == 1
    found, total = await messages.history(services, ANN, 0, 10)
    assert (total, found[0].notice.notice_id, found[0].deliveries) == (1, "a", [])


async def test_the_operator_replays_to_all_endpoints_or_what_was_given_up(
    services: Services, receiver: Receiver
) -> None:
    await operators(services, receiver.url)
    await endpoints.create(services, ANN, url=receiver.url, kinds=())
    receiver.responses = [410, 204, 204]
    await notify(services, "a")
    await messages.work(services)
    assert await services.database.scan(lambda c: messages.some_given_up(c, BOB)) == []
    found = await services.database.scan(messages.some_given_up)
    assert await services.database.write(lambda c: messages.replay_given_up(c, found, START, by=TESTER)) == 1
    assert await services.database.write(lambda c: messages.replay_given_up(c, found, START, by=TESTER)) == 0
    assert await messages.work(services) == 1
    assert all(delivered for *_, delivered, _ in await states(services))
    settings = services.settings
    assert await services.database.write(lambda c: messages.replay_notice(c, settings, ANN, "a", START, by=TESTER)) == 2
    assert await messages.work(services) == 2
    assert (
        await services.database.write(lambda c: messages.replay_notice(c, settings, ANN, "b", START, by=TESTER)) is None
    )


# Endpoints --------------------------------------------------------------------------------------------------------


async def test_the_secret_is_shown_once_and_stored_encrypted(services: Services, receiver: Receiver) -> None:
    made = await endpoints.create(services, ANN, url=receiver.url, kinds=("refunded", "low_balance"))
    assert made.secret.startswith("whsec_")
    ((stored, kinds),) = await sql(services, "SELECT secret, kinds FROM webhook_endpoints")
    assert made.secret.encode() not in stored
    assert made.secret[6:].encode() not in stored
    assert kinds == '["low_balance", "refunded"]'
    assert made.secret not in repr(made)
    (listed,) = await endpoints.listed(services, ANN)
    assert endpoints.secret_of(services.vault, listed) == made.secret
    assert await endpoints.listed(services, BOB) == []


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/", "example.com", "", "http://", "https://user:pw@example.com/", "https://example.com/#a",
        "https://exa mple.com/", "javascript:alert(1)", "https://example.com/" + "a" * 2048, "https://ex\u00e4mple.com/",
        "https://example.com/\r\nx: y", "https://example.com:99999/",
    ],
)  # fmt: skip
async def test_an_invalid_url_is_refused(services: Services, url: str) -> None:
    with pytest.raises(Problem) as refused:
        await endpoints.create(services, ANN, url=url, kinds=())
    assert refused.value.kind is VALIDATION_FAILED
    assert refused.value.path == ("body", "url")


async def test_kinds_and_counts_are_checked(services: Services) -> None:
    with pytest.raises(Problem) as refused:
        await endpoints.create(services, ANN, url="https://example.com/", kinds=("no_such",))
    assert refused.value.path == ("body", "kinds")
    for _ in range(endpoints.ENDPOINTS_MAX):
        await endpoints.create(services, ANN, url="https://example.com/", kinds=())
    with pytest.raises(Problem, match="10 endpoints"):
        await endpoints.create(services, ANN, url="https://example.com/", kinds=())
    await endpoints.create(services, BOB, url="https://example.com/", kinds=())


async def test_plain_http_is_refused_unless_private_is_allowed(tmp_path: Path, clock: ManualClock) -> None:
    async with open_services(tmp_path, clock) as strict:
        with pytest.raises(Problem, match="https://"):
            await endpoints.create(strict, ANN, url="http://example.com/", kinds=())


async def test_another_accounts_endpoint_is_not_found(services: Services, receiver: Receiver) -> None:
    made = await endpoints.create(services, ANN, url=receiver.url, kinds=())
    for action in (endpoints.remove, endpoints.test):
        with pytest.raises(Problem) as refused:
            await action(services, BOB, made.endpoint.endpoint_id)
        assert refused.value.kind is NOT_FOUND
    with pytest.raises(ActionRefused):
        await services.database.write(lambda c: endpoints.remove_endpoint(c, "we_none", by=TESTER, at=START))


async def test_a_test_message(services: Services, receiver: Receiver) -> None:
    made = await endpoints.create(services, ANN, url=receiver.url, kinds=("refunded",))
    sent = await endpoints.test(services, ANN, made.endpoint.endpoint_id)
    assert (sent.ok, sent.status) == (True, 204)
    (got,) = receiver.received
    assert verified(made.secret, got.headers, got.body)
    assert json.loads(got.body)["type"] == "test"
    receiver.responses = [418]
    sent = await endpoints.test(services, ANN, made.endpoint.endpoint_id)
    assert (sent.ok, sent.status, sent.error) == (False, 418, "answered 418")
    assert await sql(services, "SELECT count(*) FROM deliveries") == [(0,)]


async def test_messages_are_abandoned_under_another_secret_key(services: Services, receiver: Receiver) -> None:
    await endpoints.create(services, ANN, url=receiver.url, kinds=())
    from farebox.vault import Vault

    await notify(services, "a")
    assert await messages.work(replace(services, vault=Vault(b"x" * 32))) == 1
    ((_, attempts, next_at, delivered, error),) = await states(services)
    assert (attempts, next_at, delivered) == (1, None, False)
    assert "does not decrypt" in error
    assert receiver.received == []


# Cards that expire ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expires", "days_before", "reported"),
    [
        ((11, 2026), 0, []),  # a millisecond later
        ((11, 2026), 1, ["7"]),
        ((11, 2026), 7, ["7"]),
        ((11, 2026), 8, ["30"]),
        ((11, 2026), 30, ["30"]),
        ((11, 2026), 31, []),
        ((12, 2026), 3, ["7"]),
    ],
)
async def test_an_expiring_card_is_notified_in_time(
    services: Services, clock: ManualClock, expires: tuple[int, int], days_before: int, reported: list[str]
) -> None:
    month, year = expires
    end = {11: 1_796_083_200_000, 12: 1_798_761_600_000}[month]
    await services.database.write(
        lambda c: c.execute(
            "INSERT INTO cards (bucket, account_id, card_id, brand, last4, exp_month, exp_year, fingerprint, "
            "is_default, created_at) SELECT bucket, account_id, 'pm_1', 'visa', '4242', ?, ?, 'f', 1, 0 FROM accounts "
            "WHERE account_id = ?",
            (month, year, ANN),
        ).fetchall()
    )
    clock.now = end - days_before * 86_400_000
    await messages.daily(services)
    await messages.daily(services)
    found = await sql(services, "SELECT notice_id, kind, content FROM notices")
    assert [notice_id.rsplit(":", 1)[1] for notice_id, _, _ in found] == reported
    for _, kind, content in found:
        assert kind == "card_expiring"
        assert json.loads(content) == {
            "card_id": "pm_1",
            "brand": "visa",
            "last4": "4242",
            "expires": f"{year}-{month:02d}",
            "within_days": int(reported[0]),
        }


async def test_both_expiry_warnings_and_those_of_a_renewed_card(services: Services, clock: ManualClock) -> None:
    end = 1_796_083_200_000
    await services.database.write(
        lambda c: c.execute(
            "INSERT INTO cards (bucket, account_id, card_id, brand, last4, exp_month, exp_year, fingerprint, "
            "is_default, created_at) SELECT bucket, account_id, 'pm_' || account_id, 'visa', '4242', 11, 2026, 'f', "
            "CASE account_id WHEN 'ann' THEN 1 ELSE 0 END, 0 FROM accounts"
        ).fetchall()
    )
    for left in range(40, -3, -1):
        clock.now = end - left * 86_400_000
        await messages.daily(services)
    assert await sql(services, "SELECT account_id, count(*) FROM notices GROUP BY account_id") == [(ANN, 2)]
    await services.database.write(lambda c: c.execute("UPDATE cards SET exp_year = 2029").fetchall())
    clock.now = 1_890_691_200_000 - 20 * 86_400_000  # 1 December 2029
    await messages.daily(services)
    assert await sql(services, "SELECT count(*) FROM notices") == [(3,)]


async def test_many_expiring_cards_are_reported_in_parts(
    services: Services, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other jobs get their turn between the parts."""
    await services.database.write(
        lambda c: c.execute(
            "INSERT INTO cards (bucket, account_id, card_id, brand, last4, exp_month, exp_year, fingerprint, "
            "is_default, created_at) SELECT bucket, account_id, 'pm_' || account_id, 'visa', '4242', 11, 2026, 'f', "
            "1, 0 FROM accounts"
        ).fetchall()
    )
    clock.now = 1_796_083_200_000 - 5 * 86_400_000
    write, counts = services.database.write, list[Any]()

    async def seen(job: Callable[[Connection], None]) -> None:
        await write(job)
        counts.append(await sql(services, "SELECT count(*) FROM notices"))

    monkeypatch.setattr(services.database, "write", seen)
    monkeypatch.setattr(messages, "WARN_AT_ONCE", 1)
    await messages.daily(services)
    assert counts == [[(1,)], [(2,)]]
