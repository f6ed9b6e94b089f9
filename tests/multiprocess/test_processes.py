"""`farebox serve --workers N` as an operator sees it: start, stop, deaths, refusals."""

import os
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from tests import processes
from tests.calls.wire import chat_body
from tests.multiprocess.conftest import NewInstallation
from tests.multiprocess.kit import Installation, Server, call, calls, children_of, eventually, is_alive, start
from tests.support import free_port

pytestmark = pytest.mark.slow


async def test_the_address_is_reported_once_and_a_stop_completes_calls(new_installation: NewInstallation) -> None:
    installation = new_installation()
    with installation.serving(workers=2, forked=False) as server:
        workers = server.workers
        assert len(workers) == 2
        assert len(installation.read("SELECT instance_id FROM instances")) == 2
        caller = installation.caller()
        wires = [await start(installation, caller, chat_body(stream=True), demo="tokens=20 gap=50") for _ in range(9)]
        for wire in wires:
            await wire.head()
        server.process.send_signal(signal.SIGTERM)
        responses = [await wire.response() for wire in wires]
        assert all(response.whole and response.events[-1] == "[DONE]" for response in responses)
        assert server.process.wait(30) == 0
        assert server.process.stdout is not None
        assert server.process.stdout.read() == b"", "one line, and no more"
    assert not any(is_alive(pid) for pid in workers)
    assert instances(installation) == set()
    assert installation.balance(caller)[1] == 0
    assert installation.read("SELECT count(*) FROM calls WHERE charge > 0") == [(9,)]


def instances(installation: Installation) -> set[str]:
    """The processes that the database knows."""
    return {instance for (instance,) in installation.read("SELECT instance_id FROM instances")}


async def test_a_worker_that_dies_is_started_again(installation: Installation, server: Server) -> None:
    before, seen = server.workers, instances(installation)
    os.kill(before[0], signal.SIGKILL)
    await eventually(lambda: len(server.workers) == 3 and before[0] not in server.workers, "another worker")
    await eventually(lambda: installation.logged("worker_died"), "the death is logged")  # lines may be written later
    [line, *_] = installation.logged("worker_died")
    assert (line["pid"], line["status"]) == (before[0], -9)
    await eventually(
        lambda: len(instances(installation)) == 3 and len(instances(installation) & seen) == 2,
        "three are seen, and the dead one is not",
    )
    caller = installation.caller()
    assert {response.status for response in await calls(installation, caller, chat_body(), 12)} == {200}


async def test_workers_stop_when_the_parent_is_killed(new_installation: NewInstallation) -> None:
    installation = new_installation()
    with installation.serving(workers=2) as server:
        workers = server.workers
        caller = installation.caller()
        hanging = [await start(installation, caller, chat_body(), demo="hang=1") for _ in range(3)]
        await eventually(lambda: installation.balance(caller)[1] > 0, "a call is under way")
        os.kill(server.process.pid, signal.SIGKILL)
        assert server.process.wait(10) == -signal.SIGKILL
        await eventually(lambda: not any(is_alive(pid) for pid in workers), "the workers have gone")
        for wire in hanging:
            wire.close()
    assert installation.balance(caller)[1] == 0, "they stopped cleanly, and completed their calls"
    assert instances(installation) == set()
    with installation.serving(workers=1):
        assert (await call(installation, caller, chat_body())).status == 200


def test_the_command_stops_if_the_first_worker_cannot_serve(new_installation: NewInstallation) -> None:
    installation = new_installation()
    installation.database_url = installation.database_url.rpartition("/")[0] + "/nowhere"
    refused = installation.command("serve", "--workers", "2", "--port", str(installation.port))
    assert refused.returncode == 1
    assert refused.stdout == ""
    last = refused.stderr.splitlines()[-1]
    assert last.startswith("farebox: ")
    assert "nowhere" in last


def test_a_port_that_is_taken_is_refused(new_installation: NewInstallation) -> None:
    installation = new_installation()
    with socket.create_server(("127.0.0.1", installation.port)):
        refused = installation.command("serve", "--workers", "2", "--port", str(installation.port))
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"farebox: cannot listen on 127.0.0.1:{installation.port}")


@pytest.mark.parametrize("arguments", [(), ("--demo", "--welcome", "--json")])
def test_on_sqlite_several_workers_are_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FAREBOX_")}
    data = tmp_path / "data"
    refused = processes.run(["--data-dir", str(data), "serve", "--workers", "2", *arguments], env=environment)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("farebox: an SQLite database is served by one process")
    assert "FAREBOX_DATABASE_URL" in refused.stderr
    assert not data.exists(), "refused before anything is created"


async def test_two_servers_on_one_database_see_each_other(installation: Installation, server: Server) -> None:
    assert len(server.workers) == 3
    other = replace(installation, port=free_port())
    with other.serving(workers=1) as alone:
        assert children_of(alone.process.pid) == [], "a single worker is the command's own process"
        assert len(instances(installation)) == 4
        caller = installation.caller()
        assert [(await call(place, caller, chat_body())).status for place in (installation, other)] == [200, 200]
        assert alone.stop() == 0
    assert len(instances(installation)) == 3
