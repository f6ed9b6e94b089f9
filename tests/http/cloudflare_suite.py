"""Cloudflare's own tests of its Python SDK for AI Gateway, run against a Farebox with a fake Stripe.

    python -m tests.http.cloudflare_suite [--cache FOLDER] [pytest arguments …]

The tests are taken from the SDK's source distribution on PyPI at run time; this repository contains none of
Cloudflare's code. They use fixed IDs, so before each test the harness (not the product) wipes the accounts and seeds
them again: for billing by the program's own use cases (a saved card, a purchase, an auto top-up, a spending limit,
usage), otherwise with gateways, a log, a dynamic route, datasets, an evaluation, custom providers with keys, a log
destination and a DLP profile.

Three placeholders with which the suite creates gateways are invalid, so Farebox refuses them: a public key of sixteen
x, and a key and a template for Stripe. The plugin replaces them with real ones (`REAL_VALUES`); everything else is sent
as the suite has it.
"""

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fake_stripe import RunningFakeStripe, start_fake_stripe
from farebox.billing import auto_top_up, top_up
from farebox.calls.evaluations import EVALUATORS
from farebox.calls.spending import spending_limit
from farebox.custom_provider import CustomProviderConfig
from farebox.detection.own_profiles import Entry, OwnProfile
from farebox.gateway import GatewayConfig
from farebox.log_destination import DestinationSecrets, LogDestination, destination_place
from farebox.runtime.own_providers import secret_place
from farebox.runtime.services import Services
from farebox.storage.account_keys import AccountKey, key_of
from farebox.storage.accounts import add_account, add_user
from farebox.storage.calls import CallDetail, CallRow, insert_call
from farebox.storage.custom_providers import CustomProviderRow, put_provider
from farebox.storage.datasets import DATASETS, DatasetRow, EvaluationRow, add_evaluation
from farebox.storage.dlp_profiles import PROFILES, DlpProfileRow
from farebox.storage.dynamic_routes import DeploymentRow, RouteRow, VersionRow, add_route, add_version
from farebox.storage.gateways import GatewayRow, put_gateway
from farebox.storage.log_destinations import DestinationRow, put_destination
from farebox.storage.provider_configs import SecretRow, put_secret
from farebox.storage.sql import Connection
from farebox.storage.tables import tables
from tests.http.support import attach_card, make_default
from tests.http.test_dynamic_routes import PLAIN
from tests.support import Customer, Farebox, quiet_logs, running_farebox

VERSION = "5.9.0"
ACCOUNT = "account_id"
EMAIL, KEY = "user@example.com", "144c9defac04969c7bfad8efaa8ea194"
CARD, INVOICE = "pm_123", "in_1abc"
NEEDS = ("pytest", "pytest-asyncio", "respx", "time-machine", "dirty-equals", "nest-asyncio", "rich")
BUILD_NEEDS = ("hatchling", "hatch-fancy-pypi-readme")
FILES = ("tests/api_resources/ai_gateway", "tests/api_resources/test_ai_gateway.py")
LAB, SHOP = "3ebbcb006d4d46d7bb6a8c7f14676cb0", "0d37909e38d3e99c29fa2cd343ac421a"
"""Accounts of the suite: one with datasets, one with logs and routes."""
GATEWAY, ROUTE, PROVIDER = "my-gateway", "54442216", "182bd5e5-6e1a-4fe4-a799-aa6d9a6ab26e"


def main() -> int:
    """Run the suite; the exit status is pytest's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cache", type=Path, help="folder for the suite and its environment, outside of the repository"
    )
    options, further = parser.parse_known_args()
    cache = options.cache or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "farebox-cloudflare"
    suite, python = prepared(cache)
    quiet_logs()
    with seeded_server() as (farebox, reset_url):
        command = [str(python), "-m", "pytest", "-p", "cloudflare_plugin", "-c", str(suite / "pytest.ini")]
        command += ["--rootdir", str(suite), *FILES, "-q", "--no-header", "--tb=line", *further]
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parent),
            "TEST_API_BASE_URL": f"{farebox.url}/client/v4",
            "FAREBOX_TEST_RESET_URL": reset_url,
            "FAREBOX_TEST_REAL_VALUES": json.dumps(real_values()),
        }
        return subprocess.run(command, cwd=suite, env=environment, check=False).returncode


def real_values() -> dict[str, str]:
    """Real values by the placeholders of the suite, in the fields that the plugin replaces."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    return {
        "logpush_public_key": key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        "authorization": "sk_test_of_the_suite",
        "payload": json.dumps({"event_name": "e", "payload": {"stripe_customer_id": "cus_1", "value": "$cost"}}),
    }


def prepared(cache: Path) -> tuple[Path, Path]:
    """The folder of the suite, and the Python that runs it; downloaded on first use."""
    suite, environment = cache / f"cloudflare-{VERSION}", cache / "venv"
    python = environment / "bin" / "python"
    if not (suite / "pytest.ini").exists():
        cache.mkdir(parents=True, exist_ok=True)
        venv.create(environment, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet"]
        subprocess.run([*pip, "install", f"cloudflare[aiohttp]=={VERSION}", *NEEDS, *BUILD_NEEDS], check=True)
        source = ["download", "--no-deps", "--no-binary", "cloudflare", "--no-build-isolation", "--dest", str(cache)]
        subprocess.run([*pip, *source, f"cloudflare=={VERSION}"], check=True)
        with tarfile.open(cache / f"cloudflare-{VERSION}.tar.gz") as archive:
            members = [item for item in archive if item.name.startswith(f"cloudflare-{VERSION}/tests/")]
            archive.extractall(cache, members, filter="data")
        ini = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = session\n"
        (suite / "pytest.ini").write_text(ini)
    return suite, python


@contextlib.contextmanager
def seeded_server() -> Iterator[tuple[Farebox, str]]:
    """A Farebox with payments, and the URL that reseeds it."""
    with tempfile.TemporaryDirectory() as folder, running_fake() as fake, _served(Path(folder), fake) as farebox:

        class Reset(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                test = json.loads(self.rfile.read(int(self.headers.get("content-length", "0"))))["test"]
                try:
                    wipe(farebox, fake)
                    if "billing" in test:
                        seed(farebox, fake)
                    else:
                        seed_gateways(farebox, without_gateway="test_ai_gateway.py" in test and "_create" in test)
                except Exception as error:
                    self.send_error(500, f"{type(error).__name__}: {error}"[:200])
                    raise
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *values: object) -> None:
                """Log nothing."""

        harness = ThreadingHTTPServer(("127.0.0.1", 0), Reset)
        thread = threading.Thread(target=harness.serve_forever)
        thread.start()
        try:
            yield farebox, f"http://127.0.0.1:{harness.server_address[1]}/"
        finally:
            harness.shutdown()
            thread.join()
            harness.server_close()


@dataclass
class Fake:
    """A fake Stripe in a separate loop; the harness can rename its objects to the IDs that the suite expects."""

    running: RunningFakeStripe
    loop: asyncio.AbstractEventLoop

    def rename(self, card_id: str, name: str) -> None:
        async def job() -> None:
            store = self.running.app.world.store
            card = store.get("payment_method", card_id)
            store.remove(card)
            store.add(card | {"id": name})

        asyncio.run_coroutine_threadsafe(job(), self.loop).result(10)


@contextlib.contextmanager
def running_fake() -> Iterator[Fake]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        running = asyncio.run_coroutine_threadsafe(start_fake_stripe(), loop).result(30)
        yield Fake(running, loop)
        asyncio.run_coroutine_threadsafe(running.close(), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _served(folder: Path, fake: Fake) -> contextlib.AbstractContextManager[Farebox]:
    return running_farebox(
        folder,
        stripe_secret_key="sk_test_suite",
        stripe_webhook_secret="whsec_suite",
        stripe_api_base=fake.running.url,
        guardrails_url="http://127.0.0.1:9/judge",  # no calls are made that need this or the next
        classifier_url="http://127.0.0.1:9/classify",
    )


def wipe(farebox: Farebox, fake: Fake) -> None:
    """Delete the account here, and everything at the fake Stripe."""
    httpx.delete(f"{fake.running.url}/_fake/state").raise_for_status()

    def job(connection: Connection) -> None:
        for table in tables():
            if "account_id" in table.columns:
                for account_id in (ACCOUNT, LAB, SHOP):
                    connection.execute(f"DELETE FROM {table.name} WHERE account_id = ?", (account_id,))

    farebox.run(farebox.services.database.write(job))
    farebox.run(farebox.services.configuration.notice_changes())


def seed(farebox: Farebox, fake: Fake) -> None:
    """Create the account as the suite expects it, by the same use cases that serve the API."""
    services = farebox.services
    farebox.run(services.database.write(partial(_account_and_user, services=services)))
    customer = Customer(farebox, ACCOUNT, farebox.create_token(ACCOUNT))
    card_id = attach_card(customer, fake.running.url)
    fake.rename(card_id, CARD)
    make_default(customer, fake.running.url, CARD)
    bought = farebox.run(top_up.buy(services, ACCOUNT, credit_cents=5000))
    assert bought.state == "paid", bought
    farebox.run(services.database.write(partial(_rename, payment_id=str(bought.payment_id))))
    farebox.run(auto_top_up.set_rule(services, ACCOUNT, amount_cents=5000, threshold_cents=500))
    limit = spending_limit.put(services, ACCOUNT, amount_cents=10000, duration="monthly", strategy="fixed")
    farebox.run(limit)
    assert customer.chat().status_code == 200


def _account_and_user(connection: Connection, services: Services) -> None:
    at = services.clock.now_ms()
    for account_id in (ACCOUNT, LAB, SHOP):
        add_account(connection, account_id, "Cloudflare's suite", at)
    add_user(connection, EMAIL, services.vault.hash_token(KEY), [ACCOUNT, LAB, SHOP], at)


def seed_gateways(farebox: Farebox, *, without_gateway: bool) -> None:
    """Create the accounts as the suite expects them, except for billing."""
    EVALUATORS["string"] = EVALUATORS["cost"]
    services = farebox.services
    at = services.clock.now_ms()
    config = msgspec.json.encode(GatewayConfig())
    start = '[{"id": "start", "type": "start", "outputs": {"next": {"elementId": "end"}}}]'
    elements = msgspec.json.encode(PLAIN).decode()

    def job(connection: Connection) -> None:
        _account_and_user(connection, services)
        if not without_gateway:
            put_gateway(connection, GatewayRow(LAB, GATEWAY, config, at, at))
        put_gateway(connection, GatewayRow(SHOP, GATEWAY, config, at, at))
        put_gateway(connection, GatewayRow(SHOP, ROUTE, config, at, at))
        _own_providers(connection, services, at)
        profile = OwnProfile(name="of the suite", entries=(Entry(id="first", name="first", keyword="confidential"),))
        PROFILES.put(connection, DlpProfileRow(LAB, "string", msgspec.json.encode(profile).decode(), at, at))
        for dataset_id in ("id", "string"):
            filters = '[{"key": "model", "operator": "eq", "value": ["demo-1"]}]'
            DATASETS.put(connection, DatasetRow(LAB, GATEWAY, dataset_id, dataset_id, True, filters, at, at))
        dataset = '[{"id": "id", "name": "id", "enable": true, "filters": [], "created_at": 0, "modified_at": 0}]'
        result = '[{"id": "result", "type_id": "cost", "created_at": 0, "modified_at": 0}]'
        evaluation = EvaluationRow(LAB, GATEWAY, "id", "first", dataset, result, 0, False, at, at)
        add_evaluation(connection, evaluation, due_at=at)
        version = VersionRow(ROUTE, elements, True, at)
        deployment = DeploymentRow(ROUTE, ROUTE, at)
        add_route(connection, RouteRow(SHOP, ROUTE, ROUTE, "first", at, at, version, deployment))
        add_version(connection, SHOP, ROUTE, ROUTE, VersionRow("0", start, False, at))
        own = CustomProviderConfig(name="first", base_url="https://models.example.com/v1")
        row = CustomProviderRow(PROVIDER, "first", msgspec.json.encode(own), None, at, at)
        put_provider(connection, AccountKey(0, LAB), row)
        detail = CallDetail(request_content_type="application/json", response_content_type="application/json")
        call = CallRow(
            SHOP, "id", GATEWAY, at, "demo", "demo-1", True, 200, 5, 1, 1, 1, 0, detail, None, True,
            b'{"model": "demo-1"}', b'{"object": "chat.completion"}',
        )  # fmt: skip
        insert_call(connection, 0, call)

    farebox.run(services.database.write(job))
    farebox.run(services.configuration.notice_changes())


def _own_providers(connection: Connection, services: Services, at: int) -> None:
    """The custom provider that is read and deleted, one for keys, and the secret that a config without its own refers
    to."""
    key = key_of(connection, LAB)
    providers = ((PROVIDER, "first"), ("second", "provider_slug"), ("third", "spans"))
    config = msgspec.json.encode(CustomProviderConfig(name="x", base_url="https://example.com"))
    for provider_id, slug in providers:
        put_provider(connection, key, CustomProviderRow(provider_id, slug, config, None, at, at))
    secret_id = f"{GATEWAY}_custom-provider_slug_alias"
    _put_secret(connection, services, secret_id, "custom-provider_slug", "", at)
    _put_secret(connection, services, "authorization", "custom-spans", "store_id", at)
    to = LogDestination(type="http", url="https://logs.example.com")
    none = services.vault.encrypt(msgspec.json.encode(DestinationSecrets()).decode(), destination_place(LAB))
    put_destination(connection, key, DestinationRow(msgspec.json.encode(to).decode(), none, at, at))


def _put_secret(connection: Connection, services: Services, secret_id: str, slug: str, store: str, at: int) -> None:
    sealed = services.vault.encrypt("sk-of-the-suite", secret_place(LAB, secret_id))
    put_secret(connection, key_of(connection, LAB), SecretRow(secret_id, slug, store, sealed, "…", at))


def _rename(connection: Connection, payment_id: str) -> None:
    """Rename the purchase's invoice to the ID that the suite requests."""
    for table, column in (("top_ups", "payment_id"), ("payments", "payment_id"), ("documents", "cause_id")):
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (INVOICE, payment_id))


if __name__ == "__main__":
    sys.exit(main())
