"""`farebox bill`: providers' reports from files and from a server, compared with metered calls."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from farebox.calendar import DAY_MS
from farebox.money import NANOS_PER_USD
from farebox.settings import load
from farebox.storage.accounts import find_account
from farebox.storage.calls import CallDetail, CallRow, insert_call
from farebox.storage.database import opened_for_command
from farebox.storage.log_totals import id_at
from tests.cli.conftest import Cli
from tests.engines import ON_BOTH_ENGINES
from tests.sdks import openai

pytestmark = ON_BOTH_ENGINES

DAY = 1_793_491_200_000 + 2 * DAY_MS
"""2026-11-03."""
SPAN = ("--from", "2026-11-01", "--to", "2026-11-30")


_numbers = count()


def metered(provider: str, model: str, usd: float, *, day: int = 0, own_key: bool = False, tokens: int = 0) -> CallRow:
    """Add a call at noon of the day."""
    at = DAY + day * DAY_MS + 12 * 3_600_000 + next(_numbers)
    detail = CallDetail(outcome="own_key" if own_key else "charged", own_key=own_key)
    cost = round(usd * NANOS_PER_USD)
    log_id = id_at(at)
    return CallRow(
        "acme", log_id, "default", at, provider, model, True, 200, 5, tokens, 0, cost, 0, detail, b"{}", True
    )


def write(*calls: CallRow) -> None:
    with opened_for_command(load(), writing=True) as connection:
        account = find_account(connection, "acme")
        assert account is not None
        for call in calls:
            insert_call(connection, account.bucket, call)


def costs_page(*results: tuple[int, str | None, Any], more: str | None = None) -> dict[str, Any]:
    """A page of OpenAI's cost report: day, line item, amount."""
    buckets = [
        {
            "object": "bucket",
            "start_time": (DAY + day * DAY_MS) // 1000,
            "end_time": (DAY + (day + 1) * DAY_MS) // 1000,
            "results": [
                {
                    "object": "organization.costs.result",
                    "amount": {"value": value, "currency": "usd"},
                    "line_item": item,
                    "project_id": None,
                }
                for of, item, value in results
                if of == day
            ],
        }
        for day in sorted({day for day, _, _ in results})
    ]
    return {"object": "page", "data": buckets, "has_more": more is not None, "next_page": more}


def usage_page(*results: tuple[int, str, int, int]) -> dict[str, Any]:
    """A page of OpenAI's usage report: day, model, requests, tokens."""
    page = costs_page(*[(day, None, 0) for day, *_ in results])
    for bucket in page["data"]:
        bucket["results"] = [
            {
                "object": "organization.usage.completions.result",
                "model": model,
                "num_model_requests": requests,
                "input_tokens": tokens,
                "output_tokens": 0,
            }
            for day, model, requests, tokens in results
            if (DAY + day * DAY_MS) // 1000 == bucket["start_time"]
        ]
    return page


@contextmanager
def reporting(pages: dict[str, dict[str, Any]]) -> Iterator[tuple[str, list[tuple[str, dict[str, list[str]], Any]]]]:
    """A server that answers each path with its page, or pages by cursor; and the requests that it received."""
    asked: list[tuple[str, dict[str, list[str]], Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            asked.append((url.path, query, self.headers))
            key = url.path + "".join(f"?{cursor}" for cursor in query.get("page", []))
            authorized = "admin-key" in f"{self.headers['authorization']} {self.headers['x-api-key']}"
            body = json.dumps(
                pages.get(key, {"data": [], "has_more": False}) if authorized else {"error": "no"}
            ).encode()
            self.send_response(200 if authorized else 401)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_bill_of_openai_is_compared_by_day_and_model(cli: Cli, acme: str, tmp_path: Path) -> None:
    assert acme
    write(
        metered("openai", "gpt-5-mini", 1.0, tokens=500),
        metered("openai", "gpt-5-mini-2025-08-07", 0.5, tokens=300),
        metered("openai", "gpt-5", 2.0, own_key=True),
        metered("openai", "gpt-4o", 0.25, day=1),
        metered("groq", "gpt-4o", 9.0, day=1),
        metered("openai", "", 0.0, day=1),  # a list of models
    )
    page = costs_page(
        (0, "gpt-5-mini-2025-08-07, input", "1.000000000000000000000000"),
        (0, "gpt-5-mini-2025-08-07, cached input", 0.1),
        (0, "evals | gpt-5-mini-2025-08-07, output", 0.4),
        (0, "web search tool calls", 0.03),
        (2, "gpt-4o-2024-08-06, input", 7),
    )
    file = tmp_path / "costs.json"
    file.write_text(json.dumps([page, usage_page((0, "gpt-5-mini-2025-08-07", 2, 800))]))
    done = cli("bill", "import", "openai", str(file), "--json").json
    assert (done["days"], done["rows"], done["changed"], done["amount"]) == (2, 3, 3, "8.53")
    assert cli("bill", "import", "openai", str(file), "--json").json["changed"] == 0

    reported = cli("bill", "report", "openai", *SPAN, "--json")
    assert reported.status == 1
    rows = {(row["day"], row["model"]): row for row in json.loads(reported.out)}
    whole = rows["2026-11-03", "(all)"]
    assert (whole["billed"], whole["metered"], whole["difference"]) == ("1.53", "1.50", "0.03")
    assert (whole["percent"], whole["beyond"]) == ("+2.00", False)
    mini = rows["2026-11-03", "gpt-5-mini"]
    assert (mini["billed"], mini["metered"], mini["calls"], mini["requests_billed"]) == ("1.50", "1.50", 2, 2)
    assert (mini["tokens"], mini["tokens_billed"]) == (800, 800)
    tools = rows["2026-11-03", "web search tool calls"]
    assert (tools["billed"], tools["metered"], tools["percent"]) == ("0.03", None, None)
    assert (rows["2026-11-04", "gpt-4o"]["billed"], rows["2026-11-04", "gpt-4o"]["metered"]) == (None, "0.25")
    assert (rows["2026-11-04", "(not named)"]["calls"], rows["2026-11-04", "(all)"]["calls"]) == (1, 2)
    assert rows["2026-11-05", "(all)"]["beyond"]
    assert not any(model == "gpt-5" for _, model in rows)

    corrected = costs_page((2, "gpt-4o-2024-08-06, input", 0.5))
    file.write_text(json.dumps(corrected))
    assert cli("bill", "import", "openai", str(file), "--json").json["changed"] == 1
    assert cli("bill", "report", "openai", *SPAN).status == 0
    assert cli("bill", "report", "openai", *SPAN, "--percent", "1", "--usd", "0.02", "--alarm").status == 1
    alarms = [alarm for alarm in cli("status", "--json").json["alarms"] if alarm["kind"] == "bill_differs"]
    assert {alarm["about"] for alarm in alarms} == {"openai on 2026-11-03", "openai on 2026-11-05"}


CSV = {
    "openai": (
        "start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,line_item,project_id\n"
        f'{DAY // 1000},{DAY // 1000 + 86400},x,x,0.75,usd,"gpt-4o-2024-08-06, input",p\n'
        f"{DAY // 1000},{DAY // 1000 + 86400},x,x,,,,\n",
        "gpt-4o",
    ),
    "anthropic": (
        "usage_date_utc,model,workspace,api_key,usage_type,context_window,token_type,cost_usd,list_price_usd,cost_type\n"
        "2026-11-03,Claude Haiku 4.5,Default,k,message,≤ 200k,input_no_cache,0.50,0.50,token\n"
        "2026-11-03,Claude Haiku 4.5,Default,k,message,≤ 200k,output,0.25,0.25,token\n",
        "claude-haiku-4-5-20251001",
    ),
    "openrouter": (
        "generation_id,created_at,cost_total,tokens_prompt,tokens_completion,model_permaslug\n"
        "gen-1,2026-11-03 11:59:59.5,0.5,10,5,openai/gpt-4.1-2025-04-14\n"
        "gen-2,2026-11-03T23:59:59Z,0.25,10,5,openai/gpt-4.1-2025-04-14\n",
        "openai/gpt-4.1",
    ),
}


@pytest.mark.parametrize("provider", CSV)
def test_csv_files_of_the_dashboards_are_read(cli: Cli, acme: str, tmp_path: Path, provider: str) -> None:
    assert acme
    text, model = CSV[provider]
    write(metered(provider, model, 0.75))
    file = tmp_path / "bill.csv"
    file.write_text("\ufeff" + text)
    assert cli("bill", "import", provider, str(file), "--json").json["amount"] == "0.75"
    (whole, one) = cli("bill", "report", provider, *SPAN, "--json").json
    assert (whole["difference_nanos"], one["model"], one["difference_nanos"]) == (0, model, 0)


def test_bills_are_fetched_page_by_page_with_the_admin_key(cli: Cli, acme: str) -> None:
    assert acme
    costs = "/v1/organization/costs"
    pages = {
        costs: costs_page((0, "gpt-4o-2024-08-06, input", 1), more="page_2"),
        f"{costs}?page_2": costs_page((1, "gpt-4o-2024-08-06, input", 2)),
        "/v1/organization/usage/completions": usage_page((0, "gpt-4o-2024-08-06", 3, 40)),
    }
    with reporting(pages) as (url, asked):
        # OpenAI's own client accepts the server's response as such a report.
        admin = openai.OpenAI(api_key="unused", admin_api_key="admin-key", base_url=f"{url}/v1")
        report = admin.admin.organization.usage.costs(start_time=DAY // 1000, group_by=["line_item"])
        first = report.data[0].results[0]
        assert first.object == "organization.costs.result"
        assert first.amount is not None
        assert (first.amount.value, first.line_item) == (1, "gpt-4o-2024-08-06, input")
        admin.close()
        sdk_query = asked.pop(0)[1]

        fetch = ("bill", "import", "openai", "--fetch", *SPAN, "--base-url", url, "--json")
        done = cli(*fetch, stdin="admin-key\n").json
        assert (done["days"], done["amount"], done["changed"]) == (2, "3.00", 2)
        assert cli(*fetch, stdin="admin-key\n").json["changed"] == 0
        queries = [query for path, query, _ in asked if path == costs]
        assert queries[0]["group_by[]"] == sdk_query["group_by[]"] == ["line_item"]
        assert queries[0]["start_time"] == [str(1793491200)]
        assert [query.get("page") for query in queries[:2]] == [None, ["page_2"]]
        refused = cli(*fetch, stdin="other-key-value\n")
        assert refused.status == 1
        assert "401" in refused.err
        assert "other-key-value" not in refused.err
        assert cli(*fetch, stdin="").status == 1
    gone = cli("bill", "import", "openai", "--fetch", *SPAN, "--base-url", url, stdin="admin-key")
    assert (gone.status, "cannot be queried" in gone.err) == (1, True)


def test_anthropic_and_openrouter_are_fetched_too(cli: Cli, acme: str) -> None:
    assert acme
    bucket = {"starting_at": "2026-11-03T00:00:00Z", "ending_at": "2026-11-04T00:00:00Z"}
    cost = {
        "amount": "123.5", "currency": "USD", "model": "claude-haiku-4-5-20251001", "description": "Claude Haiku 4.5",
        "cost_type": "tokens", "workspace_id": None,
    }  # fmt: skip
    search = {**cost, "amount": "1", "model": None, "description": "Web Search", "cost_type": "web_search"}
    usage = {
        "uncached_input_tokens": 5, "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 1},
        "cache_read_input_tokens": 4, "output_tokens": 8, "model": "claude-haiku-4-5-20251001",
    }  # fmt: skip
    activity = {
        "date": "2026-11-03", "model": "openai/gpt-4.1", "model_permaslug": "openai/gpt-4.1-2025-04-14",
        "provider_name": "OpenAI", "usage": 0.015, "byok_usage_inference": 0.0, "requests": 5, "prompt_tokens": 50,
        "completion_tokens": 125, "reasoning_tokens": 25,
    }  # fmt: skip
    pages: dict[str, dict[str, Any]] = {
        "/v1/organizations/cost_report": {"data": [{**bucket, "results": [cost, search]}], "has_more": False},
        "/v1/organizations/usage_report/messages": {"data": [{**bucket, "results": [usage]}], "has_more": False},
        "/api/v1/activity": {"data": [activity]},
    }
    write(
        metered("anthropic", "claude-haiku-4-5", 1.235, tokens=20), metered("openrouter", "openai/gpt-4.1:free", 0.015)
    )
    with reporting(pages) as (url, asked):
        for provider, amount in (("anthropic", "1.245"), ("openrouter", "0.015")):
            days = ("--from", "2026-11-03", "--to", "2026-11-04")
            fetched = cli("bill", "import", provider, "--fetch", *days, "--base-url", url, "--json", stdin="admin-key")
            assert fetched.json["amount"] == amount
        assert {headers["anthropic-version"] for path, _, headers in asked if "organizations" in path} == {"2023-06-01"}
    rows = {row["model"]: row for row in cli("bill", "report", "anthropic", *SPAN, "--json").json}
    haiku = rows["claude-haiku-4-5"]
    assert (haiku["difference_nanos"], haiku["tokens_billed"], haiku["tokens"]) == (0, 20, 20)
    assert rows["Web Search"]["billed"] == "0.01"
    (_, routed) = cli("bill", "report", "openrouter", *SPAN, "--json").json
    assert (routed["difference_nanos"], routed["requests_billed"]) == (0, 5)


def test_invalid_bills_are_refused_and_change_nothing(cli: Cli, acme: str, tmp_path: Path) -> None:
    assert acme
    file = tmp_path / "bill"
    euros = costs_page((0, "gpt-4o, input", 1))
    euros["data"][0]["results"][0]["amount"]["currency"] = "eur"
    weekly = costs_page((0, "gpt-4o, input", 1))
    weekly["data"][0]["end_time"] += 7 * 86400
    for content in ("", "a,b\n1,2\n", "{}", '{"data": [{}]}', "[1]", json.dumps(euros), json.dumps(weekly)):
        file.write_text(content)
        refused = cli("bill", "import", "openai", str(file))
        assert (refused.status, refused.out) == (1, ""), content
    file.write_text(json.dumps(costs_page((0, "gpt-4o, input", "one"))))
    assert "an amount or a count in it is not a number" in cli("bill", "import", "openai", str(file)).err
    assert cli("bill", "import", "openai", str(tmp_path / "missing")).status == 1
    assert cli("bill", "import", "groq", str(file)).status == 2
    assert cli("bill", "import", "openai").status == 2
    assert cli("bill", "import", "openai", "--fetch", stdin="k").status == 2
    assert cli("bill", "report", "openai", *SPAN, "--json").json == []
