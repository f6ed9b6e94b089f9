"""Sessions of every kind that end at any message because of the client, the provider, a killed gateway or a lost
database: delivered output is charged once, no more is charged than was requested, and nothing stays held."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from farebox.clock import RandomIds, SystemClock
from farebox.model import Permission
from farebox.money import NANOS_PER_USD
from farebox.operator import administer, tokens
from farebox.settings import load, secret_key
from farebox.storage.database import migrate_now, opened_for_command
from farebox.storage.sql import DatabaseUnavailable, rows
from farebox.vault import Vault
from tests.calls.killed import Installation, check_online, listening, nothing_in_doubt, served
from tests.calls.kit import differences, forget, log_rows
from tests.engines import ON_BOTH_ENGINES, TESTER, read_now, settings_for
from tests.long import times
from tests.postgres.server import start_postgres
from tests.support import Customer, Farebox, free_port, running_farebox
from tests.waiting import SECONDS, until
from tests.websockets.conversations import Address, Conversation, Halt, Stage, at_once, halting
from tests.websockets.cuts import CUTS, Cut
from tests.websockets.kinds import KINDS, Kind, prepare
from tests.websockets.kit import SocketProvider

pytestmark = ON_BOTH_ENGINES
MESSAGES: Final = max(len(kind.takes) + len(kind.pays) for kind in KINDS)
MOMENTS: Final = range(times(1, 0), MESSAGES + 1, times(4, 1))
SOME_MOMENTS: Final = range(times(3, 0), MESSAGES + 1, times(7, 1))
GRANTED: Final = 5 * NANOS_PER_USD
K: Final = times(2, 12)


@pytest.fixture(scope="module")
def farebox(engine: str, provider: SocketProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    # A busy machine may take long to open the sessions.
    with running_farebox(tmp_path_factory.mktemp("ends"), database_timeout_ms=60_000) as running:
        _prepare(running, provider)
        yield running


def _prepare(farebox: Farebox, provider: SocketProvider) -> None:
    services = farebox.services
    at = services.clock.now_ms() - 1_000
    farebox.run(services.database.write(lambda c: prepare(c, services.ids, services.vault, at, provider.url)))
    forget(farebox)


def address(customer: Customer) -> Address:
    return customer.gateway_url, customer.token


def charged(customer: Customer, granted: int = GRANTED) -> int:
    """The charged amount, once nothing is held any more."""
    calls = customer.farebox.services.calls.by_account
    until(lambda: customer.balance.held == 0 and not calls.get(customer.account_id), "nothing is held")
    return granted - customer.balance.posted


# --- either side ---


@pytest.mark.parametrize("at", MOMENTS)
def test_a_session_that_either_side_cuts(farebox: Farebox, provider: SocketProvider, at: int) -> None:
    """Delivered output is charged; kinds that are charged by input pay for all that the provider has received."""
    stage = Stage(provider)
    had = [(farebox.funded(), _cut(kind, at, cut)) for kind in KINDS for cut in CUTS]
    with at_once([partial(stage.talk, conversation, *address(customer)) for customer, conversation in had]):
        pass
    for customer, conversation in had:
        conversation.check_course()
        least = conversation.received if conversation.kind.by_unit else conversation.delivered
        spent = charged(customer)
        assert least <= spent <= conversation.asked, conversation.kind
        assert spent == sum(round((row["cost"] or 0) * NANOS_PER_USD) for row in log_rows(customer))
    assert not differences(farebox)


def _cut(kind: Kind, at: int, cut: Cut) -> Conversation:
    return Conversation(kind, at, lambda one: cut(one.server, one.client))


# --- a gateway that is killed ---


@pytest.fixture
def installation(tmp_path: Path, provider: SocketProvider) -> Installation:
    """With a customer for each kind at each moment."""
    settings = settings_for(tmp_path)
    ids, vault, at = RandomIds(SystemClock()), Vault(secret_key(settings)), SystemClock().now_ms() - 1_000
    customers = []
    with opened_for_command(settings, writing=True) as connection:
        prepare(connection, ids, vault, at, provider.url)
        for _ in KINDS * len(SOME_MOMENTS):
            account = administer.create_account(connection, ids, by=TESTER, name="c", at=at).account_id
            administer.grant(connection, ids, by=TESTER, account_id=account, amount=GRANTED, at=at)
            made = tokens.create_token(connection, ids, vault, account_id=account, permissions=[*Permission], at=at)
            customers.append((account, made.secret))
    return Installation(tmp_path, free_port(), customers)


@pytest.mark.slow
async def test_a_session_whose_gateway_is_killed(installation: Installation, provider: SocketProvider) -> None:
    stage = Stage(provider)
    customers = iter(installation.customers)
    had: list[tuple[str, Conversation]] = []
    for at in SOME_MOMENTS:
        halt = Halt(stage)
        with served(installation) as process:
            await listening(installation, process)
            work = []
            for kind, (account, token) in zip(KINDS, customers, strict=False):
                conversation = halt.conversation(kind, at)
                had.append((account, conversation))
                url = f"http://127.0.0.1:{installation.port}/v1/{account}/default"
                work.append(partial(halt.talk, conversation, url, token))
            with at_once(work):
                halt.all_there()
                process.kill()
                halt.go_on()
            process.wait(SECONDS)
    with served(installation) as process:
        await listening(installation, process)
        await nothing_in_doubt(installation)
        check_online(installation)
    found = read_now(installation.settings, lambda c: rows(c, "SELECT account_id, posted, held FROM balances"))
    balances = {account: (posted, held) for account, posted, held in found}
    for account, conversation in had:
        conversation.check_course()
        posted, held = balances[account]
        assert held == 0
        assert conversation.delivered <= GRANTED - posted <= conversation.asked, (conversation.kind, conversation.at)


# --- a database that goes away ---


@dataclass(frozen=True)
class Losable:
    """A server whose database can be made unavailable."""

    farebox: Farebox
    lose: Callable[[], None]
    give_back: Callable[[], None]

    def wait_until_posted(self) -> None:
        """Wait until the database is available again and the journal has been posted."""
        until(self._reads, "it is there again")
        journal = Path(self.farebox.services.settings.data_dir) / "journal"
        until(lambda: not list(journal.glob("*.jsonl")), "the journal is posted")

    def _reads(self) -> bool:
        with contextlib.suppress(DatabaseUnavailable):
            return not differences(self.farebox) and self.farebox.balance(self.farebox.create_account()).held == 0
        return False


@pytest.fixture(scope="module")
def losable(engine: str, provider: SocketProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Losable]:
    folder = tmp_path_factory.mktemp("away")
    with contextlib.ExitStack() as stack:
        if engine == "postgres":
            server = stack.enter_context(start_postgres(durable=True))
            url = server.new_database()
            migrate_now(load({}, database_url=url))
            farebox = stack.enter_context(running_farebox(folder, database_url=url, database_timeout_ms=10_000))
            found = Losable(farebox, server.kill, server.start)
        else:
            farebox = stack.enter_context(running_farebox(folder))
            path = farebox.services.settings.database_path
            gone = path.with_suffix(".gone")
            found = Losable(farebox, partial(os.rename, path, gone), partial(os.rename, gone, path))
        _prepare(farebox, provider)
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("at", SOME_MOMENTS)
def test_a_session_whose_database_goes_away(losable: Losable, provider: SocketProvider, at: int) -> None:
    halt, farebox = Halt(Stage(provider)), losable.farebox
    had = [(farebox.funded(), halt.conversation(kind, at)) for kind in KINDS]
    try:
        with at_once([partial(halt.talk, one, *address(customer)) for customer, one in had]):
            halt.all_there()
            losable.lose()
            halt.go_on()
    finally:
        losable.give_back()
    losable.wait_until_posted()
    for customer, conversation in had:
        conversation.check_course()
        assert conversation.delivered <= charged(customer) <= conversation.asked, conversation.kind
    assert not differences(farebox)


# --- credit for K of them ---


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_exactly_as_many_sessions_are_admitted_as_credit_covers(
    farebox: Farebox, provider: SocketProvider, kind: Kind
) -> None:
    stage, probe = Stage(provider), farebox.funded()
    with halting(stage, kind, [address(probe)]):
        hold = probe.balance.held
    assert hold > 0
    granted = K * hold
    customer = farebox.funded(f"{granted / NANOS_PER_USD:.9f}")
    with halting(stage, kind, [address(customer)] * 10 * K) as conversations:
        assert sum(one.stopped for one in conversations) == K
        assert (customer.balance.posted, customer.balance.held) == (granted, granted)
        assert {one.client.close_code for one in conversations if not one.stopped} <= {4402, 4429}
    for one in conversations:
        if one.stopped:  # a transcript is charged only when the next audio arrives, which finds no credit
            assert one.heard if kind.name == "listen" else one.delivered
    delivered, received = (sum(getattr(one, name) for one in conversations) for name in ("delivered", "received"))
    assert delivered <= charged(customer, granted) <= received
    assert not differences(farebox)
