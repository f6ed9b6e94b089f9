"""Checks of bench.clients that need neither npm nor the half hour of a run."""

import ast
import re

from bench.clients.catalogue import CLIENTS
from bench.clients.install import PROBES
from bench.clients.page import excerpt
from bench.clients.place import calls_in
from bench.record import repeatable


def test_every_client_has_its_function_and_a_version() -> None:
    python = {
        node.name for node in ast.parse((PROBES / "probe.py").read_text()).body if isinstance(node, ast.FunctionDef)
    }
    script = set(re.findall(r"^  (\w+): async \(", (PROBES / "probe.mjs").read_text(), re.MULTILINE))
    for client in CLIENTS:
        assert all(re.search(r"(==|.@)\d+\.\d+\.\d+$", package) for package in client.packages), client
        if client.start is None:
            assert client.name in (python if client.kind == "python" else script), client.key
    assert len({client.key for client in CLIENTS}) == len(CLIENTS)


def test_calls_are_counted_and_nothing_else() -> None:
    account = "0123456789abcdef0123456789abcdef"
    heads = (
        f"POST /v1/{account}/default/openai/chat/completions HTTP/1.1\r\nhost: x\r\n\r\n{{}}"
        f"POST /client/v4/accounts/{account}/ai/run/@cf/a/b HTTP/1.1\r\n\r\n"
        f"GET /v1/{account}/default/openai/models HTTP/1.1\r\n\r\n"
        f"POST /client/v4/accounts/{account}/ai-gateway/gateways HTTP/1.1\r\n\r\n"
    )
    assert [(caller, path.rpartition("/")[2]) for caller, _, path in calls_in(heads.encode())] == [
        (account, "completions"),
        (account, "b"),
    ]


def test_a_cell_starts_with_our_own_message() -> None:
    text = f"RetryError: Failed after {'x' * 100}\n| Last error: Rate limited: the gateway takes 1 calls"
    assert re.fullmatch(r"RetryError: Failed after x+ … Rate limited: the gateway takes 1 calls", excerpt(text))
    assert excerpt("a | b `c`") == "a \\| b 'c'"


def test_the_stored_command_has_no_folder_of_this_machine() -> None:
    assert repeatable(["--only", "cline", "--cache", "/x", "--situation", "answer"]) == [
        "--only",
        "cline",
        "--situation",
        "answer",
    ]
    assert repeatable(["--cache=/x"]) == []
