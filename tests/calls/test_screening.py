"""Guardrails and data loss prevention: what is found in requests and responses of every form, how they are handled, and
that each call is charged exactly as documented, with nothing held afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, get_args

import httpx
import pytest

from farebox.gateway import Hazard
from farebox.http.pages.guardrails import HAZARDS
from farebox.model import Role
from tests.calls.kit import differences, log_row, log_rows, price_of, set_gateway, set_price, set_provider
from tests.calls.scorer import Scorer, scoring
from tests.calls.upstream import serving
from tests.engines import ON_BOTH_ENGINES
from tests.http.support import http
from tests.pages.forms import form_of
from tests.pages.people import person
from tests.sdks import anthropic, genai, openai
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import until

pytestmark = ON_BOTH_ENGINES

CARD = "4111 1111 1111 1111"
MANY = ("abcdefghij" * 4 + " ") * 12
"""Words of 40 letters, as many as the demo provider repeats; the second window ends within the card number after
them."""


@pytest.fixture(scope="module")
def scorer() -> Iterator[Scorer]:
    with scoring() as found:
        yield found


@pytest.fixture(scope="module")
def farebox(engine: str, scorer: Scorer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with running_farebox(
        tmp_path_factory.mktemp("screening"), guardrails_url=f"{scorer.url}/score", guardrails_key="the-key"
    ) as served:
        for slug in ("openai", "anthropic", "google-ai-studio"):
            base = served.demo_url.removesuffix("/v1") if slug != "openai" else served.demo_url
            set_provider(served, slug, base_url=base)
            set_price(served, slug, "demo-1")
        yield served


@pytest.fixture
def customer(farebox: Farebox, scorer: Scorer) -> Customer:
    scorer.status, scorer.broken = 200, None
    scorer.asked.clear()
    return farebox.funded("5")


def dlp(*check: str, action: str = "BLOCK", profiles: tuple[str, ...] = ("payment_cards",)) -> dict[str, Any]:
    policy = {"id": "cards", "enabled": True, "action": action, "check": check, "profiles": profiles}
    return {"enabled": True, "policies": [policy]}


def guardrails(prompt: dict[str, str], response: dict[str, str] | None = None) -> dict[str, Any]:
    return {"prompt": prompt, "response": response or {}}


def configure(customer: Customer, gateway_id: str = "default", **fields: Any) -> httpx.Response:
    """Configure the gateway through the API, as customers do."""
    customer.chat()  # creates the default gateway
    url = f"{customer.api_url}/ai-gateway/gateways/{gateway_id}"
    return http.patch(url, json=fields, headers=customer.headers)


def screens(customer: Customer, **fields: Any) -> None:
    response = configure(customer, **fields)
    assert response.status_code == 200, response.text


def settled(customer: Customer, spent: int, charge: int) -> None:
    """Check that nothing is held, that `charge` was charged beyond `spent`, and that the books balance."""
    balance = customer.balance
    assert (balance.held, spent - balance.posted) == (0, charge)
    assert differences(customer.farebox) == []


PROMPTS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "chat": (
        "openai/chat/completions",
        lambda said: {"model": "demo-1", "messages": [{"role": "user", "content": said}]},
    ),
    "system": (
        "openai/chat/completions",
        lambda said: {
            "model": "demo-1",
            "messages": [{"role": "system", "content": said}, {"role": "user", "content": "Hi"}],
        },
    ),
    "tool result": (
        "openai/chat/completions",
        lambda said: {
            "model": "demo-1",
            "messages": [
                {"role": "user", "content": "Hi"},
                {
                    "role": "assistant",
                    "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
                },
                {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": said}]},
            ],
        },
    ),
    "tool arguments": (
        "openai/chat/completions",
        lambda said: {
            "model": "demo-1",
            "messages": [
                {"role": "user", "content": "Hi"},
                {
                    "role": "assistant",
                    "tool_calls": [
                        {
                            "id": "a",
                            "type": "function",
                            "function": {"name": "f", "arguments": json.dumps({"number": said})},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "a", "content": "done"},
            ],
        },
    ),
    "tool result in JSON, after a line break": (
        "openai/chat/completions",
        lambda said: {
            "model": "demo-1",
            "messages": [
                {"role": "user", "content": "Hi"},
                {
                    "role": "assistant",
                    "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
                },
                {"role": "tool", "tool_call_id": "a", "content": json.dumps({"rows": said.replace("Pay ", "Pay\n")})},
            ],
        },
    ),
    "compat": (
        "compat/chat/completions",
        lambda said: {"model": "demo/demo-1", "messages": [{"role": "user", "content": said}]},
    ),
    "responses": ("openai/responses", lambda said: {"model": "demo-1", "instructions": said, "input": "Hi"}),
    "messages": (
        "anthropic/v1/messages",
        lambda said: {
            "model": "demo-1",
            "max_tokens": 50,
            "system": [{"type": "text", "text": said}],
            "messages": [{"role": "user", "content": "Hi"}],
        },
    ),
    "google": (
        "google-ai-studio/v1beta/models/demo-1:generateContent",
        lambda said: {"systemInstruction": {"parts": [{"text": said}]}, "contents": [{"parts": [{"text": "Hi"}]}]},
    ),
    "embeddings": ("openai/embeddings", lambda said: {"model": "demo-1", "input": ["Hi", said]}),
    "universal": (
        "",
        lambda said: [
            {
                "provider": "openai",
                "endpoint": "chat/completions",
                "query": {"model": "demo-1", "messages": [{"role": "user", "content": said}]},
            }
        ],
    ),
}


@pytest.mark.parametrize("form", PROMPTS)
def test_a_request_is_blocked_in_every_form_before_anything_is_held(
    farebox: Farebox, customer: Customer, scorer: Scorer, form: str
) -> None:
    path, body = PROMPTS[form]
    screens(customer, dlp=dlp("REQUEST"), guardrails=guardrails({"S9": "BLOCK", "S5": "FLAG"}))
    spent, asked = customer.balance.posted, farebox.demo_stats()["requests"]
    url = f"{customer.gateway_url}/{path}".rstrip("/")
    escaped = json.dumps(body(f"Pay {CARD} now")).replace("4111", "4\\u003111", 1).encode()
    headers = customer.headers | {"content-type": "application/json"}
    refused = http.post(url, content=escaped, headers=headers)
    assert (refused.status_code, refused.json()["internalCode"]) == (400, 2029), refused.text
    assert refused.json()["message"] == "Request content blocked due to DLP policy violations"
    found = json.loads(refused.headers["cf-aig-dlp"])
    assert found == {
        "findings": [
            {
                "profile": {"context": {}, "entry_ids": ["visa"], "profile_id": "payment_cards"},
                "policy_ids": ["cards"],
                "check": "REQUEST",
            }
        ],
        "action": "BLOCK",
    }
    as_form = headers | {"content-type": "application/x-www-form-urlencoded"}  # the content type of curl's -d
    refused_form = http.post(url, content=escaped, headers=as_form)
    assert refused_form.json()["internalCode"] == 2029, refused_form.text
    scorer.asked.clear()
    blocked = http.post(url, json=body("how to build a bomb"), headers=headers)
    assert (blocked.status_code, blocked.json()["internalCode"]) == (424, 2016), blocked.text
    assert blocked.headers["x-should-retry"] == refused.headers["x-should-retry"] == "false"
    assert "build a bomb" in scorer.texts[0]
    assert farebox.demo_stats()["requests"] == asked
    settled(customer, spent, 0)
    row = log_row(customer, refused.headers["cf-aig-log-id"])
    assert (row["status_code"], row["success"], row["dlp_action"]) == (400, False, "BLOCK")
    (finding,) = row["dlp_findings"]
    assert (finding["profile_id"], finding["entry_ids"], finding["count"]) == ("payment_cards", ["visa"], 1)
    assert "4111" not in json.dumps({**row, "id": "", "request_head": ""})
    of_scorer = log_row(customer, blocked.headers["cf-aig-log-id"])
    assert of_scorer["guardrails"] == [{"check": "REQUEST", "action": "BLOCK", "categories": ["S9"]}]


def test_a_flagged_call_continues_and_shows_in_header_log_and_filter(customer: Customer, scorer: Scorer) -> None:
    screens(
        customer,
        dlp=dlp("REQUEST", "RESPONSE", action="FLAG", profiles=("payment_cards", "email_addresses")),
        guardrails=guardrails({"S5": "FLAG"}, {"S5": "FLAG"}),
    )
    response = customer.chat(f"slander {CARD} and a.b@example.com")
    assert response.status_code == 200
    found = json.loads(response.headers["cf-aig-dlp"])
    assert found["action"] == "FLAG"
    places = {(one["profile"]["profile_id"], one["check"]) for one in found["findings"]}
    assert places == {(name, side) for name in ("payment_cards", "email_addresses") for side in ("REQUEST", "RESPONSE")}
    assert CARD not in response.headers["cf-aig-dlp"]
    row = log_row(customer, response.headers["cf-aig-log-id"])
    assert (row["dlp_action"], row["success"]) == ("FLAG", True)
    assert [(one["check"], one["categories"]) for one in row["guardrails"]] == [
        ("REQUEST", ["S5"]),
        ("RESPONSE", ["S5"]),
    ]
    assert scorer.keys[-1] == "Bearer the-key"
    (question, _) = scorer.asked
    assert question == {
        "account": customer.account_id,
        "gateway": "default",
        "direction": "prompt",
        "provider": "demo",
        "model": "demo-1",
        "text": f"slander {CARD} and a.b@example.com",
    }
    clean = customer.chat("Nothing of that sort")
    assert "cf-aig-dlp" not in clean.headers
    assert "dlp_action" not in log_row(customer, clean.headers["cf-aig-log-id"])
    url = f"{customer.api_url}/ai-gateway/gateways/default/logs"
    wanted = json.dumps([{"key": "dlp_action", "operator": "eq", "value": ["FLAG"]}])
    rows = http.get(url, params={"filters": wanted}, headers=customer.headers).json()["result"]
    assert [one["id"] for one in rows] == [row["id"]]


def test_a_blocked_response_is_charged_and_not_passed_on(farebox: Farebox, customer: Customer) -> None:
    screens(customer, dlp=dlp("RESPONSE"), guardrails=guardrails({}, {"S9": "BLOCK"}))
    for said, status, code in ((f"Say {CARD}", 400, 2030), ("Say bomb", 424, 2017)):
        spent = customer.balance.posted
        blocked = customer.chat(said)
        assert (blocked.status_code, blocked.json()["internalCode"]) == (status, code), blocked.text
        assert "1111" not in blocked.text
        row = log_row(customer, blocked.headers["cf-aig-log-id"])
        assert (row["status_code"], row["success"]) == (status, False)
        assert row["farebox"]["outcome"] == "charged"
        settled(customer, spent, price_of(row["tokens_in"], row["tokens_out"]))
    assert json.loads(customer.chat(f"Say {CARD}").headers["cf-aig-dlp"])["action"] == "BLOCK"


def _openai_chat(customer: Customer, said: str) -> str:
    with openai.OpenAI(base_url=f"{customer.gateway_url}/openai", api_key=customer.token, max_retries=0) as client:
        stream = client.chat.completions.create(
            model="demo-1", messages=[{"role": "user", "content": said}], stream=True
        )
        return _gathered(customer, (chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices))


def _openai_responses(customer: Customer, said: str) -> str:
    with openai.OpenAI(base_url=f"{customer.gateway_url}/openai", api_key=customer.token, max_retries=0) as client:
        stream = client.responses.create(model="demo-1", input=said, stream=True)
        return _gathered(customer, (event.delta for event in stream if event.type == "response.output_text.delta"))


def _anthropic(customer: Customer, said: str) -> str:
    with (
        anthropic.Anthropic(
            base_url=f"{customer.gateway_url}/anthropic", api_key=customer.token, max_retries=0
        ) as client,
        client.messages.stream(model="demo-1", max_tokens=2000, messages=[{"role": "user", "content": said}]) as stream,
    ):
        return _gathered(customer, stream.text_stream)


def _google(customer: Customer, said: str) -> str:
    options = genai.types.HttpOptions(base_url=f"{customer.gateway_url}/google-ai-studio")
    with genai.Client(api_key=customer.token, http_options=options) as client:
        stream = client.models.generate_content_stream(model="demo-1", contents=said)
        return _gathered(customer, (event.text or "" for event in stream))


def _gathered(customer: Customer, pieces: Iterator[str]) -> str:
    """The text that the SDK delivers; if it raises, the error carries the text delivered before."""
    text = ""
    try:
        for piece in pieces:
            text += piece
    except Exception as error:
        error.delivered = text  # type: ignore[attr-defined]
        raise
    return text


STREAMS: dict[str, Callable[[Customer, str], str]] = {
    "openai chat": _openai_chat,
    "openai responses": _openai_responses,
    "anthropic": _anthropic,
    "google": _google,
}


@pytest.mark.parametrize("sdk", STREAMS)
def test_a_stream_is_held_back_until_judged_and_its_sdk_raises(customer: Customer, sdk: str) -> None:
    ask = STREAMS[sdk]
    screens(customer, dlp=dlp("RESPONSE"), guardrails=guardrails({}, {"S9": "BLOCK"}))
    assert "j the end" in ask(customer, f"{MANY}the end")
    for secret, message in (("bomb", "security configurations"), (CARD, "DLP policy violations")):
        if secret == CARD:
            screens(customer, guardrails=None)
        spent = customer.balance.posted
        with pytest.raises(Exception, match=message) as raised:
            ask(customer, f"{MANY}{secret} demo:tokens=30 gap=20")
        delivered: str = raised.value.delivered  # type: ignore[attr-defined]
        assert (secret == "bomb") == (delivered == ""), (
            "windows of 256 bytes are released, although the scorer is asked about 2,000"
        )
        assert "4111" not in delivered
        assert "bomb" not in delivered
        (row, *_) = log_rows(customer)
        assert row["farebox"]["outcome"] == "charged"
        assert (row["success"], row["status_code"]) == (False, 400 if secret == CARD else 424)
        settled(customer, spent, row["farebox"]["charge_nanos"])
        assert row["tokens_out"] > 0
        assert row["farebox"]["charge_nanos"] == price_of(row["tokens_in"], row["tokens_out"])


def test_a_stream_that_is_only_flagged_is_not_held_back(customer: Customer) -> None:
    screens(customer, dlp=dlp("RESPONSE", action="FLAG"))
    assert CARD in _openai_chat(customer, f"{CARD} {CARD} {MANY}")
    (row, *_) = log_rows(customer)
    (finding,) = row["dlp_findings"]
    assert (finding["check"], finding["action"], finding["count"]) == ("RESPONSE", "FLAG", 2)


def test_hazards_are_set_and_tried_on_the_page(farebox: Farebox, customer: Customer, scorer: Scorer) -> None:
    owner = person(farebox, Role.OWNER, customer.account_id)
    owner.get("/ui/gateways")
    here = "/ui/gateways/default/guardrails"
    form = form_of(owner.get(here).text, group="guardrails")
    assert set(get_args(Hazard)) == HAZARDS.keys()
    assert {f"guardrails.prompt.{hazard}" for hazard in HAZARDS} <= form.keys()
    chosen = form | {"guardrails.prompt.S9": "BLOCK", "guardrails.response.S5": "FLAG"}
    assert "Hazards: saved" in owner.submit(here, **chosen)
    assert form_of(owner.get(here).text, group="guardrails") == chosen
    assert customer.chat("build a bomb").status_code == 424
    asked = owner.send(f"{here}/try", text="build a bomb", check="REQUEST").text
    assert "would be blocked" in asked
    assert "Indiscriminate weapons (S9)" in asked
    assert "would pass" in owner.send(f"{here}/try", text="slander", check="REQUEST").text
    assert "would be flagged" in owner.send(f"{here}/try", text="slander", check="RESPONSE").text
    scorer.status = 500
    assert "the scorer failed" in owner.send(f"{here}/try", text="bomb", check="REQUEST").text
    assert "Hazards: saved" in owner.submit(here, **form)
    gateway = f"{customer.api_url}/ai-gateway/gateways/default"
    assert httpx.get(gateway, headers=customer.headers).json()["result"]["guardrails"] is None


def test_a_scorer_that_is_down_blocks_where_a_rule_blocks(farebox: Farebox, customer: Customer, scorer: Scorer) -> None:
    screens(customer, guardrails=guardrails({"S9": "BLOCK"}, {}))
    spent, asked = customer.balance.posted, farebox.demo_stats()["requests"]
    for scorer.status, scorer.broken in (
        (500, None),
        (200, b"what?"),
        (200, b'{"categories": "S9"}'),
        (200, b'{"categories": ["\xe9"]}'),
        (200, b"[" * 50_000),
    ):
        refused = customer.chat("Hello")
        assert (refused.status_code, refused.json()["internalCode"]) == (503, 7013), refused.text
        assert refused.headers["retry-after"] == "1"
    assert farebox.demo_stats()["requests"] == asked
    settled(customer, spent, 0)
    screens(customer, guardrails=guardrails({}, {"S9": "BLOCK"}))
    spent = customer.balance.posted
    refused = customer.chat("Hello")
    assert (refused.status_code, refused.json()["internalCode"]) == (503, 7013)
    assert refused.headers["x-should-retry"] == "false"  # otherwise it would be generated, and charged, again
    row = log_row(customer, refused.headers["cf-aig-log-id"])
    settled(customer, spent, price_of(row["tokens_in"], row["tokens_out"]))
    screens(customer, guardrails=guardrails({"S9": "FLAG"}, {"S9": "FLAG"}))
    passed = customer.chat("Hello")
    assert passed.status_code == 200
    assert [one[:8] for one in log_row(customer, passed.headers["cf-aig-log-id"])["unscreened"]] == [
        "REQUEST:",
        "RESPONSE",
    ]


def test_a_hit_is_judged_by_current_rules_and_a_blocked_response_is_not_stored(
    farebox: Farebox, customer: Customer
) -> None:
    screens(customer, cache_ttl=600, dlp=dlp("RESPONSE"))
    for _ in range(2):
        assert customer.chat(f"Say {CARD}").json()["internalCode"] == 2030
    screens(customer, cache_ttl=600, dlp=dlp("RESPONSE", action="FLAG"))
    first = customer.chat(f"Say {CARD}")
    assert (first.status_code, first.headers["cf-aig-cache-status"]) == (200, "MISS")
    second = customer.chat(f"Say {CARD}")
    assert second.headers["cf-aig-cache-status"] == "HIT"
    assert json.loads(second.headers["cf-aig-dlp"])["action"] == "FLAG"
    set_gateway(customer, cache_ttl=600, dlp=_config(dlp("RESPONSE")))
    spent, asked = customer.balance.posted, farebox.demo_stats()["requests"]
    blocked = customer.chat(f"Say {CARD}")
    assert (blocked.status_code, blocked.json()["internalCode"]) == (400, 2030), blocked.text
    assert farebox.demo_stats()["requests"] == asked
    until(lambda: not farebox.services.tasks.running("records of hits"))
    row = log_row(customer, blocked.headers["cf-aig-log-id"])
    assert (row["cached"], row["success"], row["dlp_action"]) == (True, False, "BLOCK")
    settled(customer, spent, 0)


def _config(value: dict[str, Any]) -> Any:
    import msgspec

    from farebox.gateway import Dlp

    return msgspec.convert(value, Dlp)


def test_large_bodies_and_own_patterns_are_judged_by_helpers(farebox: Farebox, customer: Customer) -> None:
    url = f"{customer.api_url}/farebox/dlp-profiles"
    entries = [
        {"name": "project", "keyword": "project  falcon"},
        {"name": "ticket", "pattern": {"regex": r"\bACME-\d{4,6}\b"}},
    ]
    made = http.post(url, json={"name": "Secrets", "entries": entries}, headers=customer.headers)
    assert made.status_code == 200, made.text
    for nothing in ("a*", r"\b", r"x|\b"):
        no_pattern = {"name": "all", "pattern": {"regex": nothing}}
        refused = http.post(url, json={"name": "All", "entries": [no_pattern]}, headers=customer.headers)
        assert refused.json()["errors"][0]["message"] == "It matches the empty text"
    profile = made.json()["result"]
    screens(customer, dlp=dlp("REQUEST", "RESPONSE", profiles=("payment_cards", profile["id"])))
    filler = "word " * 120_000  # 600 kB are kept in an in-memory file
    for said, entry in (
        (f"{filler}{CARD}", "visa"),
        ("We call it Project\nFALCON.", profile["entries"][0]["id"]),
        ("See ACME-12345, please", profile["entries"][1]["id"]),
    ):
        refused = customer.chat(said)
        assert (refused.status_code, refused.json()["internalCode"]) == (400, 2029), refused.text
        (finding,) = json.loads(refused.headers["cf-aig-dlp"])["findings"]
        assert finding["profile"]["entry_ids"] == [entry]
    assert customer.chat("Projects of falcons, ACME-123456789, 4111 1111 1111 1112").status_code == 200
    screens(customer, dlp=dlp("RESPONSE", profiles=(profile["id"],)))
    with pytest.raises(openai.APIError, match="DLP policy violations"):
        _openai_chat(customer, f"{MANY} ACME-12345 demo:tokens=100")
    assert customer.balance.held == 0


def test_unreadable_text_does_not_pass_a_blocking_rule(customer: Customer) -> None:
    with serving() as upstream:
        set_provider(customer.farebox, "openai", base_url=upstream.url)
        try:
            own = {"authorization": "Bearer sk-own", "cf-aig-authorization": f"Bearer {customer.token}"}
            url = f"{customer.gateway_url}/openai/files"
            upstream.says(b'{"id": "f"}')
            screens(customer, dlp=dlp("REQUEST"))
            as_pdf = own | {"content-type": "application/pdf"}
            refused = http.post(url, content=b"\x00\xff\x10binary", headers=as_pdf)
            assert (refused.status_code, refused.json()["internalCode"]) == (400, 2980), refused.text
            assert upstream.sent == []
            form = {"file": ("a.txt", f"pay {CARD}".encode()), "image": ("b.png", b"\x89PNG\x00")}
            refused = http.post(url, headers=own, files=form)
            assert refused.json()["internalCode"] == 2029
            as_form = own | {"content-type": "application/x-www-form-urlencoded"}
            for lenient in (b'{"n": NaN, "said": "4\\u003111 1111 1111 1111"}', b"{=1&said=4111%201111+1111%201111"):
                refused = http.post(url, content=lenient, headers=as_form)
                assert refused.json()["internalCode"] == 2029, refused.text
            screens(customer, dlp=dlp("REQUEST", action="FLAG"))
            passed = http.post(url, content=b"\x00\xff\x10binary", headers=as_pdf)
            assert passed.status_code == 200
            assert log_row(customer, passed.headers["cf-aig-log-id"])["unscreened"] == ["REQUEST: it is binary"]
            screens(customer, dlp=dlp("RESPONSE"))
            upstream.says(b"\x00\x01\x02\xff" * 10, "application/zip")
            refused = http.get(f"{url}/f/content", headers=own)
            assert (refused.status_code, refused.json()["internalCode"]) == (502, 2981), refused.text
            upstream.says(b"\x00\x01\x02\xff" * 10, "image/png")
            assert http.get(f"{url}/f/content", headers=own).content == b"\x00\x01\x02\xff" * 10
        finally:
            set_provider(customer.farebox, "openai", base_url=customer.farebox.demo_url)


def test_a_gateway_can_use_only_configured_screening(customer: Customer) -> None:
    unknown = configure(customer, dlp={"enabled": True, "action": "FLAG", "profiles": ["iban", "nothing"]})
    assert (unknown.status_code, unknown.json()["errors"][0]["path"]) == (400, ["body", "dlp", "profiles", 1])
    for wrong, path in (
        ({"enabled": True}, ["body", "dlp", "action"]),
        ({"enabled": True, "action": "FLAG", "profiles": [], "policies": []}, ["body", "dlp", "action"]),
        (dlp("REQUEST", profiles=("nothing",)), ["body", "dlp", "policies", 0, "profiles", 0]),
    ):
        refused = configure(customer, dlp=wrong)
        assert (refused.json()["errors"][0]["code"], refused.json()["errors"][0]["path"]) == (7001, path)
    assert configure(customer, guardrails=guardrails({"S99": "BLOCK"})).status_code == 400
    screens(customer, dlp=dlp("REQUEST"), guardrails=guardrails({"P1": "BLOCK"}))
    stored = http.get(f"{customer.api_url}/ai-gateway/gateways/default", headers=customer.headers).json()["result"]
    assert stored["guardrails"] == {"prompt": {"P1": "BLOCK"}, "response": {}}
    assert stored["dlp"] == dlp("REQUEST") | {
        "policies": [{**dlp("REQUEST")["policies"][0], "check": ["REQUEST"], "profiles": ["payment_cards"]}]
    }


def test_llama_guard_judges_prompt_and_response_in_its_own_form(
    engine: str, scorer: Scorer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = {"guardrails_url": f"{scorer.url}/v1", "guardrails_model": "llama-guard3"}
    scorer.status, scorer.broken = 200, None
    with running_farebox(tmp_path_factory.mktemp("llama"), **settings) as served:
        customer = served.funded("5")
        refused = configure(customer, guardrails=guardrails({"S9": "BLOCK"}, {"P1": "FLAG"}))
        assert refused.json()["errors"][0]["path"] == ["body", "guardrails", "response", "P1"]
        screens(customer, guardrails=guardrails({"S9": "BLOCK"}, {"S5": "BLOCK", "S9": "FLAG"}))
        scorer.asked.clear()
        assert customer.chat("a bomb").json()["internalCode"] == 2016
        assert customer.chat("some slander").json()["internalCode"] == 2017
        assert scorer.asked[0]["messages"] == [{"role": "user", "content": "a bomb"}]
        prompt, answer = scorer.asked[-1]["messages"]
        assert (prompt, answer["role"]) == ({"role": "user", "content": "some slander"}, "assistant")
        assert scorer.asked[0]["model"] == "llama-guard3"
        set_gateway(customer, guardrails=_guardrails({"P1": "BLOCK"}))  # stored with another scorer configured
        assert customer.chat("Hello").json()["internalCode"] == 7013
        assert customer.balance.held == 0
    with running_farebox(tmp_path_factory.mktemp("none")) as served:
        customer = served.funded("5")
        refused = configure(customer, guardrails=guardrails({"S9": "FLAG"}))
        assert (refused.status_code, refused.json()["errors"][0]["path"]) == (400, ["body", "guardrails"])
        assert "FAREBOX_GUARDRAILS_URL" in refused.json()["errors"][0]["message"]
        set_gateway(customer, guardrails=_guardrails({"S9": "BLOCK"}))  # stored with a scorer configured
        assert customer.chat("Hello").json()["internalCode"] == 7013


def _guardrails(prompt: dict[str, str]) -> Any:
    from farebox.gateway import Guardrails

    return Guardrails(prompt=prompt, response={})  # type: ignore[arg-type]
