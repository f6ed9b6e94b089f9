"""Work in queues belongs to no process: each finds all of it."""

import os
import signal
from functools import partial

import pytest

from farebox.clock import RandomIds
from farebox.operator import administer
from farebox.storage.buckets import bucket_numbers
from farebox.storage.notices import add_notice
from farebox.storage.sql import Connection
from farebox.vault import Vault
from tests.engines import TESTER
from tests.multiprocess.conftest import NewInstallation
from tests.multiprocess.kit import Installation, eventually

pytestmark = pytest.mark.slow

BUCKETS = 4
NEW = "SELECT bucket FROM notices WHERE fanned_out = 0"


async def every_bucket_is_searched(installation: Installation) -> None:
    """Put a notice into one bucket after another, as a command does, which works off no queue itself."""

    def fill(connection: Connection, ids: RandomIds, _: Vault, at: int, *, bucket: int) -> None:
        made = None
        while made is None or made.bucket != bucket:
            made = administer.create_account(connection, ids, by=TESTER, name="a", at=at, buckets=BUCKETS)
        add_notice(connection, bucket, made.account_id, "one", "export_failing", {}, at)

    for bucket in bucket_numbers(BUCKETS):
        installation.write(partial(fill, bucket=bucket))
        await eventually(lambda: not installation.read(NEW), f"the notice in bucket {bucket} is found")


async def test_the_work_of_a_killed_process_is_found_before_its_death_is_known(
    new_installation: NewInstallation,
) -> None:
    installation = new_installation(buckets=str(BUCKETS), instance_timeout_ms="3600000")
    with installation.serving(workers=2) as server:
        await eventually(lambda: len(installation.read("SELECT 1 FROM instances")) == 2, "both are there")
        killed, _ = server.workers
        os.kill(server.process.pid, signal.SIGSTOP)  # it would start another one
        os.kill(killed, signal.SIGKILL)
        await every_bucket_is_searched(installation)
        assert len(installation.read("SELECT 1 FROM instances")) == 2, "the dead one still counts"


async def test_a_process_that_hangs_keeps_no_work_from_the_others(new_installation: NewInstallation) -> None:
    installation = new_installation(buckets=str(BUCKETS))
    with installation.serving() as server:
        for pid in server.workers[:2]:
            os.kill(pid, signal.SIGSTOP)
        await every_bucket_is_searched(installation)
