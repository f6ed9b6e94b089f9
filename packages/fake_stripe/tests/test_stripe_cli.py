"""`stripe trigger`: the official CLI runs its own fixtures against the fake."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support import KEY, Fake

NODE = Path(__file__).parent / "node"
PROGRAM = NODE / "node_modules" / ".bin" / "stripe"
NOWHERE = "http://127.0.0.1:1"
TO_US_ALONE = {"STRIPE_CLI_TELEMETRY_OPTOUT": "1", "HTTPS_PROXY": NOWHERE, "HTTP_PROXY": NOWHERE}
"""In every run, the CLI reports its use to Stripe and asks GitHub for a newer version, which takes seconds if these
respond slowly or not at all. Loopback bypasses the proxy."""
SHORT_LIVED = {"GOMAXPROCS": "1", "GOGC": "off"}
"""The process is short-lived: without a second thread and garbage collection it takes a quarter less processor time."""

EVENTS = [
    "customer.created",
    "customer.updated",
    "customer.deleted",
    "payment_method.attached",
    "payment_method.detached",
    "payment_method.updated",
    "setup_intent.created",
    "setup_intent.succeeded",
    "setup_intent.setup_failed",
    "setup_intent.canceled",
    "setup_intent.requires_action",
    "payment_intent.created",
    "payment_intent.succeeded",
    "payment_intent.payment_failed",
    "payment_intent.requires_action",
    "payment_intent.canceled",
    "payment_intent.amount_capturable_updated",
    "payment_intent.processing",
    "charge.succeeded",
    "charge.failed",
    "charge.captured",
    "charge.refunded",
    "charge.refund.updated",
    "charge.dispute.created",
    "charge.dispute.updated",
    "charge.dispute.closed",
    "checkout.session.completed",
    "checkout.session.expired",
    "invoice.created",
    "invoice.updated",
    "invoice.finalized",
    "invoice.paid",
    "invoice.payment_succeeded",
    "invoice.payment_failed",
    "invoice.payment_action_required",
    "invoice.voided",
    "invoice.sent",
    "invoice.deleted",
    "invoice.marked_uncollectible",
    "invoiceitem.created",
    "invoiceitem.deleted",
    "product.created",
    "product.updated",
    "product.deleted",
    "price.created",
    "price.updated",
    "tax_rate.created",
    "tax_rate.updated",
    "coupon.created",
    "coupon.updated",
    "coupon.deleted",
    "credit_note.created",
    "credit_note.updated",
    "credit_note.voided",
    "test_helpers.test_clock.created",
    "test_helpers.test_clock.advancing",
    "test_helpers.test_clock.deleted",
    "test_helpers.test_clock.ready",
]


@pytest.fixture(scope="module")
def program() -> Path:
    """The stripe program from the packages in node/package.json: the binary itself, which Node would only start."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not on this machine")
    # One installation at a time, because tests may run in several processes.
    with (NODE / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not PROGRAM.exists():
            command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
            installed = subprocess.run(command, cwd=NODE, capture_output=True, text=True, timeout=300, check=False)
            if installed.returncode != 0:
                pytest.skip(f"npm could not install the program: {installed.stderr.strip()[-300:]}")
    return next(NODE.glob("node_modules/@stripe/cli-*/bin/stripe"), PROGRAM)


@pytest.mark.slow
@pytest.mark.parametrize("event", EVENTS)
def test_trigger(program: Path, fake: Fake, tmp_path: Path, event: str) -> None:
    ended = subprocess.run(
        [program, "trigger", event, "--api-base", fake.url, "--api-key", KEY],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)} | TO_US_ALONE | SHORT_LIVED,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert event in fake.types()
