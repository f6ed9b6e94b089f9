"""Fills a database as years of use would have: accounts, tokens, cards, purchases with invoices, and calls.

What is many goes in by plain inserts, as the ledger's own commands would take an hour; `differs` then lets the audit
look at what came of it. They are copies of the rows that one real account has after a purchase and a call, so they are
what the program writes. They go in in the order of their keys: the file is denser than one that has grown by itself.
"""

import contextlib
import gc
import http.client
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from bench import served
from bench.served import Broken, Mock
from farebox.clock import SystemClock
from farebox.ledger import audit
from farebox.ledger.commands import TopUp as LedgerTopUp
from farebox.ledger.posting import apply
from farebox.model import Account
from farebox.money import NANOS_PER_CENT
from farebox.payments.model import Card, TopUp
from farebox.payments.purchase import Purchase
from farebox.settings import Settings, load, secret_key
from farebox.storage import top_ups
from farebox.storage.accounts import add_account, find_account
from farebox.storage.customers import add_customer, replace_cards
from farebox.storage.sql import row, rows
from farebox.storage.sqlite import SqliteConnection, connect, open_file
from farebox.usecases.documents import issue_invoice
from farebox.vault import TOKEN_PREFIX, Vault

DAYS = 90
DAY_MS, HOUR_MS = 86_400_000, 3_600_000
MODELS = ("bench-a", "bench-b", "bench-c")
INPUT_USD, OUTPUT_USD = "100", "500"
"""For a million tokens: a call of 20 and 16 costs one cent, so that calls use credit bought in cents up exactly."""
LEFT_CENTS = 1_000_000
"""What every account has left, for the calls that are measured."""
FLUSH_CALLS = 5_000
SAID_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """A kind of account."""

    kind: str
    calls: int
    top_ups: int


@dataclass(frozen=True, slots=True)
class Made:
    """An account that was filled, with what its reads must say."""

    account_id: str
    token: str = field(repr=False)
    wanted: Wanted
    posted: int
    """Nano-dollars."""


@dataclass(frozen=True, slots=True)
class _Row:
    """The real account's row in one table: an INSERT that begins with what changes in a copy, and the row's rest."""

    sql: str
    rest: tuple[Any, ...]
    old: dict[str, Any]

    @classmethod
    def of(cls, connection: SqliteConnection, table: str, changing: Sequence[str]) -> "_Row":
        names = [name for _, name, *_ in rows(connection, f"PRAGMA table_info({table})")]
        found = row(connection, f"SELECT * FROM {table}")
        assert found is not None, f"the real account has nothing in {table}"
        values = dict(zip(names, found, strict=True))
        order = [*changing, *(name for name in names if name not in changing)]
        sql = f"INSERT INTO {table} ({', '.join(order)}) VALUES ({', '.join('?' * len(order))})"
        return cls(sql, tuple(values[name] for name in order[len(changing) :]), values)


_TRANSFER = (
    "INSERT INTO transfers (bucket, account_id, version, transfer_id, kind, from_book, to_book, amount, lot_id, at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_LOT = (
    "INSERT INTO lots (bucket, account_id, lot_id, book, amount, remaining, priority, created_at) "
    "VALUES (?, ?, ?, 'credit', ?, ?, 50, ?)"
)
_PAYMENT = "INSERT INTO payments (payment_id, account_id, top_up_id) VALUES (?, ?, ?)"
_OF_TOP_UP = (
    "lines", "top_up_id", "kind", "credit_cents", "card_id", "fingerprint", "payment_id", "created_at", "updated_at",
    "paid_at",
)  # fmt: skip
"""What differs from one purchase to the next."""
_HOUR = (
    "INSERT INTO usage_hours (bucket, account_id, hour, provider, model, calls, charge, tokens_in, tokens_out) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def _paid_top_up(account_id: str, card_id: str, cents: int, name: str, at: int, *, by_hand: bool) -> TopUp:
    return TopUp(
        account_id=account_id, top_up_id=name, kind="manual" if by_hand else "auto", state="paid", credit_cents=cents,
        fee_cents=0, tax_cents=0, lines=msgspec.json.encode(Purchase(credit_cents=cents)), card_id=card_id,
        fingerprint=account_id, brand="visa", last4="4242", payment_id=f"in_{name}", attempt=1, created_at=at,
        updated_at=at, paid_at=at,
    )  # fmt: skip


def _real_purchase(connection: SqliteConnection, account_id: str, at: int) -> None:
    """Give the real account a card and a purchase, through the stores and the ledger."""
    card = Card(
        card_id="pm_bench", brand="visa", last4="4242", exp_month=12, exp_year=2035, fingerprint=account_id,
        is_default=True, created_at=at,
    )  # fmt: skip
    account = find_account(connection, account_id)
    assert account is not None
    add_customer(connection, account_id, "cus_bench", at)
    replace_cards(connection, account_id, [card], asked_at=at)
    bought = _paid_top_up(account_id, card.card_id, 500, "bench", at, by_hand=True)
    assert bought.payment_id is not None
    top_ups.insert(connection, account.bucket, bought)
    top_ups.tie_payment(connection, bought.payment_id, account_id, bought.top_up_id)
    amount = bought.credit_cents * NANOS_PER_CENT
    apply(connection, command=LedgerTopUp(account_id=account_id, payment_id=bought.payment_id, amount=amount, at=at))


class _Filler:
    """Writes account after account; the rows of calls are kept back until there are many."""

    def __init__(self, connection: SqliteConnection, settings: Settings, now: int) -> None:
        self._connection = connection
        self._settings = settings
        self._now = now
        self._vault = Vault(secret_key(settings))
        self._chance = random.Random(1)
        own = ("bucket", "account_id")
        self._token = _Row.of(connection, "access_tokens", ("token_id", "account_id", "hash"))
        self._gateway = _Row.of(connection, "gateways", own)
        self._customer = _Row.of(connection, "customers", ("account_id", "customer_id"))
        self._card = _Row.of(connection, "cards", (*own, "card_id", "fingerprint"))
        self._top_up_row = _Row.of(connection, "top_ups", (*own, *_OF_TOP_UP))
        self._hold = _Row.of(connection, "holds", (*own, "hold_id", "created_at", "expires_at"))
        self._call = _Row.of(connection, "calls", (*own, "log_id", "created_at", "model", "receipt"))
        self._body = _Row.of(connection, "call_bodies", (*own, "log_id"))
        self._waiting: dict[str, list[tuple[Any, ...]]] = {}
        self._numbers = count(1)
        self.calls = 0

    @property
    def charge(self) -> int:
        charge: int = self._call.old["charge"]
        return charge

    def account(self, account_id: str, wanted: Wanted) -> Made:
        connection, since = self._connection, self._now - DAYS * DAY_MS
        account = add_account(connection, account_id, f"bench {wanted.kind}", since)
        token, card_id = f"{TOKEN_PREFIX}{self._chance.getrandbits(256):064x}", f"pm_{account_id}"
        self._later(self._token, (account_id, account_id, self._vault.hash_token(token)))
        self._later(self._gateway, (account.bucket, account_id))
        self._later(self._customer, (account_id, f"cus_{account_id}"))
        self._later(self._card, (account.bucket, account_id, card_id, account_id))
        posted = self._history(account, wanted, card_id, since)
        if len(self._waiting.get(self._call.sql, ())) >= FLUSH_CALLS:
            self.flush()
        return Made(account_id, token, wanted, posted)

    def flush(self) -> None:
        for sql, waiting in self._waiting.items():
            self._connection.executemany(sql, waiting)
        self._waiting.clear()

    def _later(self, what: "_Row | str", values: tuple[Any, ...]) -> None:
        sql, rest = (what, ()) if isinstance(what, str) else (what.sql, what.rest)
        self._waiting.setdefault(sql, []).append((*values, *rest))

    def _history(self, account: Account, wanted: Wanted, card_id: str, since: int) -> int:
        """Purchases with the calls that each of them paid, in order of time; returns what is left."""
        step = (self._now - since) / max(wanted.calls, 1)
        times = [since + int(step * (number + self._chance.random())) for number in range(wanted.calls)]
        purchases = max(1, min(wanted.top_ups, wanted.calls))
        each, version, left = wanted.calls // purchases, 0, 0
        for number in range(purchases):
            last = number == purchases - 1
            paid_for = times[number * each :] if last else times[number * each : (number + 1) * each]
            cents = len(paid_for) + (LEFT_CENTS if last else 0)
            left = cents * NANOS_PER_CENT - len(paid_for) * self.charge
            lot_id = self._top_up(account, card_id, cents, left, version + 1, paid_for[0] if paid_for else since)
            self._calls(account, paid_for, lot_id, version + 2)
            version += 1 + len(paid_for)
        self._hours(account, times)
        self._later(
            "UPDATE balances SET posted = ?, version = ? WHERE bucket = ? AND account_id = ?",
            (left, version, account.bucket, account.account_id),
        )
        return left

    def _top_up(self, account: Account, card_id: str, cents: int, left: int, version: int, at: int) -> str:
        number = next(self._numbers)
        bought = _paid_top_up(account.account_id, card_id, cents, f"bench{number:010}", at, by_hand=number % 3 == 0)
        payment_id = bought.payment_id
        values = (getattr(bought, name) for name in _OF_TOP_UP if name != "lines")
        self._later(self._top_up_row, (account.bucket, account.account_id, bought.lines.decode(), *values))
        self._later(_PAYMENT, (payment_id, account.account_id, bought.top_up_id))
        issue_invoice(self._connection, self._settings, account.bucket, bought, at)
        lot_id, amount, key = f"top_up:{payment_id}", cents * NANOS_PER_CENT, (account.bucket, account.account_id)
        self._later(_LOT, (*key, lot_id, amount, left, at))
        self._later(_TRANSFER, (*key, version, lot_id, "top_up", "processor", "credit", amount, lot_id, at))
        return lot_id

    def _calls(self, account: Account, times: Iterable[int], lot_id: str, version: int) -> None:
        key, old, charge = (account.bucket, account.account_id), self._call.old, self.charge
        receipt: str = old["receipt"].replace(old["account_id"], account.account_id)
        life = self._hold.old["expires_at"] - self._hold.old["created_at"]
        holds, transfers, calls, bodies = (
            self._waiting.setdefault(sql, []) for sql in (self._hold.sql, _TRANSFER, self._call.sql, self._body.sql)
        )
        for at in times:
            log_id = self._log_id(at)
            holds.append((*key, log_id, at, at + life, *self._hold.rest))
            transfers.append(
                (*key, version, f"charge:{log_id}", "charge", "credit", "revenue", charge, lot_id, at + 300)
            )
            model = MODELS[at % len(MODELS)]
            calls.append((*key, log_id, at, model, receipt.replace(old["log_id"], log_id), *self._call.rest))
            bodies.append((*key, log_id, *self._body.rest))
            version += 1
            self.calls += 1

    def _hours(self, account: Account, times: Iterable[int]) -> None:
        old = self._call.old
        hours = Counter((at - at % HOUR_MS, MODELS[at % len(MODELS)]) for at in times)
        for (hour, model), calls in sorted(hours.items()):
            sums = (calls, calls * old["charge"], calls * old["tokens_in"], calls * old["tokens_out"])
            self._later(_HOUR, (account.bucket, account.account_id, hour, old["provider"], model, *sums))

    def _log_id(self, at: int) -> str:
        """A UUIDv7, as clock.RandomIds makes them of the present."""
        chance, text = self._chance.getrandbits(74), f"{at:012x}"
        low = f"{1 << 63 | chance & (1 << 62) - 1:016x}"
        return f"{text[:8]}-{text[8:]}-7{chance >> 62:03x}-{low[:4]}-{low[4:]}"


def fill(folder: Path, mock: Mock, wanted: Sequence[Wanted]) -> list[Made]:
    """Set up a Farebox in the folder and fill its database; says how it goes on stderr."""
    real = _real_call(folder, served.set_up(folder, mock, accounts=1))
    settings = load({}, data_dir=str(folder))
    begun, asked = time.monotonic(), sum(item.calls for item in wanted)
    said, made = begun, []
    gc.disable()  # it would go through the waiting rows again and again
    with contextlib.closing(open_file(settings.database_path)) as connection:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -200000"):  # a crash: fill it again
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        now = SystemClock().now_ms()
        _real_purchase(connection, real, now)
        filler = _Filler(connection, settings, now)
        if filler.charge != NANOS_PER_CENT:
            raise Broken(f"the real call was charged {filler.charge} nano-dollars instead of a cent")
        for account_id, item in _in_order_of_keys(wanted):
            made.append(filler.account(account_id, item))
            if time.monotonic() - said > SAID_SECONDS:
                said = time.monotonic()
                _say(filler.calls, asked, len(made), said - begun)
        filler.flush()
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
    gc.enable()
    _say(asked, asked, len(made), time.monotonic() - begun)
    return made


def _say(calls: int, asked: int, accounts: int, took: float) -> None:
    text = f"filled {calls:,} of {asked:,} calls, {accounts:,} accounts: {calls / took:,.0f} calls/s"
    print(text, file=sys.stderr, flush=True)


def _in_order_of_keys(wanted: Sequence[Wanted]) -> list[tuple[str, Wanted]]:
    """An id for each; kinds are spread over the keys, as accounts are over a database."""
    chance = random.Random(2)
    named = [(f"{chance.getrandbits(128):032x}", item) for item in wanted]
    return sorted(named)


def _real_call(folder: Path, targets: Path) -> str:
    """Let the server write the rows of one call; returns the account."""
    served.run(folder, "price", "set", "openai", "bench-*", "--input", INPUT_USD, "--output", OUTPUT_USD)
    path, _, header = targets.read_text().splitlines()[0].partition("\t")
    body = json.dumps({"model": MODELS[0], "messages": [{"role": "user", "content": "Once."}], "max_tokens": 128})
    with served.serving(folder, targets) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("POST", path, body, dict([header.split(": ", 1)]) | {"content-type": "application/json"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise Broken(f"the real call was answered {answer.status}: {answer.read()[:500]!r}")
    return path.split("/")[2]


def differs(folder: Path, account_ids: Iterable[str]) -> list[str]:
    """What the audit finds on these accounts; nothing where the books balance."""
    found: list[str] = []
    with contextlib.closing(connect(folder / "farebox.db", readonly=True)) as connection:
        for account_id in account_ids:
            key = row(connection, "SELECT bucket, account_id FROM accounts WHERE account_id = ?", (account_id,))
            assert key is not None
            connection.execute("BEGIN")
            found += [difference.message for difference in audit._account(connection, (key[0], key[1]))]
            connection.execute("ROLLBACK")
    return found
