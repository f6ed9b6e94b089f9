"""Random calls to the demo provider and what their clients saw, for tests that kill servers."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

from tests.calls.kit import price_of
from tests.calls.wire import WireResponse, chat_body, usage_of

PAUSE_SECONDS = 0.03
"""Of a client between two calls; a slow call takes longer. Without it the calls take all processor time, and what was
killed is slow to start again."""


def random_chat(chance: random.Random) -> tuple[bytes, str]:
    """The body of a request, streamed or not, and its `x-demo` header; every second one is slow."""
    stream = chance.random() < 0.5
    more: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    body = chat_body(" ".join(["word"] * chance.randrange(1, 30)), max_tokens=200, **more)
    demo = f"tokens={chance.randrange(1, 30)}"
    if chance.random() < 0.5:
        demo += f" gap={chance.randrange(1, 8)}" if stream else f" delay={chance.randrange(1, 80)}"
    return body, demo


@dataclass(slots=True)
class Seen:
    """What the clients saw."""

    complete: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Log ID of each complete response → its account and the right charge."""
    begun: set[str] = field(default_factory=set)
    """Log IDs of responses that began and broke off."""
    without_response: int = 0
    repeated: list[str] = field(default_factory=list)
    """Log IDs that more than one response had."""
    statuses: Counter[int] = field(default_factory=Counter)

    def enough(self, kills: int) -> bool:
        """Whether this many kills or more, on average, broke off a response that had begun, and a call before that."""
        return len(self.begun) >= kills and self.without_response > kills

    async def wait_for(self, account: str, response: Awaitable[WireResponse]) -> None:
        """Record the response of a call, or its absence."""
        try:
            self._note(account, await response)
        except (ConnectionError, asyncio.IncompleteReadError, OSError):
            self.without_response += 1
        await asyncio.sleep(PAUSE_SECONDS)

    def _note(self, account: str, response: WireResponse) -> None:
        self.statuses[response.status] += 1
        log_id = response.headers.get("cf-aig-log-id")
        if response.status != 200 or log_id is None:
            return
        if log_id in self.complete or log_id in self.begun:
            self.repeated.append(log_id)
        usage = usage_of(response)
        if usage is None:
            self.begun.add(log_id)
        else:
            self.complete[log_id] = (account, price_of(usage["prompt_tokens"], usage["completion_tokens"]))
