"""A page of another origin calls through a gateway: it can read streams, headers and errors, or nothing."""

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.calls.kit import set_gateway
from tests.hostile.stepwise import CHAT, END, SLUG, stepwise, words
from tests.support import Farebox

pytestmark = pytest.mark.slow

CALL = """async ([url, token, body]) => {
    try {
        const answer = await fetch(url, {
            method: "POST",
            headers: {authorization: "Bearer " + token, "content-type": "application/json", "cf-aig-metadata": "{}"},
            body: JSON.stringify(body),
        });
        const reader = answer.body.getReader();
        let text = "", pieces = 0;
        for (;;) {
            const {value, done} = await reader.read();
            if (done) break;
            pieces += 1;
            text += new TextDecoder().decode(value);
            if (window.onpiece) window.onpiece(text);
        }
        return {status: answer.status, log: answer.headers.get("cf-aig-log-id"), text};
    } catch (error) { return {error: String(error)}; }
}"""


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """The origin of an empty page."""

    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_page_of_an_allowed_origin_reads_a_stream_and_an_error(
    browser: Browser, farebox: Farebox, elsewhere: str
) -> None:
    customer = farebox.funded("5")
    set_gateway(customer, cors_origins=[elsewhere])
    set_gateway(customer, "closed")
    base = f"{farebox.url}/v1/{customer.account_id}"
    context = browser.new_context()
    page = context.new_page()
    page.goto(elsewhere)
    with stepwise(farebox, SLUG) as provider:

        def on_piece(text: str) -> None:
            """Send the rest only once the page has read the first event."""
            if text.endswith(words("one").decode()):
                provider.say(*END)
                provider.end()

        page.expose_function("onpiece", on_piece)
        provider.say(words("one"))
        read = page.evaluate(CALL, [f"{base}/default/compat/chat/completions", customer.token, CHAT])
        assert (read["status"], read["text"].endswith("[DONE]\n\n")) == (200, True)
        assert read["log"]
        refused = page.evaluate(CALL, [f"{base}/default/compat/chat/completions", "fbx_wrong", CHAT])
        assert (refused["status"], "error" in refused["text"]) == (401, True)
        for gateway in ("closed", "nowhere"):
            kept = page.evaluate(CALL, [f"{base}/{gateway}/compat/chat/completions", customer.token, CHAT])
            assert "Failed to fetch" in kept["error"]
        assert len(provider.bodies) == 1
    context.close()
