"""Anthropic's message threads: the provider keeps the earlier messages and the tools, so a request does not show what
it costs or which models it reaches. The tool runner of anthropic 2.15.0 sends `thread` by default, and goes on without
it after an error with these details."""

from typing import Any

import httpx
import pytest

from farebox.model import Permission
from farebox.operator import tokens
from tests.engines import ON_BOTH_ENGINES
from tests.support import Customer, Farebox

pytestmark = ON_BOTH_ENGINES

ASKED = {"model": "demo-1", "max_tokens": 20, "messages": [{"role": "user", "content": "Hello there"}]}
THREADS = ({"type": "create"}, {"type": "continue", "previous_message_id": "msg_of_another"})


def ask(customer: Customer, headers: dict[str, str], path: str = "messages", **more: Any) -> httpx.Response:
    return httpx.post(f"{customer.gateway_url}/demo/v1/{path}", json=ASKED | more, headers=headers)


def own_key(customer: Customer, token: str | None = None) -> dict[str, str]:
    return {"x-api-key": "sk-own", "cf-aig-authorization": f"Bearer {token or customer.token}"}


def limited_token(farebox: Farebox, customer: Customer, model: str) -> str:
    services = farebox.services
    made = farebox.run(
        services.database.write(
            lambda connection: tokens.create_token(
                connection,
                services.ids,
                services.vault,
                account_id=customer.account_id,
                permissions=[Permission.RUN],
                at=services.clock.now_ms(),
                models=(model,),
            )
        )
    )
    return made.secret


@pytest.mark.parametrize("thread", THREADS, ids=["create", "continue"])
def test_threads_are_refused_on_the_operators_key(farebox: Farebox, customer: Customer, thread: dict[str, str]) -> None:
    posted, before = customer.balance.posted, farebox.demo_stats()["requests"]
    for streamed in (False, True):
        refused = ask(customer, customer.headers, thread=thread, stream=streamed)
        error = refused.json()["error"]
        assert (refused.status_code, error["type"], error["code"]) == (400, "invalid_request_error", 2939), refused.text
        assert error["details"] == {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    assert farebox.demo_stats()["requests"] == before
    assert (customer.balance.posted, customer.balance.held) == (posted, 0)
    assert ask(customer, customer.headers, thread=None).status_code == 200
    assert "details" not in ask(customer, customer.headers, model=7).json()["error"]


def test_threads_work_with_the_callers_own_key_unless_models_are_limited(farebox: Farebox, customer: Customer) -> None:
    before = farebox.demo_stats()["requests"]
    for thread in THREADS:
        assert ask(customer, own_key(customer), thread=thread).status_code == 200
        limited = own_key(customer, limited_token(farebox, customer, "demo/demo-1"))
        assert ask(customer, limited, thread=thread).json()["error"]["code"] == 2939
        assert ask(customer, limited).status_code == 200
    assert farebox.demo_stats()["requests"] == before + 4


def test_tokens_of_another_accounts_thread_are_not_counted(customer: Customer) -> None:
    counted = ask(customer, customer.headers, "messages/count_tokens", thread=THREADS[1])
    assert (counted.status_code, counted.json()["error"]["type"]) == (404, "not_found_error"), counted.text
