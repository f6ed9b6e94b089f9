"""`python -m bench.pictures`: takes the README's screenshots in docs/img: the pages, and terminal.svg.

It runs `make run` in a temporary data folder and pastes the `curl` block of the greeting. Then it opens the billing
page in headless Chromium, saves a test card, buys credit, switches auto top-up on and spends, as README.md describes.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "img"
FAREBOX = ".venv/bin/farebox"
WIDTH = 1200
"""Size of the screenshots, in CSS pixels."""
COLUMNS = 118
START_SECONDS = 30.0
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.pictures", description=__doc__)
    parser.add_argument("--port", type=int, default=8787, help="port that the server listens on")
    port = parser.parse_args().port
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.stderr.write(f"none of {', '.join(BROWSERS)} is on the PATH\n")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"FAREBOX_DATA_DIR": folder, "FAREBOX_PORT": str(port)}
        _run("make setup", environment)  # `make run` then has nothing to install
        with _served(environment, Path(folder)) as greeting:
            session = _session(greeting, environment)
            (IMAGES / "terminal.svg").write_text(_terminal(session))
            _screenshot(greeting, environment, browser)
    return 0


@contextlib.contextmanager
def _served(environment: dict[str, str], folder: Path) -> Iterator[str]:
    """Run `make run`, and yield its greeting."""
    log = folder / "greeting.txt"
    with log.open("w") as output:
        server = subprocess.Popen(
            ["make", "run"], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.DEVNULL, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while "Ctrl-C" not in (greeting := log.read_text()):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"`make run` did not start:\n{greeting}")
            time.sleep(0.1)
        yield greeting
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.wait()


def _run(command: str, environment: dict[str, str]) -> str:
    ran = subprocess.run(
        ["/bin/sh", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return ran.stdout.replace("\r", "")


def _curl(greeting: str) -> str:
    """The `curl` block of the greeting."""
    start = greeting.index("curl http")
    return greeting[start : greeting.index("\n\n", start)]


def _session(greeting: str, environment: dict[str, str]) -> list[tuple[bool, str]]:
    """The lines of a terminal, each with whether it was typed."""
    lines = [(True, "$ make run")]
    lines += [(False, line) for line in greeting[: greeting.index("\ncurl\n")].splitlines()]
    lines.append((False, ""))
    call = _curl(greeting).replace("curl ", "curl -si ", 1)
    lines += [(True, f"{'$ ' if number == 0 else ''}{line}") for number, line in enumerate(call.splitlines())]
    head, _, body = _run(call, environment).partition("\n\n")
    lines += [(False, line) for line in head.splitlines() if line.startswith(("HTTP", "farebox-"))]
    lines += [(False, f"{body[: COLUMNS - 2]} …"), (False, "")]
    balance = f"{FAREBOX} balance --account demo"
    lines += [(True, f"$ {balance}")]
    return lines + [(False, line) for line in _run(balance, environment).splitlines()]


def _terminal(lines: list[tuple[bool, str]]) -> str:
    step, pad = 18, 16
    height = step * len(lines) + 2 * pad
    texts = "\n".join(
        f'<text x="{pad}" y="{pad + step * number + 13}"{" class=" + chr(34) + "typed" + chr(34) if typed else ""}>'
        f"{escape(line)}</text>"
        for number, (typed, line) in enumerate(lines)
        if line
    )
    size = f'width="960" height="{height}" viewBox="0 0 960 {height}"'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">
<title>make run, a model call with curl, and the balance after it</title>
<style>
text {{ font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; fill: #c9d1d9; white-space: pre }}
.typed {{ fill: #ffffff; font-weight: 600 }}
</style>
<rect width="960" height="{height}" rx="8" fill="#0d1117"/>
{texts}
</svg>
"""


def _screenshot(greeting: str, environment: dict[str, str], browser: str) -> None:
    link = next(word for word in greeting.split() if "/ui/open?" in word)
    _run(f"{FAREBOX} price set demo gold --input 0 --output 1000000", environment)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=ARGUMENTS)
        page = chromium.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        page.goto(link)
        page.get_by_role("button", name="Open").click()
        billing = link.partition("/ui/")[0] + "/billing"
        page.goto(billing)
        _buy(page)
        _spend(greeting)
        page.goto(billing)
        while not page.locator("#available").inner_text().startswith("64."):  # 55, minus 40, plus 50 by auto top-up
            page.wait_for_timeout(250)
            page.reload()
        page.screenshot(path=IMAGES / "billing-page.png")
        _pages(page, link.partition("/ui/")[0])
        chromium.close()


def _pages(page: Page, url: str) -> None:
    """The other pages, as the README shows them: one in dark mode."""
    page.goto(f"{url}/ui/limits")
    page.get_by_label("Maximum spending").fill("25")
    page.get_by_role("button", name="Try it on past calls").click()
    page.screenshot(path=IMAGES / "limit-tried.png")
    page.get_by_role("button", name="Set this limit").click()
    for name in ("overview", "calls", "usage", "limits", "tokens"):
        page.emulate_media(color_scheme="dark" if name == "usage" else "light")
        page.goto(f"{url}/ui/{name}")
        page.screenshot(path=IMAGES / f"{name}.png")
    page.goto(f"{url}/ui/calls")
    page.locator("#calls tbody a").first.click()
    page.screenshot(path=IMAGES / "call.png")


def _buy(page: Page) -> None:
    """Save the test card, buy 50 USD, and switch auto top-up on for 50 USD below 30 USD."""
    page.get_by_role("button", name="Save a").click()
    page.get_by_label("Card number").fill("4242424242424242")
    page.get_by_label("Expiry").fill("12 / 34")
    page.get_by_label("Security code").fill("123")
    page.get_by_label("Name on card").fill("Test Person")
    page.locator("#submit").click()
    page.locator("#buy").get_by_label("Amount of credit").fill("50")
    page.locator("#buy").get_by_role("button", name="Continue").click()
    page.get_by_role("button", name="Pay").click()
    form = page.locator("#auto")
    form.get_by_label("When the balance falls below").fill("30")
    form.get_by_label("Buy this much credit").fill("50")
    form.get_by_role("button", name="witch on").click()
    page.locator("#auto .state").filter(has_text="Active").wait_for()


def _spend(greeting: str) -> None:
    """Spend 40 USD in one call of the expensive model."""
    call = _curl(greeting).replace("demo/demo-1", "demo/gold").replace("Hello!", "demo:tokens=40")
    response: dict[str, Any] = json.loads(_run(call.replace("curl ", "curl -s ", 1), dict(os.environ)))
    if response.get("usage", {}).get("completion_tokens") != 40:
        raise RuntimeError(f"the call failed: {response}")


if __name__ == "__main__":
    sys.exit(main())
