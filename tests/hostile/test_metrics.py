"""`/metrics` agrees with the ledger to the nano-dollar, discloses nothing about tenants, and is private by default."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from farebox.counts import COUNTING_ERRORS, private
from farebox.http.exchange import Exchange
from farebox.http.metrics_access import check_settings
from farebox.http.server import serve
from farebox.ledger.commands import Command, Grant, Settle
from farebox.ledger.posting import apply
from farebox.metrics import families
from farebox.metrics.families import FAMILIES, JOBS, LAYOUT
from farebox.metrics.metrics import Metrics
from farebox.periodic_jobs import periodic_jobs
from farebox.settings import SettingsError, load
from farebox.storage.accounts import find_account
from farebox.storage.figures import read_figures
from farebox.storage.notices import add_notice
from farebox.storage.sql import Connection, DatabaseUnavailable, rows
from tests import processes
from tests.calls.wire import chat_body, start
from tests.engines import looking
from tests.hostile.scrape import BEARER, NANOS, TOKEN, Scrape
from tests.http.support import http, result, save_card, soon
from tests.repo.reference import example
from tests.sdks import openai
from tests.support import Customer, Farebox, free_port, running_farebox
from tests.waiting import until

on_both_engines = pytest.mark.both_engines
"""The fixture `measured` requests the engine."""


@contextlib.contextmanager
def served(folder: Path, **settings: object) -> Iterator[tuple[Farebox, str]]:
    """A server and the URL of its metrics."""
    port = free_port()
    with running_farebox(folder, metrics_port=port, **settings) as farebox:
        yield farebox, f"http://127.0.0.1:{port}"


@pytest.fixture
def measured(engine: str, tmp_path: Path) -> Iterator[tuple[Farebox, str]]:
    with served(tmp_path) as both:
        yield both


def moved(farebox: Farebox) -> dict[str, int]:
    """Nano-dollars by kind of transfer, from the books."""
    with looking(farebox.services.settings) as connection:
        found = rows(connection, "SELECT kind, sum(amount) FROM transfers GROUP BY kind")
    return {kind: int(amount) for kind, amount in found}


def sdk(customer: Customer, *, api_key: str = "") -> openai.OpenAI:
    url = f"{customer.gateway_url}/compat"
    return openai.OpenAI(base_url=url, api_key=api_key or customer.token, max_retries=0)


def ask(client: openai.OpenAI, text: str, *, demo: str = "") -> str:
    """Make a call; its log ID."""
    response = client.chat.completions.with_raw_response.create(
        model="demo/demo-1",
        messages=[{"role": "user", "content": text}],
        extra_headers={"x-demo": demo} if demo else {},
    )
    return str(response.headers["cf-aig-log-id"])


# Correct figures.


@on_both_engines
def test_the_figures_agree_with_receipts_and_ledger(measured: tuple[Farebox, str]) -> None:
    farebox, url = measured
    customer, poor = farebox.funded("5"), farebox.funded("0.00001")
    with sdk(customer) as client, sdk(poor) as short:
        charged = [ask(client, "word " * number) for number in range(1, 8)]
        stream = client.chat.completions.create(
            model="demo/demo-1", messages=[{"role": "user", "content": "go on"}], stream=True
        )
        assert list(stream)
        with pytest.raises(openai.APIStatusError) as refused:
            ask(short, "word " * 500)
        assert refused.value.status_code == 402
        with pytest.raises(openai.APIStatusError) as failed:
            ask(client, "fail", demo="status=500")
        assert failed.value.status_code == 500
    with sdk(customer, api_key="fbx_no") as client, pytest.raises(openai.AuthenticationError):
        ask(client, "hello")
    until(lambda: Scrape(url)("farebox_calls_total", provider="demo", result="charged") == 8, "the stream is counted")
    found = Scrape(url)
    receipts = sum(customer.receipt(log_id)["charge_nanos"] for log_id in charged)
    books = moved(farebox)
    assert {kind: found.usd(kind) for kind in books} == books
    assert sum(found.usd(kind) for kind in {*found_kinds(found)} - set(books)) == 0
    assert books["charge"] > receipts > 0, "it includes the stream's"
    assert books["charge"] == 5 * NANOS - customer.balance.posted
    results = {name: found("farebox_calls_total", provider="demo", result=name) for name in ("free", "refused")}
    assert results == {"free": 1, "refused": 1}
    causes = {
        dict(labels)["cause"]: value
        for (name, labels), value in found.samples.items()
        if name == "farebox_call_errors_total" and value
    }
    assert causes == {"no_credit": 1, "provider_5xx": 1}
    assert found("farebox_refused_total", error="token_rejected") == 1
    assert found("farebox_settle_seconds_count") == 10
    assert found("farebox_hold_seconds_count") >= 10, "the account without credit tries twice"
    assert found("farebox_call_seconds_count") == 10
    assert found("farebox_first_byte_seconds_count") == 9
    assert found("farebox_commit_seconds_count", of="batch") == found("farebox_batch_size_count") > 0
    assert found("farebox_ledger_slow_commands_total") == 0, "all commands took the fast path"
    assert (found("farebox_database_up"), found("farebox_open_holds"), found("farebox_workers")) == (1, 0, 1)
    assert found("process_resident_memory_bytes", worker="1") > 10**7


def found_kinds(found: Scrape) -> list[str]:
    return [dict(labels)["kind"] for name, labels in found.samples if name == "farebox_money_usd_total"]


@on_both_engines
def test_rolled_back_work_is_not_counted(measured: tuple[Farebox, str]) -> None:
    farebox, url = measured
    account_id, database = farebox.create_account(), farebox.services.database

    def granting(number: int) -> Callable[[Connection], None]:
        def job(connection: Connection) -> None:
            at = farebox.services.clock.now_ms()
            apply(connection, Grant(account_id=account_id, grant_id=str(number), amount=10**number, at=at))
            if number == 5:
                raise ValueError("undone")

        return job

    async def together() -> list[Any]:
        jobs = [database.write(granting(number)) for number in range(1, 10)]
        return await asyncio.gather(*jobs, return_exceptions=True)

    responses = farebox.run(together())
    assert [number for number, response in enumerate(responses, 1) if response is not None] == [5]
    assert Scrape(url).usd("grant") == moved(farebox)["grant"] == sum(10**n for n in range(1, 10)) - 10**5


def test_money_in_and_out_and_processor_responses_are_counted(tmp_path: Path) -> None:
    with served(tmp_path) as (farebox, url):
        account_id = farebox.create_account()
        buyer = Customer(farebox, account_id, farebox.create_token(account_id))
        save_card(buyer)
        bought = http.post(f"{buyer.api_url}/ai-gateway/billing/topup", json={"amount": 5000}, headers=buyer.headers)
        assert result(bought)["payment_intent_id"]
        with looking(farebox.services.settings) as connection:
            [(top_up_id,)] = rows(connection, "SELECT top_up_id FROM top_ups")
        refunded = http.post(
            f"{buyer.api_url}/farebox/refunds",
            json={"top_up_id": top_up_id, "credit_cents": 1200},
            headers=buyer.headers,
        )
        assert refunded.status_code < 300, refunded.text
        wrong = http.post(f"{farebox.url}/webhooks/stripe", content=b"{}", headers={"stripe-signature": "t=1,v1=0"})
        assert wrong.status_code == 400
        assert soon(lambda: Scrape(url)("farebox_processor_webhooks_total", result="stored") > 0)
        found = Scrape(url)
        assert {kind: found.usd(kind) for kind in moved(farebox)} == moved(farebox)
        assert (found.usd("top_up"), found.usd("refund")) == (50 * NANOS, 12 * NANOS)
        assert found("farebox_top_ups_total", state="paid") == 1
        assert found("farebox_processor_webhooks_total", result="refused") == 1


@on_both_engines
def test_waiting_journal_entries_are_counted(measured: tuple[Farebox, str], monkeypatch: pytest.MonkeyPatch) -> None:
    farebox, url = measured
    customer, ledger = farebox.funded("5"), farebox.services.ledger
    away, do = [True], ledger.do

    async def failing(command: Command) -> Any:
        if away[0] and isinstance(command, Settle):
            raise DatabaseUnavailable("away, says the test")
        return await do(command)

    monkeypatch.setattr(ledger, "do", failing)
    assert customer.chat().status_code == 200
    until(lambda: Scrape(url)("farebox_journal_entries") == 1, "a line in the journal")
    found = Scrape(url)
    assert found("farebox_journal_bytes") > 100
    assert found("farebox_journaled_total") == 1
    until(lambda: Scrape(url)("farebox_journal_oldest_age_seconds") > 0, "it grows older")
    assert found.usd("charge") == 0
    away[0] = False
    until(lambda: Scrape(url)("farebox_journal_entries") == 0, "it is posted")
    found = Scrape(url)
    assert found("farebox_journal_bytes") == found("farebox_journal_oldest_age_seconds") == 0
    assert found.usd("charge") == moved(farebox)["charge"] > 0


def test_open_holds_and_their_age_are_reported(measured_here: tuple[Farebox, str]) -> None:
    farebox, url = measured_here
    customer = farebox.funded("5")
    held = http.post(
        f"{customer.api_url}/farebox/holds",
        json={"hold_id": "h1", "amount_nanos": 2 * NANOS},
        headers=customer.headers,
    )
    assert held.status_code < 300, held.text
    found = Scrape(url)
    assert found("farebox_open_holds") == 1
    assert found("farebox_open_holds_usd") == 2
    assert found("farebox_open_holds_oldest_age_seconds") >= 0


@pytest.fixture
def measured_here(tmp_path: Path) -> Iterator[tuple[Farebox, str]]:
    with served(tmp_path) as both:
        yield both


def test_problems_for_the_operator_are_counted(tmp_path: Path) -> None:
    with served(tmp_path, webhook_private="allow") as (farebox, url):
        customer = farebox.funded("5")
        assert customer.chat(headers={"x-demo": "usage=absurd"}).status_code == 200
        assert customer.chat(headers={"x-demo": "status=401"}).status_code == 503
        with receiving(farebox, customer) as statuses:
            for status, result in ((204, "delivered"), (500, "failed"), (410, "given_up")):
                statuses.append(status)
                notify(customer, f"refunded:{status}")
                until(lambda: Scrape(url)("farebox_deliveries_total", by="webhook", result=result) == 1, result)  # noqa: B023
        found = Scrape(url)
        assert found("farebox_usage_disbelieved_total", provider="demo") == 1
        assert found("farebox_operator_alarms_total", kind="usage_disbelieved") == 1
        assert found("farebox_provider_key_trouble_total", provider="demo", reason="key_refused") == 1
        assert found("farebox_call_errors_total", cause="provider_unavailable") == 1
        assert sum(found("farebox_deliveries_total", by="mail", result=name) for name in ("delivered", "failed")) == 0


@contextlib.contextmanager
def receiving(farebox: Farebox, customer: Customer) -> Iterator[list[int]]:
    """An endpoint for the account's messages that answers with these statuses in turn."""
    statuses: list[int] = []

    async def take(exchange: Exchange) -> None:
        exchange.respond(statuses.pop(0), [], b"")

    server = farebox.run(serve(take, "127.0.0.1", 0))
    there = {"url": f"http://127.0.0.1:{server.port}/"}
    assert http.post(f"{customer.api_url}/farebox/webhooks", json=there, headers=customer.headers).status_code == 201
    yield statuses
    farebox.run(server.close())


def notify(customer: Customer, notice_id: str) -> None:
    services = customer.farebox.services

    def job(connection: Connection) -> None:
        account = find_account(connection, customer.account_id)
        assert account is not None
        add_notice(connection, account.bucket, customer.account_id, notice_id, "refunded", {}, services.clock.now_ms())

    customer.farebox.run(services.database.write(job))


async def test_calls_in_flight_and_disconnects_are_counted(measured_here: tuple[Farebox, str]) -> None:
    farebox, url = measured_here
    customer = farebox.funded("5")
    wire = await start(customer, chat_body(), demo="hang=1")
    await asyncio.to_thread(until, lambda: Scrape(url)("farebox_calls_in_flight") == 1, "it is under way")
    assert await asyncio.to_thread(lambda: Scrape(url)("farebox_clients_gone_total")) == 0
    wire.hang_up()
    await asyncio.to_thread(until, lambda: Scrape(url)("farebox_clients_gone_total") == 1, "it has gone")
    found = await asyncio.to_thread(Scrape, url)
    assert found("farebox_call_errors_total", cause="client_gone") == 1
    ended = (found("farebox_calls_total", provider="demo", result=result) for result in ("charged", "released"))
    assert sum(ended) == 1
    await asyncio.to_thread(until, lambda: Scrape(url)("farebox_calls_in_flight") == 0, "nothing is under way")


async def test_held_and_refused_bytes_are_counted(tmp_path: Path) -> None:
    mib = 2**20
    with served(tmp_path, account_held_bytes_max=4 * mib, body_limit_bytes=8 * mib) as (farebox, url):
        customer = farebox.funded("500")
        wire = await start(customer, chat_body("x" * mib), demo="hang=1")
        await asyncio.to_thread(until, lambda: Scrape(url)("farebox_held_bytes") > mib, "its body is held")
        refused = await asyncio.to_thread(lambda: customer.chat("x" * 5 * mib))
        assert refused.status_code in (413, 503)
        wire.hang_up()
        await asyncio.to_thread(until, lambda: Scrape(url)("farebox_held_bytes") == 0, "it is given back")
        found = await asyncio.to_thread(Scrape, url)
        assert found("farebox_held_bytes_refused_total", budget="process") == 0


def test_a_blocked_event_loop_is_reported(measured_here: tuple[Farebox, str]) -> None:
    farebox, url = measured_here
    before = Scrape(url)("farebox_event_loop_lag_seconds_sum")

    async def busy() -> None:
        time.sleep(1)  # noqa: ASYNC251 - it is what must not be done

    farebox.run(busy())
    until(lambda: Scrape(url)("farebox_event_loop_lag_seconds_sum") > before + 0.7, "the lag")


# Robustness.


@on_both_engines
def test_metrics_report_an_unavailable_database_without_failing(
    measured: tuple[Farebox, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    farebox, url = measured
    customer = farebox.funded("5")
    assert customer.chat().status_code == 200
    requested = []

    async def away(read: object) -> None:
        if read is read_figures:  # jobs read too
            requested.append(read)
        raise DatabaseUnavailable("away, says the test")

    monkeypatch.setattr(farebox.services.database, "scan", away)
    for _ in range(5):
        found = Scrape(url)
        assert found("farebox_database_up") == 0
        for name in ("open_holds", "open_holds_usd", "open_top_ups", "deliveries_waiting", "instances"):
            assert not found.has(f"farebox_{name}")
        assert found("farebox_calls_total", provider="demo", result="charged") == 1
    assert len(requested) == 1, "scrapes do not increase it"


def test_every_counting_error_is_caught() -> None:
    place = private(LAYOUT)
    activity = Metrics().activity()
    for wrong in (float("nan"), float("inf"), 1e300, 2**63, -(2**64), "1", None):
        for count in (place.histogram(families.LAG).observe_seconds, place.counter(families.MONEY, "charge").add):
            with contextlib.suppress(*COUNTING_ERRORS):
                count(wrong)  # type: ignore[arg-type]
        activity.batch(wrong, wrong, {("money", "nobody's"): 1})  # type: ignore[arg-type]
        activity.job(wrong, {("money", "charge"): wrong})  # type: ignore[arg-type, dict-item]
    for values in ((), ("a", "b", "c")):
        with pytest.raises(COUNTING_ERRORS):
            place.add(families.MONEY, *values)


@on_both_engines
def test_a_broken_metric_fails_no_call(measured: tuple[Farebox, str], monkeypatch: pytest.MonkeyPatch) -> None:
    farebox, url = measured
    customer = farebox.funded("5")

    def broken(*_: object, **__: object) -> None:
        raise ValueError("broken, says the test")

    for name in ("farebox.counts.Counter.add", "farebox.counts.CounterRow.add", "farebox.counts.CounterRow.put"):
        monkeypatch.setattr(name, broken)
    for name in ("observe", "observe_seconds"):
        monkeypatch.setattr(f"farebox.counts.Histogram.{name}", broken)
    assert customer.chat().status_code == 200
    assert customer.chat(stream=True).text.endswith("data: [DONE]\n\n")
    assert farebox.balance(customer.account_id).held == 0
    assert moved(farebox)["charge"] == 5 * NANOS - customer.balance.posted > 0
    Scrape(url)


# As Prometheus sees it.


PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
installed = pytest.mark.skipif(
    not (PROMETHEUS and PROMTOOL), reason="Prometheus is not installed (on Debian: apt-get install prometheus)"
)


@installed
def test_promtool_accepts_the_metric_names(measured_here: tuple[Farebox, str]) -> None:
    _, url = measured_here
    found = http.get(f"{url}/metrics").text
    checked = subprocess.run(
        [str(PROMTOOL), "check", "metrics"], input=found, capture_output=True, text=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


@installed
@pytest.mark.slow
def test_a_prometheus_scrapes_it(tmp_path: Path) -> None:
    port, token = free_port(), tmp_path / "token"
    token.write_text(TOKEN)
    with served(tmp_path / "data", metrics_token=TOKEN) as (farebox, url):
        customer = farebox.funded("5")
        for number in range(3):
            assert customer.chat("word " * number).status_code == 200
        configuration = example("metrics.md", "prometheus.yml").replace("/etc/prometheus/farebox.token", str(token))
        configuration = configuration.replace("127.0.0.1:9187", url.removeprefix("http://")).replace("15s", "1s")
        (tmp_path / "prometheus.yml").write_text(configuration)
        with scraping(tmp_path, port) as query:
            until(lambda: query('up{job="farebox"}') == ["1"], "a scrape")
            until(lambda: query('farebox_calls_total{provider="demo",result="charged"}') == ["3"], "the calls")
            [charged] = query('farebox_money_usd_total{kind="charge"}')
            assert round(float(charged) * NANOS) == moved(farebox)["charge"]
            assert query("histogram_quantile(0.5, farebox_hold_seconds_bucket) > bool 0") == ["1"]
            assert query('count({__name__=~"farebox_.*"} == 0) > bool 100') == ["1"], (
                "counters that were never incremented are exported"
            )


@contextlib.contextmanager
def scraping(folder: Path, port: int) -> Iterator[Callable[[str], list[str]]]:
    """Run a Prometheus with the configuration in the folder; yields a function that returns the current values of an
    expression."""
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                str(PROMETHEUS),
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/tsdb",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )

    def query(expression: str) -> list[str]:
        try:
            response = http.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": expression})
        except httpx.ConnectError:  # it is still starting
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            return []
        if response.status_code == 503:
            return []
        assert response.status_code == 200, response.text
        return [found["value"][1] for found in response.json()["data"]["result"]]

    try:
        yield query
    finally:
        process.kill()
        process.wait(30)


# Nothing about tenants, and nothing unless enabled.


@on_both_engines
def test_no_label_value_comes_from_a_caller(measured: tuple[Farebox, str]) -> None:
    farebox, url = measured
    before = Scrape(url)
    customer = farebox.funded("5")
    models = ["demo/demo-1", "demo/no-such-model", "nowhere/x", "demo/" + "x" * 200, 'demo/"} 1\nevil_total 1']
    for model in models:
        response = http.post(
            f"{customer.gateway_url}/compat/chat/completions",
            json={"model": model, "messages": [{"role": "user", "content": "hello"}], "user": "a-user-of-mine"},
            headers=customer.headers | {"user-agent": "an-agent", "cf-aig-metadata": '{"team":"secret-team"}'},
        )
        assert response.status_code < 500
    for path in ("v1/other/default/demo/x", f"v1/{customer.account_id}/my-gateway/demo/y", "v1/%22%7D/x/y/z"):
        http.post(f"{farebox.url}/{path}", headers=customer.headers)
    found = Scrape(url)
    assert found.samples.keys() == before.samples.keys()
    for secret in (customer.account_id, customer.token, "evil", "a-user", "an-agent", "my-gateway", "no-such", "team"):
        assert secret not in found.text
    known = {family.name: {label.name: label.values for label in family.labels} for family in FAMILIES}
    for name, labels in found.samples:
        if name.startswith("farebox_") and name != "farebox_build_info":
            base = next(base for base in (name, name.rpartition("_")[0]) if base in known)
            for label, value in labels:
                assert label == "le" or value in known[base][label], (name, label, value)


def test_metrics_are_off_by_default(farebox: Farebox) -> None:
    unknown = http.get(f"{farebox.url}/metricz", headers=BEARER)
    for headers in ({}, BEARER, {"authorization": "Bearer"}):
        response = http.get(f"{farebox.url}/metrics", headers=headers)
        assert (response.status_code, response.text) == (404, unknown.text.replace("metricz", "metrics"))


def test_metrics_require_the_token(tmp_path: Path) -> None:
    with served(tmp_path, metrics_token=TOKEN) as (farebox, own):
        customer = farebox.funded("1")
        for url in (farebox.url, own):
            wrong = ["", "Bearer", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN]
            wrong += [f"Bearer {customer.token}", f"Bearer {TOKEN.upper()}", "Bearer \xff"]
            for value in wrong:
                headers = [(b"authorization", value.encode("latin-1"))] if value else []
                response = httpx.get(f"{url}/metrics", headers=headers)
                assert response.status_code == 401, (url, value)
                assert "farebox_" not in response.text
                assert TOKEN not in response.text
            assert Scrape(url, BEARER).has("farebox_calls_total")
            head = http.head(f"{url}/metrics", headers=BEARER)
            assert (head.status_code, head.content) == (200, b"")
            assert int(head.headers["content-length"]) > 1000
        assert http.get(f"{own}/", headers=BEARER).status_code == 404
        assert http.get(f"{own}/healthz", headers=BEARER).status_code == 404, "that port serves nothing else"
        assert http.post(f"{own}/metrics", headers=BEARER).status_code == 405


def test_the_token_is_compared_in_constant_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def watching(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return left == right

    monkeypatch.setattr("hmac.compare_digest", watching)
    with served(tmp_path, metrics_token=TOKEN) as (farebox, own):
        for url in (farebox.url, own):
            assert http.get(f"{url}/metrics", headers={"authorization": "Bearer x"}).status_code == 401
    assert compared.count((b"x", TOKEN.encode())) == 2


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"metrics_host": "0.0.0.0", "metrics_port": "9100"}, "FAREBOX_METRICS_TOKEN"),
        ({"metrics_host": "::", "metrics_port": "9100"}, "FAREBOX_METRICS_TOKEN"),
        ({"metrics_host": "metrics.example.com", "metrics_port": "9100"}, "FAREBOX_METRICS_TOKEN"),
        ({"metrics_token": "short"}, "FAREBOX_METRICS_TOKEN"),
        ({"metrics_token": "x" * 16 + " "}, "FAREBOX_METRICS_TOKEN"),
        ({"metrics_port": "8787"}, "FAREBOX_METRICS_PORT"),
    ],
)
def test_settings_that_would_expose_metrics_are_refused(settings: dict[str, str], wrong: str) -> None:
    with pytest.raises(SettingsError, match=wrong):
        check_settings(load({f"FAREBOX_{name.upper()}": value for name, value in settings.items()}))


def test_serve_refuses_a_public_metrics_address_without_a_token(tmp_path: Path) -> None:
    environment = os.environ | {"FAREBOX_METRICS_HOST": "0.0.0.0", "FAREBOX_METRICS_PORT": str(free_port())}
    refused = processes.run(["--data-dir", str(tmp_path), "serve"], env=environment)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "set FAREBOX_METRICS_TOKEN" in refused.stderr


# Background jobs and providers.


def test_restarted_jobs_and_failing_providers_are_counted(measured_here: tuple[Farebox, str]) -> None:
    farebox, url = measured_here
    services = farebox.services
    assert set(periodic_jobs(services)) <= set(JOBS)
    before = Scrape(url)("farebox_job_restarts_total", job="refunds")
    services.jobs.failed("refunds", LookupError("planted"))
    services.jobs.failed("refunds", KeyError("planted"))
    services.jobs.failed("what nobody has listed", None)
    services.upstream.count("tls_expired")
    found = Scrape(url)
    assert found("farebox_job_restarts_total", job="refunds") == before + 2
    assert found("farebox_job_restarts_total", job="other") == 1
    assert found("farebox_upstream_failures_total", cause="tls_expired") == 1
    assert (found("farebox_jobs_late"), found("farebox_upstream_resent_total")) == (0, 0)
