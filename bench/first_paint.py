"""`python -m bench.first_paint`: what the pages cost on a large database, and how many bytes they send.

Fills a database of 100,000 accounts and a million calls (bench.fill), with messages and actions of the operator. Signs
in as the owner of the account with a tenth of all calls, and as the operator, and opens every page of both, one request
after another. For each request it measures the time, and the processor time of the server and the database together,
minus what they use when idle: this is the figure to compare on a machine that also runs other programs. A bare handler
on the same server (bench.bare) is measured in the same way.

The exit status is 0 if every page was served and none exceeds the bounds.
"""

import argparse
import gzip
import http.client
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from bench import ask, machine
from bench.engines import NAMES, SQLITE, Engine
from bench.fill import MODELS, Made, fill
from bench.fill_operator import fill_operator
from bench.growth import BUSY, Size
from bench.prepared import exit_status, prepared
from bench.reads import bare
from bench.record import shown, write
from bench.served import Broken, Farebox, run, serving
from farebox.http.pages.routes import PAGE_ROWS
from farebox.model import Role
from farebox.storage.database import opened_for_command

ACCOUNTS, CALLS = 100_000, 1_000_000
REQUESTS, WARM = 24, 3
"""The sum must be below the number of statements that an account may request per minute."""
SERVER_MS, SENT_KB, SCRIPTS_KB = 50.0, 60.0, 15.0
"""The bounds: p95 of processor time, bytes of a first visit (compressed), and all scripts (uncompressed)."""
FURTHER = {
    "/ui/usage": (
        {"by": "token"},
        {"by": "gateway", "compare": "on"},
        {"per": "month"},
        {"per": "month", "by": "user", "compare": "on"},
        {"per": "hour", "by": "provider"},
    ),
    "/ui/calls": ({"model": "bench-b"}, {"outcome": "failed"}, {"user": "nobody"}),
    "/billing/buy": ({"amount": "50"},),
    "/ui/accounts": ({"find": "bench"}, {"find": "nobody@example.com"}),
    "/ui/messages": ({"of": "{account_id}"},),
    "/ui/audit": ({"of": "{account_id}"},),
}
"""Further views of a page, by their queries; for a page that needs a query, its only views."""
NEEDS_A_QUERY = ("/billing/buy",)
LEFT_OUT = ("/billing/top-up", "/ui/limits/try", "/ui/confirm")
"""Not opened: no payment is in progress, no limit was tried, and the session is new."""
_USAGE_BY_TOKEN = ask.Read("usage by token", "/farebox/usage?by=token", lambda _: 0.0, lambda _: 0.0)
CAUGHT_UP_SECONDS = 600.0
IDLE_SECONDS = 5.0
ROUTE = [
    {"type": "start", "id": "start", "outputs": {"next": {"elementId": "model"}}},
    {
        "type": "model",
        "id": "model",
        "properties": {"provider": "openai", "model": MODELS[0], "timeout": 0, "retries": 0},
        "outputs": {"success": {"elementId": "end"}},
    },
    {"type": "end", "id": "end", "outputs": {}},
]


@dataclass(frozen=True, slots=True)
class Opened:
    """One request: its times in milliseconds, and its response, with `body` as it was sent."""

    wall_ms: float
    cpu_ms: float
    status: int
    body: bytes
    text: str


class Browser:
    """A signed-in user with one connection."""

    def __init__(self, port: int, processor_ms: Callable[[], float], headers: dict[str, str]) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._processor_ms = processor_ms
        self._headers = {"accept-encoding": "gzip", **headers}

    def close(self) -> None:
        self._connection.close()

    def open(self, path: str) -> Opened:
        before, begun = self._processor_ms(), time.perf_counter()
        self._connection.request("GET", path, headers=self._headers)
        response = self._connection.getresponse()
        body = response.read()
        wall_ms = (time.perf_counter() - begun) * 1000
        cpu_ms = self._processor_ms() - before
        plain = gzip.decompress(body) if response.headers.get("content-encoding") == "gzip" else body
        return Opened(wall_ms, cpu_ms, response.status, body, plain.decode())


def sign_in(served: Farebox, *whom: str) -> dict[str, str]:
    """Open a link of `farebox sign-in`; the header that the browser then sends."""
    link = run(served.folder, "sign-in", *whom, engine=served.engine)["link"]
    secret = urlsplit(link).query.removeprefix("link=")
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)) as connection:
        form = {"content-type": "application/x-www-form-urlencoded"}
        connection.request("POST", "/ui/open", urlencode({"link": secret}), form)
        response = connection.getresponse()
        response.read()
        cookie = response.headers.get("set-cookie", "").partition(";")[0]
    if response.status != 303 or not cookie:
        raise Broken(f"signing in was answered {response.status}")
    return {"cookie": cookie}


def furnish(served: Farebox, made: Made) -> dict[str, str]:
    """Create an object for each page that shows a single one; path parameter → name."""

    def make(path: str, body: dict[str, object]) -> str:
        with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)) as connection:
            url, headers = f"/client/v4/accounts/{made.account_id}/{path}", {"authorization": f"Bearer {made.token}"}
            connection.request("POST", url, json.dumps(body), headers)
            response = connection.getresponse()
            found = json.loads(response.read())
        if response.status >= 300:
            raise Broken(f"{path} was answered {response.status}: {found}")
        return str(found["result"]["id"])

    profile: dict[str, object] = {"name": "bench", "entries": [{"name": "bench", "keyword": "bench"}]}
    provider: dict[str, object] = {"name": "bench", "slug": "bench", "base_url": "https://llm.example.com"}
    return {
        "gateway_id": "default",
        "provider_id": make("ai-gateway/custom-providers", provider),
        "profile_id": make("farebox/dlp-profiles", profile),
        "route_id": make("ai-gateway/gateways/default/routes", {"name": "bench", "elements": ROUTE}),
    }


def addresses(names: dict[str, str], role: Role) -> Iterator[tuple[str, str]]:
    """The route and the concrete path of every page of an owner, or of the operator alone, including further views."""
    for row in PAGE_ROWS:
        theirs = role in row.roles and (role is Role.OWNER or Role.OWNER not in row.roles)
        if not row.template or not theirs or row.path in LEFT_OUT or row.demo:
            continue
        path = row.path.format_map(names)
        if row.path not in NEEDS_A_QUERY:
            yield row.path, path
        for query in FURTHER.get(row.path, ()):
            asked = {name: value.format_map(names) for name, value in query.items()}
            yield f"{row.path}?{urlencode(query, safe='{}')}", f"{path}?{urlencode(asked)}"


class Pages:
    """Opens the pages of one account and those of the operator; keeps the result rows and prints each."""

    def __init__(self, served: Farebox, made: Made) -> None:
        self._served = served
        self._made = made
        self._names = furnish(served, made) | {"account_id": made.account_id}
        self._browser = self._signed_in("--account", made.account_id)
        self.rows: list[dict[str, Any]] = []
        self.wrong: list[str] = []
        self.idle = 0.0

    def _signed_in(self, *whom: str) -> Browser:
        return Browser(self._served.port, self._processor_ms, sign_in(self._served, *whom))

    def _idle(self) -> float:
        """Processor time of the idle server and its jobs: milliseconds per millisecond of time."""
        before, begun = self._processor_ms(), time.perf_counter()
        time.sleep(IDLE_SECONDS)
        return (self._processor_ms() - before) / (time.perf_counter() - begun) / 1000

    def _processor_ms(self) -> float:
        roots = [self._served.pid, self._served.engine.postmaster]
        return sum(machine.processor_ms(pid) for pid in roots if pid is not None)

    def measure(self) -> None:
        self._names |= self._first_names()
        self._catch_up()
        self.idle = self._idle()
        for name, path in addresses(self._names, Role.OWNER):
            self._measure(name, path)
        self._browser.close()
        self._browser = self._signed_in("--operator")
        for name, path in addresses(self._names, Role.OPERATOR):
            self._measure(name, path)
        self._browser.close()

    def _first_names(self) -> dict[str, str]:
        found = {}
        for page, name, pattern in (
            ("/ui/calls", "log_id", r"/ui/calls/([0-9a-f-]{36})"),
            ("/ui/tokens", "token_id", r"/ui/tokens/([0-9a-f-]+)"),
        ):
            listed = re.search(pattern, self._browser.open(page).text)
            if listed is None:
                raise Broken(f"{page} has no link to any of its entries")
            found[name] = listed[1]
        return found

    def _catch_up(self) -> None:
        """Wait until the job has added new calls to the stored aggregates: reads that add them cost more."""
        deadline = time.monotonic() + CAUGHT_UP_SECONDS
        while ask.get(self._served, _USAGE_BY_TOKEN, self._made)["result"]["as_of"] is not None:
            if time.monotonic() > deadline:
                raise Broken("the stored aggregates of usage did not catch up")
            time.sleep(1)

    def _measure(self, name: str, path: str) -> None:
        opened = [self._browser.open(path) for _ in range(WARM + REQUESTS)][WARM:]
        first = opened[0]
        if {each.status for each in opened} != {200}:
            self.wrong.append(f"{name}: {sorted({each.status for each in opened})}")
            return
        parts = [self._browser.open(url) for url in _parts(first.text)]
        scripts = [part for url, part in zip(_parts(first.text), parts, strict=True) if ".js?" in url]
        row: dict[str, Any] = {
            "page": name,
            **_times(opened, self.idle),
            "page_kb": round(len(first.body) / 1000, 1),
            "html_kb": round(len(first.text) / 1000, 1),
            "sent_kb": round(sum(len(each.body) for each in (first, *parts)) / 1000, 1),
            "scripts_kb": round(sum(len(each.text.encode()) for each in scripts) / 1000, 1),
        }
        self.rows.append(row)
        for what, bound in (("cpu_p95_ms", SERVER_MS), ("sent_kb", SENT_KB), ("scripts_kb", SCRIPTS_KB)):
            if row[what] > bound:
                self.wrong.append(f"{name}: {what} is {row[what]}, above {bound:g}")
        print(line(row), flush=True)


def _parts(page: str) -> list[str]:
    """The URLs that a page loads."""
    return re.findall(r'(?:href|src)="(/ui/assets/[^"]+)"', page)


def _times(opened: list[Opened], idle: float) -> dict[str, float]:
    """Processor time minus what the idle server would have used in the same time."""
    cpu = [max(0.0, each.cpu_ms - idle * each.wall_ms) for each in opened]
    of = {"cpu": cpu, "wall": [each.wall_ms for each in opened]}
    medians = {f"{name}_p50_ms": round(statistics.median(times), 2) for name, times in of.items()}
    return medians | {f"{name}_p95_ms": round(statistics.quantiles(times, n=20)[-1], 2) for name, times in of.items()}


def bare_handler(folder: Path) -> dict[str, float]:
    """The same measurement of a handler that does nothing, on Farebox's own server."""
    with bare("farebox", folder, {}, "token") as server:
        browser = Browser(server.port, lambda: machine.processor_ms(server.pid), {"authorization": "Bearer token"})
        opened = [browser.open("/") for _ in range(WARM + REQUESTS)][WARM:]
        browser.close()
    return _times(opened, 0)


HEADINGS = f"{'page':<62}{'CPU p50':>9}{'p95 ms':>9}{'wall p50':>10}{'p95 ms':>9}{'sent kB':>9}{'scripts':>9}"


def line(row: dict[str, Any]) -> str:
    return (
        f"{row['page']:<62}{row['cpu_p50_ms']:>9.2f}{row['cpu_p95_ms']:>9.2f}{row['wall_p50_ms']:>10.2f}"
        f"{row['wall_p95_ms']:>9.2f}{row['sent_kb']:>9.1f}{row['scripts_kb']:>9.1f}"
    )


def main() -> int:
    return exit_status(partial(_run, _arguments()))


def _run(arguments: argparse.Namespace) -> int:
    with prepared(arguments.engine, arguments.dir) as (_, folder, mock, engine):
        size = Size(arguments.accounts, arguments.calls)
        made = next(one for one in fill(folder, mock, size.wanted(), engine=engine) if one.wanted.kind == BUSY)
        fill_operator(folder, engine)
        if engine is not SQLITE:  # as in a database that has grown by itself
            with opened_for_command(engine.settings(folder)) as connection:
                connection.execute("VACUUM (ANALYZE)")
        return measure(folder, engine, made, size)


def measure(folder: Path, engine: Engine, made: Made, size: Size) -> int:
    """Serve the folder, open the pages, and store the results."""
    with serving(folder, folder / "targets", engine=engine) as served:
        pages = Pages(served, made)
        print(f"{size}; the account that is signed in has {made.wanted.calls:,} calls\n{HEADINGS}", flush=True)
        pages.measure()
    nothing = bare_handler(folder)
    worst = max(pages.rows, key=lambda row: float(row["cpu_p95_ms"]))
    print(f"a bare handler: CPU p50 {nothing['cpu_p50_ms']:.2f} ms, wall p50 {nothing['wall_p50_ms']:.2f} ms")
    print("\n".join(pages.wrong) or f"nothing above the bounds; the most expensive page is {worst['page']}")
    facts = {
        "accounts": size.accounts,
        "calls": size.calls,
        "own_calls": made.wanted.calls,
        "bare": nothing,
        "idle": pages.idle,
    }
    path = write(f"first-paint-{engine.name}", pages.rows, engine=engine.name, **facts, wrong=pages.wrong)
    print(f"written: {shown(path)}")
    return int(bool(pages.wrong))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.first_paint", description=__doc__)
    parser.add_argument("--engine", choices=NAMES, default="sqlite", help="the database (default sqlite)")
    parser.add_argument(
        "--accounts", type=int, default=ACCOUNTS, help=f"accounts in the database (default {ACCOUNTS:,})"
    )
    parser.add_argument("--calls", type=int, default=CALLS, help=f"calls in the database (default {CALLS:,})")
    parser.add_argument(
        "--dir", type=Path, help="folder for the database, which is removed afterwards (default: temporary)"
    )
    arguments = parser.parse_args()
    if arguments.accounts < 102 or arguments.calls < 20_000:
        parser.error("--accounts at least 102, --calls at least 20,000")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
