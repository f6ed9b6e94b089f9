"""`kill -9` while background responses are started and a stream is held for in slices: the next process charges once
what was started and recorded, gives back the rest, and no credit stays held."""

from __future__ import annotations

import asyncio
import json
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from farebox.clock import RandomIds, SystemClock
from farebox.model import Permission
from farebox.money import format_usd, parse_usd
from farebox.operator import administer, tokens
from farebox.settings import secret_key
from farebox.storage.accounts import read_balance
from farebox.storage.database import opened_for_command
from farebox.storage.sql import row
from farebox.vault import Vault
from tests.calls.killed import Installation, check_online, listening, nothing_in_doubt, served
from tests.calls.test_balance_end import chat_stream
from tests.calls.upstream import Sent, Upstream, serving
from tests.calls.wire import Wire
from tests.engines import TESTER, read_now, settings_for
from tests.long_calls.kit import TEXT
from tests.long_calls.openai_objects import COST, OpenAIObjects
from tests.support import free_port

pytestmark = pytest.mark.slow

EACH = 4
GRANTED = parse_usd("0.1")
SLICED = 2_000_000
"""Nano-dollars of the account that streams: less than its whole response may cost."""
STREAM = chat_stream(4_000).replace(b'"finish_reason": null', b'"finish_reason": null, "x": "%b"' % (b"x" * 4_000))
"""More than all buffers between the provider and a client that does not read."""


class Provider:
    """Stands in for OpenAI; answers some of the requests and leaves others waiting."""

    def __init__(self, upstream: Upstream) -> None:
        self.objects = OpenAIObjects(upstream)
        self.waiting = threading.Semaphore(0)
        self.killed = threading.Event()

    def answer(self, sent: Sent) -> Any:
        if sent.path.endswith("/chat/completions"):
            return STREAM
        answered = self.objects.answer(sent)
        if sent.method == "POST" and sent.json().get("metadata") == {"answer": "late"}:
            self.waiting.release()
            self.killed.wait(60)
        return answered


def _set_up(folder: Path, url: str) -> tuple[Installation, dict[str, int]]:
    """Two accounts: ID → balance."""
    settings = settings_for(folder)
    ids, vault, at = RandomIds(SystemClock()), Vault(secret_key(settings)), SystemClock().now_ms()
    customers, credit = [], {}
    with opened_for_command(settings, writing=True) as connection:
        administer.set_provider(connection, vault, by=TESTER, name="openai", at=at, base_url=f"{url}/v1", api_key="key")
        for amount in (GRANTED, SLICED):
            account = administer.create_account(connection, ids, by=TESTER, name=format_usd(amount), at=at).account_id
            administer.grant(connection, ids, by=TESTER, account_id=account, amount=amount, at=at)
            made = tokens.create_token(connection, ids, vault, account_id=account, permissions=[*Permission], at=at)
            customers.append((account, made.secret))
            credit[account] = amount
    return Installation(folder, free_port(), customers), credit


async def _ask(installation: Installation, number: int, path: str, **body: Any) -> Wire:
    account, token = installation.customers[number]
    wire = await Wire.open(f"http://127.0.0.1:{installation.port}")
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    await wire.send(
        f"/v1/{account}/default/openai/{path}", headers, json.dumps({"model": "gpt-4o-mini", **body}).encode()
    )
    return wire


async def _life(installation: Installation, provider: Provider) -> list[str]:
    """Run a server that is killed while some requests are unanswered and the stream is half delivered; the IDs of the
    answered ones, which clients have seen."""
    background = {"input": TEXT, "max_output_tokens": 200, "background": True}
    with served(installation) as process:
        await listening(installation, process)
        stream = await _ask(
            installation, 1, "chat/completions", stream=True, messages=[{"role": "user", "content": "Count."}]
        )
        await stream.until(b" one")
        begun = [await _ask(installation, 0, "responses", **background) for _ in range(EACH)]
        seen = [(await wire.response()).json()["id"] for wire in begun]
        late = [
            await _ask(installation, 0, "responses", metadata={"answer": "late"}, **background) for _ in range(EACH)
        ]
        for _ in late:
            assert await asyncio.to_thread(provider.waiting.acquire, timeout=60)
    provider.killed.set()
    for wire in (stream, *begun, *late):
        wire.close()
    return seen


async def test_what_was_begun_is_settled_by_the_next_process(tmp_path: Path) -> None:
    with serving() as upstream:
        installation, credit = _set_up(tmp_path, upstream.url)
        provider = Provider(upstream)
        upstream.response = provider.answer
        seen = await _life(installation, provider)
        assert len(provider.objects.objects) == 2 * EACH, "one piece of work for each request"
        for response in provider.objects.objects:
            provider.objects.finish(response)
        with opened_for_command(installation.settings, writing=True) as connection:  # as if ten minutes had passed
            connection.execute("UPDATE long_calls SET next_at = 1 WHERE bucket = 0")
        with served(installation) as process:
            await listening(installation, process)
            await _no_long_calls(installation)
            await nothing_in_doubt(installation)
            check_online(installation)
    assert len(seen) == EACH
    for (account, _), spent in zip(installation.customers, (EACH * COST, 0), strict=True):
        balance = read_now(installation.settings, partial(read_balance, account_id=account))
        assert balance is not None
        assert (balance.posted, balance.held) == (credit[account] - spent, 0)


async def _no_long_calls(installation: Installation) -> None:
    for _ in range(600):
        if (
            read_now(installation.settings, lambda connection: row(connection, "SELECT 1 FROM long_calls LIMIT 1"))
            is None
        ):
            return
        await asyncio.sleep(0.1)
    pytest.fail("long calls are still running")
