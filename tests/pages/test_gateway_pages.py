"""Gateways on the pages: every field of the API is shown, saved as by the API, and refused with the API's messages."""

import re
import subprocess
import sys
from html import unescape
from typing import Any

import httpx
import msgspec
import pytest

from farebox.gateway import GatewayConfig
from farebox.http.pages.fields import texts_of
from farebox.http.pages.gateway_fields import ELSEWHERE, GROUPS
from farebox.model import Role
from farebox.storage.gateways import GatewayRow, put_gateway
from farebox.storage.sql import Connection
from tests.pages.forms import form_of
from tests.pages.people import Person, person
from tests.support import Customer, Farebox

HOSTILE = """"><script>alert(1)</script>"""
KEYS = {group.name: "/keys" for group in GROUPS if group.keys}
FULL: dict[str, Any] = {
    "authentication": False,
    "byok_only": True,
    "cache_coalesce": True,
    "cache_invalidate_on_update": True,
    "cache_ttl": 60,
    "collect_logs": True,
    "cors_origins": ["https://app.example.com", "null"],
    "log_management": 20_000,
    "log_management_strategy": "STOP_INSERTING",
    "otel": [
        {
            "url": "https://otel.example.com/v1/traces",
            "headers": {"x-key": "a-long-secret", "x-team": "another-secret"},
        },
        {"url": "https://otel.example.com/2", "headers": {}, "content_type": "protobuf"},
    ],
    "rate_limiting_interval": 30,
    "rate_limiting_limit": 500,
    "rate_limiting_technique": "sliding",
    "retry_backoff": "linear",
    "retry_delay": 100,
    "retry_max_attempts": 2,
    "store_id": "shared",
    "stripe": {
        "authorization": "rk_test_0123456789",
        "usage_events": [{"payload": '{"event_name": "calls", "payload": {"value": "1"}}'}],
    },
    "workers_ai_billing_mode": "unified",
    "zdr": True,
}
"""A gateway with a value in every field that this server supports."""


@pytest.fixture
def owner(farebox: Farebox, customer: Customer) -> Person:
    return person(farebox, Role.OWNER, customer.account_id)


def stored(customer: Customer, gateway_id: str) -> dict[str, Any]:
    """The gateway as the API returns it."""
    response = httpx.get(f"{customer.api_url}/ai-gateway/gateways/{gateway_id}", headers=customer.headers)
    found: dict[str, Any] = response.json()["result"]
    return found


def test_every_setting_of_a_gateway_is_on_a_page() -> None:
    named = {
        each.name.partition(".")[0] for group in GROUPS for each in group.fields({"otel": None, "stripe": None})
    } | set(ELSEWHERE)
    assert named == {each.name for each in msgspec.structs.fields(GatewayConfig)}


def test_a_gateway_is_created_read_saved_unchanged_and_deleted(owner: Person, customer: Customer) -> None:
    assert "Created the gateway full" in owner.submit("/ui/gateways", name="full")
    sent = httpx.patch(f"{customer.api_url}/ai-gateway/gateways/full", headers=customer.headers, json=FULL)
    assert sent.status_code == 200, sent.text
    before = stored(customer, "full")
    for group in GROUPS:
        page = owner.get("/ui/gateways/full/settings").text
        assert "a-long-secret" not in page
        path = f"/ui/gateways/full/settings{'/keys' if group.keys else ''}"
        assert "saved" in owner.submit(path, **form_of(page, group=group.name))
    assert stored(customer, "full") | {"modified_at": ""} == before | {"modified_at": ""}

    listed = unescape(owner.get("/ui/gateways").text)
    for text in ("caches for 60 s", "500 calls in 30 s", "own keys only", "Stripe meters"):
        assert text in listed
    assert "Deleted" in owner.submit("/ui/gateways/full/delete")
    gone = owner.get("/ui/gateways/full")
    assert (gone.status_code, "<h1>Not found</h1>" in gone.text) == (404, True)
    assert owner.get("/ui/gateways/full/settings").status_code == 404
    assert owner.send("/ui/gateways/full/settings", group="cache").status_code == 303


def test_a_form_changes_the_gateway_like_the_api(owner: Person, customer: Customer) -> None:
    owner.get("/ui/gateways")  # creates the default gateway
    settings = "/ui/gateways/default/settings"
    changes: dict[str, dict[str, str]] = {
        "access": {"authentication": "", "cors_origins": "https://a.example\r\n\r\n https://b.example "},
        "cache": {"cache_ttl": "120", "cache_coalesce": "on"},
        "spans": {"otel.0.url": "https://otel.example.com/", "otel.0.headers": "X-Key: value: with colon\n"},
        "retries": {"retry_max_attempts": "3", "retry_backoff": "exponential"},
    }
    for name, changed in changes.items():
        form = form_of(owner.get(settings).text, group=name) | changed
        assert "saved" in owner.submit(settings + KEYS.get(name, ""), **form), name
    found = stored(customer, "default")
    assert found["authentication"] is False
    assert found["cors_origins"] == ["https://a.example", "https://b.example"]
    assert (found["cache_ttl"], found["cache_coalesce"], found["retry_delay"]) == (120, True, None)
    assert found["otel"][0]["headers"] == {"x-key": "…olon"}
    form = form_of(owner.get(settings).text, group="spans") | {"otel.0.url": "", "otel.0.headers": ""}
    assert "settings do not exist" in owner.submit(settings, **form), "refused without a proof"
    assert "saved" in owner.submit(f"{settings}/keys", **form)
    assert stored(customer, "default")["otel"] is None


@pytest.mark.parametrize(
    ("group", "changed", "at", "said"),
    [
        ("cache", {"cache_ttl": "much"}, "cache_ttl", "Enter a number"),
        ("cache", {"cache_ttl": "1.5"}, "cache_ttl", "Enter a whole number"),
        ("cache", {"cache_ttl": "-1"}, "cache_ttl", "a number of at least 0"),
        ("retries", {"retry_max_attempts": "9"}, "retry_max_attempts", "a number of at most 5"),
        ("access", {"cors_origins": HOSTILE}, "cors_origins", "Line 1: Use an origin"),
        ("access", {"store_id": "no spaces"}, "store_id", "Use letters, digits"),
        ("spans", {"otel.0.url": "http://"}, "otel.0.url", "not a valid URL: write it as"),
        ("spans", {"otel.0.headers": "X-Key: v"}, "otel.0.url", "Fill this in"),
        ("logs", {"log_classification": "on"}, "log_classification", "needs a classifier"),
        ("logs", {"logpush": "on"}, "logpush", "no log destination"),
        ("logs", {"logpush_public_key": "x" * 20}, "logpush_public_key", "cannot be used"),
        ("meters", {"stripe.usage_events.0.payload": "{}"}, "stripe.authorization", "Fill this in"),
        ("rate", {"rate_limiting_technique": "x"}, "rate_limiting_technique", "these: by the clock"),
    ],
)  # fmt: skip
def test_errors_are_shown_at_their_field_in_words(
    owner: Person, customer: Customer, group: str, changed: dict[str, str], at: str, said: str
) -> None:
    owner.get("/ui/gateways")
    settings = "/ui/gateways/default/settings"
    before = stored(customer, "default")
    page = owner.submit(settings + KEYS.get(group, ""), **form_of(owner.get(settings).text, group=group) | changed)
    assert "Nothing was saved" in page
    found = re.search(rf'<p id="{re.escape(at)}-fault" class="hint bad">(.*?)</p>', page)
    assert found is not None, page
    assert said in unescape(re.sub("<[^>]*>", "", found.group(1)))
    assert f'aria-describedby="{at}-hint {at}-fault" aria-invalid="true"' in page or f"{at}-fault" in page
    assert "<script>alert" not in page
    kept = form_of(page, group=group)
    assert {name: kept[name] for name in changed if name != "rate_limiting_technique"} == {
        name: text for name, text in changed.items() if name != "rate_limiting_technique"
    }
    assert stored(customer, "default") == before


def test_names_of_gateways_are_checked_by_the_api(owner: Person) -> None:
    for name, said in (
        ("", "Name: Fill this in."),
        ("No", "Name: Use lowercase letters, digits and _, with single hyphens between them."),
        (HOSTILE, "Name: Use lowercase letters"),
        ("x" * 65, "Name: Enter at most 64 characters."),
        ("default", "already exists"),
    ):
        owner.get("/ui/gateways")
        assert said in unescape(owner.submit("/ui/gateways", name=name))


def test_the_snippets_of_a_gateway_make_calls(owner: Person, customer: Customer) -> None:
    owner.get("/ui/gateways")
    page = owner.get("/ui/gateways/default").text
    texts = dict(re.findall(r'aria-label="([^"]*)">([^<]*)</pre>', page, re.DOTALL))
    assert {"OpenAI, TypeScript", "Anthropic, Python", "Google, Python", "Google, TypeScript"} <= texts.keys()
    ran = {}
    for name in ("curl", "OpenAI, Python", "Cloudflare, Python"):
        text = unescape(texts[name])
        command = ["bash", "-c", text] if name == "curl" else [sys.executable, "-c", text]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env={"TOKEN": customer.token, "PATH": "/usr/bin:/bin"}
        )
        assert done.returncode == 0, done.stderr
        ran[name] = done.stdout
    assert "You said: “Hello!”" in ran["OpenAI, Python"]
    assert "chat.completion" in ran["curl"]
    assert ran["Cloudflare, Python"] == "default\n"
    for name, text in texts.items():
        if name.endswith("Python"):
            compile(unescape(text), name, "exec")


def test_lists_have_an_empty_field_for_another_entry() -> None:
    spans = next(group for group in GROUPS if group.name == "spans")
    values = {"otel": FULL["otel"]}
    assert [name for name in texts_of(spans.fields(values), values) if name.endswith("url")] == [
        "otel.0.url",
        "otel.1.url",
        "otel.2.url",
    ]
    assert len(spans.fields({"otel": FULL["otel"] * 3})) == 5 * 4


@pytest.mark.parametrize("number", ["cache_ttl", "rate_limiting_interval", "rate_limiting_limit", "retry_max_attempts"])
def test_a_gateway_without_one_of_its_numbers_is_shown(farebox: Farebox, customer: Customer, number: str) -> None:
    """The stored form allows null for each. An interval or a limit alone limits nothing."""
    owner = person(farebox, Role.OWNER, customer.account_id)
    config = msgspec.json.encode({**FULL, "stripe": None, "otel": None, number: None})

    def write(connection: Connection) -> None:
        put_gateway(connection, GatewayRow(customer.account_id, "partly", config, 1_000, 1_000, None))

    farebox.run(farebox.services.database.write(write))
    words = {"cache_ttl": "caches for", "retry_max_attempts": "attempts"}.get(number, "calls in")
    for path in ("/ui/gateways", "/ui/gateways/partly"):
        page = owner.get(path)
        assert page.status_code == 200
        assert words not in page.text
        assert "own keys only" in page.text
