"""The state file: a fake that is started again has the same state."""

import signal
import subprocess
import sys
from pathlib import Path

from support import SECRET, Fake, Receiver, running_fake, state_file


def test_state_survives_a_restart(tmp_path: Path) -> None:
    path = state_file(tmp_path)
    with running_fake(state=path) as fake:
        customer = fake.customer("pm_card_visa")
        charge = {"amount": "1000", "currency": "usd", "payment_method": "pm_card_visa", "confirm": "true"}
        first = fake.call("POST", "/v1/payment_intents", charge, idempotency_key="k1").json()
        fake.v1.customers.update(customer.id, {"name": "renamed"})
        gone = fake.v1.products.create({"name": "gone"})
        fake.v1.products.delete(gone.id)
        events = fake.types()
        fake.advance(5000)
        before = fake.control("GET", "ledger")
    with running_fake(state=path) as fake:
        assert fake.v1.customers.retrieve(customer.id).name == "renamed"
        assert fake.control("GET", "ledger") == before
        assert fake.control("GET", "clock")["offset_seconds"] == 5000
        assert fake.types() == events
        assert fake.v1.products.list().data == []
        again = fake.call("POST", "/v1/payment_intents", charge, idempotency_key="k1")
        assert again.json()["id"] == first["id"]
        assert again.headers["idempotent-replayed"] == "true"
        customer.fake = fake
        assert customer.charge().status == "succeeded"


def test_a_torn_line_is_left_out_and_the_file_stays_small(tmp_path: Path) -> None:
    path = state_file(tmp_path)
    with running_fake(state=path) as fake:
        made = fake.v1.customers.create({"name": "0"})
        for n in range(20):
            fake.v1.customers.update(made.id, {"name": str(n)})
    whole = path.read_text()
    path.write_text(whole + whole.splitlines()[0][:100])
    with running_fake(state=path) as fake:
        assert fake.v1.customers.retrieve(made.id).name == "19"
    assert sum(made.id in line and '"object":"customer"' in line[:20] for line in path.read_text().splitlines()) <= 1


def test_events_that_were_not_delivered_are_so_after_a_restart(tmp_path: Path, receiver: Receiver) -> None:
    path = state_file(tmp_path)
    with running_fake(state=path, webhook_url=receiver.url, webhook_secret=SECRET) as fake:
        fake.control("POST", "webhooks", mode="hold")
        fake.v1.customers.create({"name": "x"})
    assert receiver.events == []
    with running_fake(state=path, webhook_url=receiver.url, webhook_secret=SECRET):
        receiver.wait_for(1, "customer.created")


def test_forgetting_everything(tmp_path: Path) -> None:
    path = state_file(tmp_path)
    with running_fake(state=path) as fake:
        fake.v1.customers.create({"name": "x"})
        fake.control("DELETE", "state")
        fake.v1.customers.create({"name": "y"})
    with running_fake(state=path) as fake:
        assert [customer.name for customer in fake.v1.customers.list().data] == ["y"]


def test_addresses_follow_the_server(tmp_path: Path, receiver: Receiver) -> None:
    path = state_file(tmp_path)
    with running_fake(state=path, public_url="http://pay.example/", webhook_url=receiver.url) as fake:
        invoice = fake.customer().invoice()
        assert str(invoice.hosted_invoice_url).startswith("http://pay.example/i/")
    with running_fake(state=path) as fake:
        kept = fake.v1.invoices.retrieve(invoice.id)
        assert "Invoice" in fake.http.get(str(kept.hosted_invoice_url)).text
        assert str(kept.invoice_pdf).startswith(fake.url)
        assert fake.v1.webhook_endpoints.list().data == []  # none was named this time


def test_the_command_serves_until_it_is_stopped() -> None:
    command = [sys.executable, "-m", "fake_stripe", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        fake = Fake(url)
        assert fake.v1.customers.list().data == []
        fake.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
