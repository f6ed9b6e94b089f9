"""Fills a database as years of use would have: accounts, tokens, cards, purchases with invoices, and calls.

The rows are inserted by the thousand (bench.sinks), because the ledger's own commands would take hours; `differs` then
runs the audit on the result. They are copies of the rows that one real account has after a purchase and a call, so they
are what the program writes. They are inserted in the order of their keys, so the database is denser than one that has
grown by itself. Only the list of accounts stays in memory.
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
from pathlib import Path

import msgspec

from bench import served, sinks
from bench.engines import SQLITE, Engine
from bench.served import Broken, Mock
from bench.sinks import Sink, Values
from farebox.billing.documents import issue_invoice
from farebox.clock import SystemClock
from farebox.documents.content import DocumentLine, Invoice
from farebox.ledger import audit
from farebox.ledger.commands import TopUp as LedgerTopUp
from farebox.ledger.posting import apply
from farebox.model import Account
from farebox.money import NANOS_PER_CENT
from farebox.payments.model import Card, TopUp
from farebox.payments.purchase import Purchase
from farebox.settings import Settings, secret_key
from farebox.storage import top_ups
from farebox.storage.accounts import find_account
from farebox.storage.buckets import bucket_of
from farebox.storage.customers import add_customer, replace_cards
from farebox.storage.database import opened_for_command
from farebox.storage.sql import SNAPSHOT, Connection, row, rows
from farebox.storage.sqlite import SqliteConnection
from farebox.vault import TOKEN_PREFIX, Vault

DAYS = 90
DAY_MS, HOUR_MS = 86_400_000, 3_600_000
OTHER = "other"
"""The kind of account that can exist in very large numbers."""
MODELS = ("bench-a", "bench-b", "bench-c")
INPUT_USD, OUTPUT_USD = "100", "500"
"""Per million tokens. A call of 20 input and 16 output tokens costs one cent, so calls use up credit bought in cents
exactly."""
LEFT_CENTS = 1_000_000
"""The credit that every account has left for the calls that are measured."""
FLUSH_ROWS = 5_000
SAID_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """A kind of account, and how many of it to make."""

    kind: str
    calls: int
    top_ups: int


@dataclass(frozen=True, slots=True)
class Made:
    """An account that was filled, with the figures that its reads must return."""

    account_id: str
    token: str = field(repr=False)
    wanted: Wanted
    posted: int
    """Nano-dollars."""


_TRANSFER = ("bucket", "account_id", "version", "transfer_id", "kind", "from_book", "to_book", "amount", "lot_id", "at")
_LOT = ("bucket", "account_id", "lot_id", "book", "amount", "remaining", "priority", "created_at", "spent")
_HOUR = ("bucket", "account_id", "hour", "provider", "model", "calls", "charge", "tokens_in", "tokens_out")
_NUMBER = ("number", "account_id", "cause_id")
_OF_TOP_UP = (
    "lines", "top_up_id", "kind", "credit_cents", "card_id", "fingerprint", "payment_id", "created_at", "updated_at",
    "paid_at",
)  # fmt: skip
"""What differs from one purchase to the next."""


class _Copies:
    """Copies of the real account's row in one table, except for the columns in `changing`."""

    def __init__(self, connection: Connection, table: str, changing: Sequence[str], where: str = "TRUE") -> None:
        names = _columns(connection, table)
        found = row(connection, f"SELECT {', '.join(names)} FROM {table} WHERE {where}")
        assert found is not None, f"the real account has nothing in {table}"
        self.table = table
        self.old = dict(zip(names, found, strict=True))
        self.columns = (*changing, *(name for name in names if name not in changing))
        self._rest = tuple(self.old[name] for name in self.columns[len(changing) :])

    def row(self, *values: object) -> Values:
        return (*values, *self._rest)


def _columns(connection: Connection, table: str) -> list[str]:
    if isinstance(connection, SqliteConnection):
        return [str(name) for _, name, *_ in rows(connection, f"PRAGMA table_info({table})")]
    sql = "SELECT column_name::text FROM information_schema.columns WHERE table_name = ? ORDER BY ordinal_position"
    return [str(name) for (name,) in rows(connection, sql, (table,))]


def _paid_top_up(account_id: str, card_id: str, cents: int, name: str, at: int, *, by_hand: bool) -> TopUp:
    return TopUp(
        account_id=account_id, top_up_id=name, kind="manual" if by_hand else "auto", state="paid", credit_cents=cents,
        fee_cents=0, tax_cents=0, lines=msgspec.json.encode(Purchase(credit_cents=cents)), card_id=card_id,
        fingerprint=account_id, brand="visa", last4="4242", payment_id=f"in_{name}", attempt=1, created_at=at,
        updated_at=at, paid_at=at,
    )  # fmt: skip


def _real_purchase(connection: Connection, settings: Settings, account_id: str, at: int) -> None:
    """Give the real account a card and a purchase with its invoice, through the stores and the ledger."""
    card = Card(
        card_id="pm_bench", brand="visa", last4="4242", exp_month=12, exp_year=2035, fingerprint=account_id,
        is_default=True, created_at=at,
    )  # fmt: skip
    account = find_account(connection, account_id)
    assert account is not None
    add_customer(connection, account_id, "cus_bench", at)
    replace_cards(connection, account_id, [card], requested_at=at)
    bought = _paid_top_up(account_id, card.card_id, 500, "bench", at, by_hand=True)
    assert bought.payment_id is not None
    top_ups.insert(connection, account.bucket, bought)
    top_ups.tie_payment(connection, bought.payment_id, account_id, bought.top_up_id)
    issue_invoice(connection, settings, account.bucket, bought, at)
    amount = bought.credit_cents * NANOS_PER_CENT
    apply(connection, command=LedgerTopUp(account_id=account_id, payment_id=bought.payment_id, amount=amount, at=at))


class _Filler:
    """Writes one account after another; rows are buffered and written in bulk."""

    sink: Sink

    def __init__(self, connection: Connection, settings: Settings, now: int) -> None:
        self._buckets = settings.buckets
        self._now = now
        self._vault = Vault(secret_key(settings))
        self._chance = random.Random(1)
        own = ("bucket", "account_id")
        self._account = _Copies(connection, "accounts", ("account_id", "bucket", "name", "created_at"))
        self._balance = _Copies(connection, "balances", (*own, "posted", "held", "version"))
        self._token = _Copies(connection, "access_tokens", ("token_id", "account_id", "hash"))
        self._gateway = _Copies(connection, "gateways", own)
        self._customer = _Copies(connection, "customers", ("account_id", "customer_id"))
        self._card = _Copies(connection, "cards", (*own, "card_id", "fingerprint"))
        self._top_up_row = _Copies(connection, "top_ups", (*own, *_OF_TOP_UP))
        self._payment = _Copies(connection, "payments", ("payment_id", "account_id", "top_up_id"))
        document = (*own, "number", "top_up_id", "cause_id", "total_cents", "content", "issued_at")
        self._document = _Copies(connection, "documents", document)
        self._invoice = msgspec.json.decode(self._document.old["content"], type=Invoice)
        self._hold = _Copies(connection, "holds", (*own, "hold_id", "created_at", "expires_at"))
        self._call = _Copies(connection, "calls", (*own, "log_id", "created_at", "model", "receipt"))
        self._waiting: dict[tuple[str, tuple[str, ...]], list[Values]] = {}
        self.next_number = 2
        """The number of the next invoice; the first is the real account's."""
        self.calls = 0
        self.charge: int = self._call.old["charge"]
        """The charge for one call, in nano-dollars."""

    def account(self, account_id: str, wanted: Wanted) -> Made:
        since = self._now - DAYS * DAY_MS
        account = Account(account_id, bucket_of(account_id, self._buckets), f"bench {wanted.kind}", since)
        token, card_id = f"{TOKEN_PREFIX}{self._chance.getrandbits(256):064x}", f"pm_{account_id}"
        self._copy(self._account, account_id, account.bucket, account.name, since)
        self._copy(self._token, account_id, account_id, self._vault.hash_token(token))
        self._copy(self._gateway, account.bucket, account_id)
        self._copy(self._customer, account_id, f"cus_{account_id}")
        self._copy(self._card, account.bucket, account_id, card_id, account_id)
        posted, version = self._history(account, wanted, card_id, since)
        self._copy(self._balance, account.bucket, account_id, posted, 0, version)
        self._flush_if_many()
        return Made(account_id, token, wanted, posted)

    def flush(self) -> None:
        for (table, columns), waiting in self._waiting.items():
            self.sink.add(table, columns, waiting)
        self._waiting.clear()

    def _flush_if_many(self) -> None:
        of_calls = self._waiting.get((self._call.table, self._call.columns), ())
        of_accounts = self._waiting.get((self._account.table, self._account.columns), ())
        if len(of_calls) >= FLUSH_ROWS or len(of_accounts) >= FLUSH_ROWS:
            self.flush()

    def _copy(self, of: _Copies, *values: object) -> None:
        self._waiting.setdefault((of.table, of.columns), []).append(of.row(*values))

    def _add(self, table: str, columns: tuple[str, ...], *values: object) -> None:
        self._waiting.setdefault((table, columns), []).append(values)

    def _history(self, account: Account, wanted: Wanted, card_id: str, since: int) -> tuple[int, int]:
        """Write purchases and the calls that each of them paid for, in order of time; what is left, and the last
        version."""
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
        return left, version

    def _top_up(self, account: Account, card_id: str, cents: int, left: int, version: int, at: int) -> str:
        number, key = self.next_number, (account.bucket, account.account_id)
        self.next_number += 1
        bought = _paid_top_up(account.account_id, card_id, cents, f"bench{number:010}", at, by_hand=number % 3 == 0)
        payment_id = bought.payment_id
        values = (getattr(bought, name) for name in _OF_TOP_UP if name != "lines")
        self._copy(self._top_up_row, *key, bought.lines.decode(), *values)
        self._copy(self._payment, payment_id, account.account_id, bought.top_up_id)
        series = self._invoice.number.rpartition("-")[0]
        invoice = msgspec.structs.replace(
            self._invoice, number=f"{series}-{number:06d}", issued_at=at, paid_at=at, account_id=account.account_id,
            customer=msgspec.structs.replace(self._invoice.customer, name=account.name),
            lines=(DocumentLine("Prepaid credit", cents),), total_cents=cents, payment_reference=payment_id or "",
        )  # fmt: skip
        content = msgspec.json.encode(invoice).decode()
        self._add("document_numbers", _NUMBER, invoice.number, account.account_id, payment_id)
        self._copy(self._document, *key, invoice.number, bought.top_up_id, payment_id, cents, content, at)
        lot_id, amount = f"top_up:{payment_id}", cents * NANOS_PER_CENT
        self._add("lots", _LOT, *key, lot_id, "credit", amount, left, 50, at, int(not left))
        self._add("transfers", _TRANSFER, *key, version, lot_id, "top_up", "processor", "credit", amount, lot_id, at)
        return lot_id

    def _calls(self, account: Account, times: Iterable[int], lot_id: str, version: int) -> None:
        key, old, charge = (account.bucket, account.account_id), self._call.old, self.charge
        receipt: str = old["receipt"].replace(old["account_id"], account.account_id)
        life = self._hold.old["expires_at"] - self._hold.old["created_at"]
        for number, at in enumerate(times, 1):
            log_id, model = self._log_id(at), MODELS[at % len(MODELS)]
            self._copy(self._hold, *key, log_id, at, at + life)
            moved = (f"charge:{log_id}", "charge", "credit", "revenue", charge, lot_id, at + 300)
            self._add("transfers", _TRANSFER, *key, version, *moved)
            self._copy(self._call, *key, log_id, at, model, receipt.replace(old["log_id"], log_id))
            version += 1
            self.calls += 1
            if number % FLUSH_ROWS == 0:
                self._flush_if_many()

    def _hours(self, account: Account, times: Iterable[int]) -> None:
        old = self._call.old
        hours = Counter((at - at % HOUR_MS, MODELS[at % len(MODELS)]) for at in times)
        for (hour, model), calls in sorted(hours.items()):
            sums = (calls, calls * old["charge"], calls * old["tokens_in"], calls * old["tokens_out"])
            self._add("usage_hours", _HOUR, account.bucket, account.account_id, hour, old["provider"], model, *sums)

    def _log_id(self, at: int) -> str:
        """A UUIDv7 of this time, like those of clock.RandomIds."""
        chance, text = self._chance.getrandbits(74), f"{at:012x}"
        low = f"{1 << 63 | chance & (1 << 62) - 1:016x}"
        return f"{text[:8]}-{text[8:]}-7{chance >> 62:03x}-{low[:4]}-{low[4:]}"


def fill(folder: Path, mock: Mock, wanted: Sequence[Wanted], *, engine: Engine = SQLITE, every: int = 1) -> list[Made]:
    """Set up a Farebox in the folder and fill its database; report progress on stderr.

    Returns the accounts; of kind `other`, only every `every`-th.
    """
    real = _real_call(folder, served.set_up(folder, mock, engine), engine)
    settings, now = engine.settings(folder), SystemClock().now_ms()
    with opened_for_command(settings, writing=True) as connection:
        _real_purchase(connection, settings, real, now)
    begun, total = time.monotonic(), sum(item.calls for item in wanted)
    said, made = begun, list[Made]()
    gc.disable()  # it would scan the waiting rows repeatedly
    with opened_for_command(settings) as connection:
        filler = _Filler(connection, settings, now)
    if filler.charge != NANOS_PER_CENT:
        raise Broken(f"the real call was charged {filler.charge} nano-dollars instead of a cent")
    with sinks.opened(engine, folder) as filler.sink:
        for number, (account_id, item) in enumerate(_in_order_of_keys(wanted), 1):
            one = filler.account(account_id, item)
            if item.kind != OTHER or number % every == 0:
                made.append(one)
            if time.monotonic() - said > SAID_SECONDS:
                said = time.monotonic()
                _say(filler.calls, total, number, said - begun)
        filler.flush()
    with opened_for_command(settings, writing=True) as connection:
        connection.execute("UPDATE series SET next = ?", (filler.next_number,))
    gc.enable()
    _say(total, total, len(wanted), time.monotonic() - begun)
    return made


def _say(calls: int, total: int, accounts: int, took: float) -> None:
    text = f"filled {calls:,} of {total:,} calls, {accounts:,} accounts: {calls / took:,.0f} calls/s"
    print(text, file=sys.stderr, flush=True)


def _in_order_of_keys(wanted: Sequence[Wanted]) -> list[tuple[str, Wanted]]:
    """An ID for each account. The kinds are spread over the keys, as in a real database."""
    chance = random.Random(2)
    named = [(f"{chance.getrandbits(128):032x}", item) for item in wanted]
    return sorted(named)


def _real_call(folder: Path, targets: Path, engine: Engine) -> str:
    """Have the server write the rows of one call; returns the account."""
    rates = ("--input", INPUT_USD, "--output", OUTPUT_USD)
    served.run(folder, "price", "set", "openai", "bench-*", *rates, engine=engine)
    path, _, header = targets.read_text().splitlines()[0].partition("\t")
    body = json.dumps({"model": MODELS[0], "messages": [{"role": "user", "content": "Once."}], "max_tokens": 128})
    with served.serving(folder, targets, engine=engine) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("POST", path, body, dict([header.split(": ", 1)]) | {"content-type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                raise Broken(f"the real call was answered {response.status}: {response.read()[:500]!r}")
    return path.split("/")[2]


def differs(folder: Path, account_ids: Iterable[str], engine: Engine = SQLITE) -> list[str]:
    """The differences that the audit finds on these accounts; empty if the books balance."""
    found: list[str] = []
    with opened_for_command(engine.settings(folder)) as connection:
        for account_id in account_ids:
            key = row(connection, "SELECT bucket FROM accounts WHERE account_id = ?", (account_id,))
            assert key is not None
            page = (int(key[0]), account_id, account_id)
            connection.execute(SNAPSHOT)
            found += [difference.message for difference in audit.check_page(connection, page, [account_id])]
            connection.execute("ROLLBACK")
    return found
