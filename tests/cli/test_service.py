"""The service itself on the command line: init, migrate, serve, failures, speed."""

import io
import itertools
import json
import os
import platform
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import apsw
import httpx
import pytest

import farebox
from farebox.settings import load
from farebox.storage.database import opened_for_command
from tests import processes
from tests.cli.conftest import Cli
from tests.engines import SQLITE_ONLY, engine_now, postgres_server
from tests.support import free_port


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@SQLITE_ONLY
def test_init_creates_only_missing_files(cli: Cli, data_dir: Path) -> None:
    first = cli("init", "--json").json
    key = (data_dir / "secret.key").read_bytes()
    assert (first["database_created"], first["secret_key_created"]) == (True, True)
    assert (_mode(data_dir), _mode(data_dir / "secret.key")) == (0o700, 0o600)
    second = cli("init", "--json").json
    assert (second["database_created"], second["secret_key_created"]) == (False, False)
    assert (data_dir / "secret.key").read_bytes() == key


def test_migrate_says_what_it_applied(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine_now() == "postgres":
        monkeypatch.setenv("FAREBOX_DATABASE_URL", postgres_server().new_database())  # an empty SQLite file
    first = cli("migrate", "--json").json
    assert first["applied"][-1] == first["schema_version"]
    assert cli("migrate", "--json").json == {"applied": [], "schema_version": first["schema_version"]}


@SQLITE_ONLY
@pytest.mark.parametrize("command", [("migrate",), ("account", "list"), ("check",), ("serve",)])
def test_a_database_too_old_to_upgrade_is_refused(cli: Cli, data_dir: Path, command: tuple[str, ...]) -> None:
    data_dir.mkdir()
    connection = apsw.Connection(str(data_dir / "farebox.db"))
    connection.execute("CREATE TABLE accounts (account_id TEXT); PRAGMA user_version = 6")
    connection.close()
    refused = cli(*command, *(("--port", str(free_port())) if command == ("serve",) else ()))
    assert (refused.status, refused.out) == (1, "")
    assert "install Farebox 0.5.0, run `farebox migrate` once" in refused.err


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (("init",), "File exists"),
        (("account", "create", "--name", "Acme"), "File exists"),
        (("serve",), "File exists"),
        (("status",), "Not a directory"),
    ],
)
def test_an_unusable_data_folder_is_named_with_a_remedy(
    cli: Cli, tmp_path: Path, command: tuple[str, ...], why: str
) -> None:
    (tmp_path / "file").write_text("")
    refused = cli("--data-dir", str(tmp_path / "file"), *command)
    assert (refused.status, refused.out) == (1, "")
    assert f"file cannot be used ({why}): choose another with `farebox --data-dir DIR …`" in refused.err


@SQLITE_ONLY
def test_read_commands_do_not_create_a_database(cli: Cli, data_dir: Path) -> None:
    for command in (("account", "list"), ("balance", "--account", "a"), ("check",), ("provider", "list")):
        refused = cli(*command)
        assert refused.status == 1
        assert "`farebox init`" in refused.err
    assert not data_dir.exists()


@SQLITE_ONLY
def test_the_data_folder_may_be_named_on_the_command_line(cli: Cli, tmp_path: Path, data_dir: Path) -> None:
    assert cli("--data-dir", str(tmp_path / "other"), "init").status == 0
    assert (tmp_path / "other" / "farebox.db").exists()
    assert not data_dir.exists()


def test_a_wrong_setting_is_refused_in_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAREBOX_PORT", "many")
    refused = cli("account", "list")
    assert (refused.status, refused.err) == (1, "farebox: FAREBOX_PORT is “many”: it must be a whole number\n")
    assert cli("account", "list", "--help").status == 0  # help does not read settings


@SQLITE_ONLY
def test_a_file_that_is_not_a_database_is_refused_by_name(cli: Cli, data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "farebox.db").write_text("no database, but long enough to be taken for one: " + "x" * 100)
    refused = cli("account", "list")
    assert (refused.status, refused.err.count("\n")) == (1, 1)
    assert "farebox.db cannot be opened as a database" in refused.err


def test_an_unexpected_failure_is_reported_in_one_line(cli: Cli, data_dir: Path) -> None:
    assert cli("init").status == 0
    with opened_for_command(load()) as connection:
        connection.execute("DROP TABLE accounts")
    refused = cli("account", "list")
    assert (refused.status, refused.err.count("\n")) == (1, 1)
    assert "--traceback" in refused.err


@SQLITE_ONLY
def test_a_traceback_shows_no_values(process: Cli) -> None:
    """Values of variables may be secrets."""
    secret = "fbx_" + "s" * 43
    assert process("init").status == 0
    with opened_for_command(load()) as connection:
        connection.execute("DROP TABLE accounts")
    failed = process("--traceback", "account", "show", secret)
    assert failed.status == 1
    assert "Traceback (most recent call last)" in failed.err
    assert "no such table" in failed.err.splitlines()[-1]
    assert secret not in failed.err


def test_mistyped_commands_are_usage_errors(cli: Cli) -> None:
    for command in (("nope",), ("account",), ("account", "create"), ("balance", "--acount", "a"), ()):
        assert cli(*command).status == 2


def test_an_unknown_command_is_answered_with_the_nearest_one_and_the_help(cli: Cli) -> None:
    assert cli("foo").err.endswith("Try 'farebox --help' for help.\n\nError: No such command 'foo'.\n")
    assert cli("tokn").err.endswith("No such command 'tokn'. Did you mean 'token'?\n")
    assert cli("token", "creat").err.endswith("No such command 'creat'. Did you mean 'create'?\n")


def test_version(cli: Cli) -> None:
    assert cli("version", "--json").json == {"version": farebox.__version__}


def test_the_whole_flow_in_separate_processes(process: Cli) -> None:
    account_id = process("account", "create", "--name", "Acme", "--json").json["account_id"]
    token = process("token", "create", "--account", account_id, "--permission", "AI Gateway Run", "--json").json
    assert set(token) >= {"token", "token_id", "account_id", "permissions"}
    assert process("grant", "--account", account_id, "--amount", "12.34").status == 0
    assert process("balance", "--account", account_id, "--json").json["available_nanos"] == 12_340_000_000
    assert process("check").status == 0
    refused = process("grant", "--account", "nope", "--amount", "1")
    assert (refused.status, refused.out, refused.err.count("\n")) == (1, "", 1)
    assert "Traceback" not in refused.err


def test_light_commands_do_not_load_heavy_modules(process: Cli, acme: str) -> None:
    """What keeps the start of `farebox balance` fast, tested without measuring time."""
    code = (
        "import sys; from farebox.cli.main import run\n"
        f"sys.argv = ['farebox', 'balance', '--account', '{acme}']\n"
        "try: run()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'genai_prices', 'granian', 'pydantic', 'httptools', 'httpx', 'stripe', 'typst', 'quicktok'}\n"
        "heavy |= {'rich', 'uvloop'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"


WITHOUT_FAKE_STRIPE = "import sys; sys.modules['fake_stripe'] = None; from farebox.cli.main import run; run()"


@pytest.mark.parametrize("command", [("serve", "--demo", "--welcome"), ("fake-stripe",)])
def test_without_the_fake_stripe_the_demo_says_what_to_install(command: tuple[str, ...], data_dir: Path) -> None:
    program = [sys.executable, "-c", WITHOUT_FAKE_STRIPE, *command]
    refused = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert "pip install ./packages/fake_stripe" in refused.stderr
    assert not data_dir.exists()


@pytest.mark.parametrize("key", [None, "sk_test_of_ones_own"])
def test_serving_does_not_need_the_fake_stripe(
    key: str | None, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--json"]
    if key is not None:  # the demo with Stripe itself
        monkeypatch.setenv("FAREBOX_STRIPE_SECRET_KEY", key)
        monkeypatch.setenv("FAREBOX_STRIPE_WEBHOOK_SECRET", "whsec_of_ones_own")
        arguments.append("--demo")
    with _serving(tmp_path, *arguments, program=("-c", WITHOUT_FAKE_STRIPE)) as (_, out):
        assert json.loads(out.readline())["demo"] is (key is not None)


# --- serve ------------------------------------------------------------------------------------------------------------


@contextmanager
def _serving(
    tmp_path: Path, *arguments: str, program: tuple[str, ...] = ("-m", "farebox.cli.main")
) -> Iterator[tuple[subprocess.Popen[bytes], IO[str]]]:
    """`farebox serve`, started like an operator does."""
    command = [sys.executable, *program, *_serve(arguments)]
    with (tmp_path / "serve.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
    assert server.stdout is not None
    with io.TextIOWrapper(server.stdout) as out, _stopped(server, tmp_path):
        yield server, out


@contextmanager
def _forked(tmp_path: Path, *arguments: str) -> Iterator[IO[str]]:
    """The same server, forked, for tests that are not about the start."""
    with (tmp_path / "serve.log").open("wb") as log:
        server = processes.start(_serve(arguments), env=os.environ, stdout=subprocess.PIPE, stderr=log)
    assert server.stdout is not None
    with io.TextIOWrapper(server.stdout) as out, _stopped(server, tmp_path):
        yield out


def _serve(arguments: tuple[str, ...]) -> list[str]:
    return ["serve", "--port", str(free_port()), *arguments]


@contextmanager
def _stopped(server: subprocess.Popen[bytes] | processes.Process, tmp_path: Path) -> Iterator[None]:
    """Interrupt it like a terminal; it must then end by itself with status 0."""
    try:
        yield
        server.send_signal(signal.SIGINT)
        assert server.wait(120) == 0, (tmp_path / "serve.log").read_text()
    finally:
        server.kill()
        server.wait()


def _blocks(greeting: str) -> dict[str, str]:
    """The blocks to paste from the greeting, by the first word of their headings."""
    blocks: dict[str, list[str]] = {}
    lines = greeting.splitlines()
    name = ""
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if following and set(following) == {"-"}:
            name = line.split()[0]
            blocks[name] = []
        elif name and set(line) != {"-"}:
            blocks[name].append(line)
    return {name: "\n".join(block).strip() for name, block in blocks.items()}


@pytest.mark.slow
def test_the_welcome_works_as_pasted(data_dir: Path, tmp_path: Path, cli: Cli) -> None:
    with _serving(tmp_path, "--demo", "--welcome") as (_, out):
        greeting = ""
        while "Ctrl-C" not in greeting:
            greeting += out.readline()
        blocks = _blocks(greeting)
        curl = subprocess.run(["bash", "-c", blocks["curl"]], capture_output=True, text=True, check=True)
        assert "Hello" in json.loads(curl.stdout)["choices"][0]["message"]["content"]
        python = subprocess.run([sys.executable, "-c", blocks["Python"]], capture_output=True, text=True, check=True)
        assert "Hello" in python.stdout
        assert "new OpenAI" in blocks["TypeScript"]
        link = next(word for word in greeting.split() if "/ui/open?link=" in word)
        with httpx.Client(follow_redirects=True, timeout=60) as browser:
            assert "Demo" in browser.get(link).text
            overview = browser.post(link.partition("?")[0], data={"link": link.partition("link=")[2]})
            assert str(overview.url).endswith("/ui/overview")
            assert '<strong id="available">' in overview.text
            assert browser.get(overview.url.join("/ui/accounts")).status_code == 200  # as an operator, too
        left = subprocess.run(
            ["bash", "-c", blocks["Check"].split("\n\n")[0]], capture_output=True, text=True, check=True
        )
        assert "Available  4.9" in left.stdout
        assert _mode(data_dir / "demo.json") == 0o600
    saved = json.loads((data_dir / "demo.json").read_text())
    assert saved["token"] in greeting

    with _forked(tmp_path, "--demo", "--welcome", "--json") as out:
        again = json.loads(out.readline())
        assert (again["account_id"], again["token"]) == ("demo", saved["token"])
        assert cli("balance", "--account", "demo", "--json").json["posted_nanos"] < 5_000_000_000


HEAP_BYTES = 2**26
"""The size that glibc reserves for a thread's heap, which is also its alignment."""


@pytest.mark.slow
@SQLITE_ONLY  # with PostgreSQL there are no reader threads
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives threads heaps of their own")
def test_threads_share_one_heap(data_dir: Path, tmp_path: Path) -> None:
    """A heap keeps the maximum that its threads ever needed: with one heap per thread the process would keep
    growing."""
    with _serving(tmp_path, "--demo", "--welcome", "--json") as (server, out):
        demo = json.loads(out.readline())
        logs = f"{demo['base_url']}/client/v4/accounts/demo/ai-gateway/gateways/default/logs"
        for _ in range(8):  # on the threads for long reads
            read = httpx.get(logs, headers={"authorization": f"Bearer {demo['token']}"})
            assert read.status_code in (200, 404)
        maps = Path(f"/proc/{server.pid}/maps").read_text().splitlines()
        assert len(list(Path(f"/proc/{server.pid}/task").iterdir())) > 3
    assert [pair for pair in itertools.pairwise(maps) if _is_heap_of_thread(*pair)] == []


def _is_heap_of_thread(line: str, following: str) -> bool:
    """Whether these are the two mappings of a heap: the used beginning, and the reserved rest."""
    (used, mode, *_), (rest, rest_mode, *_) = line.split(), following.split()
    begin, end = (int(address, 16) for address in (used.partition("-")[0], rest.partition("-")[2]))
    return begin % HEAP_BYTES == 0 and end - begin == HEAP_BYTES and (mode, rest_mode) == ("rw-p", "---p")


@pytest.mark.slow
@pytest.mark.parametrize("public_url", ["", "https://ai.example"])
def test_a_publicly_reachable_demo_is_warned_about(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, public_url: str
) -> None:
    monkeypatch.setenv("FAREBOX_PUBLIC_URL", public_url)
    with _forked(tmp_path, "--demo", "--json") as out:
        assert json.loads(out.readline())["demo"] is True
    assert ("the demo is reachable from other machines" in (tmp_path / "serve.log").read_text()) is bool(public_url)


@pytest.mark.slow
def test_commands_work_while_a_server_runs(data_dir: Path, tmp_path: Path, cli: Cli) -> None:
    with _forked(tmp_path, "--demo", "--json") as out:
        url = json.loads(out.readline())["base_url"]
        cli("account", "create", "--name", "Acme", "--id", "acme")
        cli("grant", "--account", "acme", "--amount", "1")
        made = cli("token", "create", "--account", "acme", "--permission", "AI Gateway Run", "--json").json

        def call() -> int:
            body = {"model": "demo/demo-1", "messages": [{"role": "user", "content": "Hello!"}]}
            headers = {"authorization": f"Bearer {made['token']}"}
            return httpx.post(f"{url}/v1/acme/default/compat/chat/completions", json=body, headers=headers).status_code

        assert call() == 200
        cli("token", "revoke", made["token_id"])
        time.sleep(1)
        assert call() == 401

        if engine_now() == "sqlite":  # on PostgreSQL there may be any number
            second = cli("serve", "--port", "1")
            assert second.status == 1
            assert "another Farebox is serving" in second.err


@pytest.mark.slow
def test_commands_beside_a_demo_use_its_server_and_payment_processor(
    data_dir: Path, tmp_path: Path, cli: Cli, process: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _forked(tmp_path, "--demo", "--welcome") as out:
        greeting = "".join(iter(out.readline, "Ctrl-C stops the server.\n"))
        url = greeting.partition("Farebox is listening on ")[2].splitlines()[0]
        assert cli("billing-link", "--account", "demo").out.startswith(f"{url}/billing/open?link=")
        assert _mode(data_dir / "serving.json") == 0o600
        assert f"Stripe   {json.loads((data_dir / 'serving.json').read_text())['fake_stripe_url']} " in greeting
        reconciled = process("payments", "reconcile", "--json")
        assert (reconciled.json["clean"], reconciled.err) == (True, "")
        unknown = cli("refund", "--account", "demo", "--top-up", "nothing")
        assert (unknown.status, "switched off" in unknown.err) == (1, False)
        monkeypatch.setenv("FAREBOX_PUBLIC_URL", "https://ai.example")
        assert cli("billing-link", "--account", "demo").out.startswith("https://ai.example/billing/open?link=")
    assert not (data_dir / "serving.json").exists()
    assert "switched off" in cli("payments", "reconcile").err


def test_a_new_token_replaces_a_lost_or_revoked_one(data_dir: Path) -> None:
    from farebox.cli.session import CliSession
    from farebox.cli.welcome import prepare

    session = CliSession()
    first = prepare(session, session.settings)
    assert prepare(session, session.settings) == first
    (data_dir / "demo.json").unlink()
    second = prepare(session, session.settings)
    assert second.demo_account.token != first.demo_account.token
    assert second.available == first.available == 5_000_000_000


def test_welcome_needs_the_demo_provider(cli: Cli) -> None:
    assert cli("serve", "--welcome").status == 2
