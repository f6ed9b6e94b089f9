"""How much of the server one account may use: bytes of bodies, and calls in flight."""

import asyncio
import gzip
import json
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farebox.calls.large_body import LARGE_BODY
from farebox.http.request import BODY_MAX
from farebox.http.webhooks import BODY_LIMIT as WEBHOOK_MAX
from farebox.limits.byte_budget import UNCLAIMED_SHARE
from farebox.operator import prices
from farebox.payments.model import TopUpRule
from farebox.storage.accounts import find_account
from farebox.storage.sql import Connection
from farebox.storage.top_up_rules import save_rule
from tests.calls.gate import SLUG, Gate, gated
from tests.calls.kit import forget, set_price, within
from tests.calls.wire import COMPAT, Wire, WireResponse, chat_body
from tests.engines import ON_BOTH_ENGINES, TESTER
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import eventually, until

pytestmark = ON_BOTH_ENGINES

MIB = 2**20
ACCOUNT_MAX = 4 * MIB
CALLS_MAX = 3
CALLS_MAX_OF_ALL = 8


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    """A server with 16 MiB and eight calls in total, 4 MiB and three calls per account."""
    with running_farebox(
        tmp_path_factory.mktemp("little"),
        held_bytes_max=16 * MIB,
        account_held_bytes_max=ACCOUNT_MAX,
        body_limit_bytes=3 * MIB,
        account_calls_max=CALLS_MAX,
        calls_max=CALLS_MAX_OF_ALL,
        trusted_proxies="127.0.0.1",
    ) as served:
        yield served


@pytest.fixture(autouse=True)
def _all_is_given_back(farebox: Farebox) -> Iterator[None]:
    yield
    until(lambda: farebox.services.held.held_bytes == 0, "everything given back")
    assert farebox.services.held.by_account == {}
    assert farebox.services.held.anonymous_bytes == 0
    assert farebox.services.calls.by_account == {}


@pytest.fixture
def without_credit(farebox: Farebox) -> Customer:
    """An account without credit, and a token."""
    account_id = farebox.create_account()
    return Customer(farebox, account_id, farebox.create_token(account_id))


@pytest.fixture
def gate(farebox: Farebox) -> Iterator[Gate]:
    with gated(farebox) as gate:
        yield gate


async def begin(customer: Customer, length: int | None, *sent: bytes, path: str = COMPAT, **headers: str) -> Wire:
    """Send the first `sent` bytes of a request with this declared length (None: in chunks). The path is that of a call,
    or starts with a slash."""
    wire = await Wire.open(customer.farebox.url)
    named = {"content-type": "application/json", **customer.headers}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    named |= {"transfer-encoding": "chunked"} if length is None else {"content-length": str(length)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    whole_path = path if path.startswith("/") else f"/v1/{customer.account_id}/default/{path}"
    wire._writer.write(f"POST {whole_path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{lines}\r\n".encode())
    for piece in sent:
        wire._writer.write(piece if length is not None else b"%x\r\n%b\r\n" % (len(piece), piece))
    return wire


async def holds(customer: Customer, size: int) -> None:
    """Wait until the account holds this many bytes."""
    held = customer.farebox.services.held
    await eventually(lambda: held.by_account.get(customer.account_id, 0) == size, f"{size} bytes held")


async def no_credit(customer: Customer, length: int | None, path: str = COMPAT, **headers: str) -> None:
    """Check that the request is refused for lack of credit before its body is read."""
    wire = await begin(customer, length, path=path, expect="100-continue", **headers)
    response = await within(wire.response())
    assert (response.status, response.code) == (402, 2021)
    assert "was not read" in response.json()["errors"][0]["message"]


async def is_asked_for(customer: Customer, length: int | None, path: str = COMPAT, **headers: str) -> None:
    """Check that the server reads the request's body."""
    wire = await begin(customer, length, path=path, expect="100-continue", **headers)
    await within(wire.head())
    assert wire.status == 100
    wire.hang_up()


async def test_a_large_body_of_an_account_without_credit_is_refused_unread(without_credit: Customer) -> None:
    for length in (LARGE_BODY + 1, None):
        await no_credit(without_credit, length)
        await no_credit(without_credit, length, "demo/chat/completions")


async def test_a_refusal_is_readable_while_the_client_still_sends(without_credit: Customer) -> None:
    wire = await begin(without_credit, 2 * MIB, b" " * 2 * MIB)  # the whole body, before the response is read
    response = await within(wire.response())
    assert (response.status, response.code) == (402, 2021)


async def test_a_body_that_may_be_served_is_read(
    farebox: Farebox, without_credit: Customer, customer: Customer
) -> None:
    await is_asked_for(customer, 2 * MIB)
    await is_asked_for(without_credit, LARGE_BODY)
    await is_asked_for(
        without_credit, 2 * MIB, "openai/chat/completions", authorization="Bearer sk-own", **own(without_credit)
    )
    await is_asked_for(without_credit, 2 * MIB, "openai/moderations")  # free
    await is_asked_for(without_credit, 2 * MIB, "")  # its steps may have their own keys


def own(customer: Customer) -> dict[str, str]:
    return {"cf_aig_authorization": f"Bearer {customer.token}"}


async def test_a_body_for_a_free_model_or_during_an_auto_top_up_is_read(
    farebox: Farebox, without_credit: Customer
) -> None:
    services, account_id = farebox.services, without_credit.account_id

    def add_price(connection: Connection) -> None:
        rates = {"input_mtok": "0", "output_mtok": "0"}
        prices.set_price(
            connection,
            services.ids,
            by=TESTER,
            provider="demo",
            model="gratis",
            rates=rates,
            account_id=account_id,
            at=services.clock.now_ms() - 1000,
        )

    await no_credit(without_credit, 2 * MIB)
    await asyncio.to_thread(farebox.run, services.database.write(add_price))
    await asyncio.to_thread(forget, farebox)
    await is_asked_for(without_credit, 2 * MIB)
    text = "word " * (LARGE_BODY // 5 + 1)
    response = await asyncio.to_thread(without_credit.chat, text, model="demo/gratis")
    assert response.status_code == 200, response.text

    other = await asyncio.to_thread(farebox.create_account)
    buyer = Customer(farebox, other, await asyncio.to_thread(farebox.create_token, other))
    await no_credit(buyer, 2 * MIB)

    def add_rule(connection: Connection) -> None:
        account = find_account(connection, other)
        assert account is not None
        save_rule(
            connection,
            account.bucket,
            TopUpRule(account_id=other, amount_cents=1000, threshold_cents=500, monthly_cap_cents=10_000),
        )

    await asyncio.to_thread(farebox.run, services.database.write(add_rule))
    await is_asked_for(buyer, 2 * MIB)


async def test_bodies_beyond_the_accounts_bytes_are_refused_before_they_are_read(customer: Customer) -> None:
    first = await begin(customer, 3 * MIB, b"{")
    await holds(customer, 3 * MIB)
    second = await begin(customer, 2 * MIB, expect="100-continue")
    response = await within(second.response())
    assert (response.status, response.code) == (503, 2919)
    assert "this account's calls" in response.json()["errors"][0]["message"]
    assert response.headers["retry-after"] == "2"
    other = await asyncio.to_thread(customer.farebox.funded)
    assert (await asyncio.to_thread(other.chat)).status_code == 200
    first.hang_up()
    await holds(customer, 0)
    await is_asked_for(customer, 2 * MIB)


async def test_a_body_in_chunks_is_counted_as_it_comes(customer: Customer) -> None:
    first = await begin(customer, 3 * MIB, b"{")
    await holds(customer, 3 * MIB)
    second = await begin(customer, None, *[b" " * 65536] * 20)
    response = await within(second.response())
    assert (response.status, response.code) == (503, 2919)
    first.hang_up()


async def test_the_decoded_size_of_a_compressed_body_is_counted(customer: Customer) -> None:
    first = await begin(customer, 2 * MIB, b"{")
    await holds(customer, 2 * MIB)
    filled = json.dumps({"model": "demo/demo-1", "messages": [], "filling": "farebox " * (5 * MIB // 16)}).encode()
    bomb = gzip.compress(filled, 1)
    second = await begin(customer, len(bomb), bomb, content_encoding="gzip")
    response = await within(second.response())
    assert (response.status, response.code) == (503, 2919)
    first.hang_up()


async def test_no_account_gets_more_than_half_of_what_the_others_leave(farebox: Farebox) -> None:
    customers = [await asyncio.to_thread(farebox.funded) for _ in range(4)]
    wires = []
    for customer in customers[:3]:
        wires += [await begin(customer, 2 * MIB, b"{") for _ in range(2)]
        await holds(customer, 4 * MIB)
    late = await begin(customers[3], 3 * MIB, expect="100-continue")
    response = await within(late.response())
    assert (response.status, response.code) == (503, 2920)
    assert "fair share" in response.json()["errors"][0]["message"]
    await is_asked_for(customers[3], MIB)
    for wire in wires:
        wire.hang_up()


async def test_an_accounts_concurrent_calls_are_limited(farebox: Farebox, customer: Customer, gate: Gate) -> None:
    gate.shut()
    await asyncio.to_thread(set_price, farebox, SLUG, "*")
    body = chat_body(model=f"{SLUG}/anything")
    wires = [await begin(customer, len(body), body) for _ in range(CALLS_MAX)]
    await eventually(lambda: gate.waiting == CALLS_MAX)
    late = await begin(customer, 2 * MIB, expect="100-continue")
    response = await within(late.response())
    assert (response.status, response.code, response.headers["retry-after"]) == (429, 2918, "1")
    other = await asyncio.to_thread(farebox.funded)
    assert (await asyncio.to_thread(other.chat)).status_code == 200
    gate.open()
    for wire in wires:
        assert (await within(wire.response())).status == 200
    await eventually(lambda: not farebox.services.calls.by_account)
    assert (await asyncio.to_thread(customer.chat)).status_code == 200


async def test_no_account_gets_more_than_half_of_the_calls_that_the_others_leave(farebox: Farebox, gate: Gate) -> None:
    """Two accounts, each at its limit of calls, leave room for a third."""
    gate.shut()
    await asyncio.to_thread(set_price, farebox, SLUG, "*")
    body = chat_body(model=f"{SLUG}/anything")
    wires: list[Wire] = []

    async def taken(customer: Customer, calls: int) -> tuple[int, int]:
        """Start this many calls, then one more; its response."""
        before = gate.waiting
        wires.extend([await begin(customer, len(body), body) for _ in range(calls)])
        await eventually(lambda: gate.waiting == before + calls)
        response: WireResponse = await within((await begin(customer, len(body), body)).response())
        return response.status, response.code

    first, second, third = [await asyncio.to_thread(farebox.funded) for _ in range(3)]
    assert await taken(first, 3) == (429, 2918)
    assert await taken(second, 2) == (503, 2908)
    assert await taken(third, 1) == (503, 2908)
    assert farebox.services.calls.total == 6
    gate.open()
    for wire in wires:
        assert (await within(wire.response())).status == 200
    await eventually(lambda: not farebox.services.calls.total)


def test_control_plane_bodies_are_small_and_anonymous_ones_smaller(farebox: Farebox, customer: Customer) -> None:
    async def refused(path: str, length: int, **headers: str) -> int:
        wire = await begin(customer, length, path=path, expect="100-continue", **headers)
        response: WireResponse = await within(wire.response())
        return response.status

    gateways = f"/client/v4/accounts/{customer.account_id}/ai-gateway/gateways"
    assert asyncio.run(refused(gateways, BODY_MAX + 1)) == 413
    assert asyncio.run(refused(gateways, 3 * MIB, authorization="Bearer fbx_nobody")) == 401
    assert asyncio.run(refused(COMPAT, 3 * MIB, authorization="Bearer fbx_nobody")) == 401
    assert asyncio.run(refused("/webhooks/stripe", MIB)) == 413
    assert asyncio.run(refused("/billing/open", 70_000)) == 413
    asyncio.run(is_asked_for(customer, BODY_MAX, gateways))


async def test_one_anonymous_client_leaves_room_for_others(farebox: Farebox, customer: Customer) -> None:
    async def webhook(address: str) -> int:
        wire = await begin(
            customer, WEBHOOK_MAX, path="/webhooks/stripe", expect="100-continue", x_forwarded_for=address
        )
        await within(wire.head())
        wires.append(wire)
        return wire.status

    wires: list[Wire] = []
    share = farebox.services.held.process_max // UNCLAIMED_SHARE // 2 // WEBHOOK_MAX
    assert [await webhook("192.0.2.1") for _ in range(share + 1)] == [100] * share + [503]
    assert [await webhook(f"2001:db8::{number}") for number in range(share)] == [100] * (share // 2) + [503] * (
        share - share // 2
    )
    assert await webhook("192.0.2.2") == 100
    for wire in wires:
        wire.hang_up()


ENDS = ["whole", "hang_up", "too_large", "bad_gzip", "bad_json", "unknown_path", "chunked_hang_up", "chunked_whole"]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(ENDS), st.integers(0, 1_500_000)), min_size=1, max_size=6))
def test_ended_exchanges_return_all_their_memory(farebox: Farebox, steps: list[tuple[str, int]]) -> None:
    customer = farebox.funded()

    async def one(end: str, size: int) -> None:
        body = chat_body("x" * size)
        if end == "bad_gzip":
            wire = await begin(
                customer, size + 9, gzip.compress(body)[: size + 9].ljust(size + 9), content_encoding="gzip"
            )
        elif end == "too_large":
            wire = await begin(customer, 3 * MIB + 1)
        elif end == "unknown_path":
            wire = await begin(customer, len(body), body, path="nobody/v1/nothing")
        elif end.startswith("chunked"):
            wire = await begin(customer, None, body, *([b""] if end == "chunked_whole" else []))
        else:
            broken = b"[" + body[1:] if end == "bad_json" else body
            wire = await begin(customer, len(body), broken[: size // 2] if end == "hang_up" else broken)
        if end.endswith("hang_up"):
            await asyncio.sleep(0)
            wire.hang_up()
        else:
            assert 200 <= (await within(wire.response())).status < 600

    async def all_at_once() -> None:
        await asyncio.gather(*(one(end, size) for end, size in steps))

    def closing() -> bool:
        return farebox.services.held.held_bytes == 0 and not farebox.services.calls.by_account

    asyncio.run(all_at_once())
    until(closing, "all given back")
