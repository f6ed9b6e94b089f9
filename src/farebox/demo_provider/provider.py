"""The demo provider: a local upstream that responds like OpenAI, Anthropic and Google, with exact usage.

It accepts any model name. One token is one word (see `prompt` and `responding`). Directives make it slow, wrong or
broken: in the header `x-demo`, after `demo:` in the last user message, or queued for the next requests in turn by POST
/_demo/script; the later of these wins. GET /_demo/stats and GET /_demo/journal?last=N show what it received, DELETE
/_demo/journal clears that.
"""

import argparse
import asyncio
import contextlib
import signal
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict
from itertools import count
from urllib.parse import parse_qs

import uvloop

from farebox.clock import Clock, SystemClock
from farebox.demo_provider import anthropic, google, openai_chat, openai_media, openai_responses
from farebox.demo_provider.delivery import DemoDelivery
from farebox.demo_provider.directives import PLAIN, BadDirective, Directives, in_text, parse
from farebox.demo_provider.prompt import BadRequest, DemoRequest, encode, json_object, objects
from farebox.demo_provider.received_calls import DemoJournal
from farebox.demo_provider.responding import FAILURE, JSON_HEADERS, DemoEndpoint, Dialect, Mark, Reply
from farebox.http.exchange import ClientGone, Exchange, HeaderList
from farebox.http.server import RunningServer, serve

_BODY_LIMIT = 1 << 30
_CLOSE_SECONDS = 2.0

_POST = {
    "chat/completions": openai_chat.CHAT,
    "responses": openai_responses.RESPONSES,
    "embeddings": openai_media.EMBEDDINGS,
    "moderations": openai_media.MODERATIONS,
    "images/generations": openai_media.IMAGES,
    "audio/speech": openai_media.SPEECH,
    "audio/transcriptions": openai_media.TRANSCRIPTIONS,
    "messages": anthropic.MESSAGES,
    "messages/count_tokens": anthropic.COUNT_TOKENS,
}
_GOOGLE = {
    "generateContent": google.GENERATE,
    "streamGenerateContent": google.GENERATE,
    "countTokens": google.COUNT_TOKENS,
}
_MODELS = {
    openai_chat.DIALECT: openai_media.MODELS,
    anthropic.DIALECT: anthropic.MODELS,
    google.DIALECT: google.MODELS,
}


class DemoProvider:
    """The application, with its journal and its queue of scripted directives."""

    def __init__(self, clock: Clock) -> None:
        self.journal = DemoJournal()
        self._clock = clock
        self._script: deque[str] = deque()
        self._serials = count(1)
        self._closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def script(self, responses: Iterable[str]) -> None:
        """Queue directives: each of the next requests takes one. Raises BadDirective, and then queues none."""
        responses = list(responses)
        for directives in responses:
            parse(directives)
        self._script.extend(responses)

    def clear(self) -> None:
        """Forget the journal, its counts and the scripted directives."""
        self.journal.clear()
        self._script.clear()

    def close(self) -> None:
        """Release every waiting request."""
        if not self._closing.done():
            self._closing.set_result(None)

    async def handle(self, exchange: Exchange) -> None:
        """Serve one request."""
        body = await exchange.body(_BODY_LIMIT)
        call = DemoRequest(exchange.method, exchange.path, exchange.query, exchange.headers, body)
        if call.path.startswith("/_demo/"):
            status, response = self._manage(call)
            exchange.respond(status, JSON_HEADERS, encode(response))
            return
        received = self.journal.begin(call)
        stats = self.journal.stats
        try:
            directives, reply = self._respond(call)
            await DemoDelivery(exchange, directives, self._clock, self._closing, stats).run(reply, received)
        except ClientGone:
            stats.disconnects += 1
        finally:
            self.journal.stats.open -= 1  # of the current counts, which may have been cleared meanwhile
            stats.completed += received.finished

    def _respond(self, call: DemoRequest) -> tuple[Directives, Reply]:
        endpoint = _endpoint(call)
        if endpoint is None:
            dialect = _dialect(call)
            return PLAIN, _failure(dialect, 404, f"The demo provider has no {call.method} {call.path}.")
        scripted = self._script.popleft() if self._script else ""
        try:
            prompt = endpoint.read(call)
            directives = parse(in_text(prompt.text)[0], call.headers.get("x-demo") or "", scripted)
            if directives.status:
                message = f"The demo provider was told to answer {directives.status}."
                return directives, _failure(endpoint.dialect, directives.status, message)
            mark = Mark(next(self._serials), self._clock.now_ms() // 1000)
            reply = endpoint.reply(prompt, directives, mark)
        except (BadRequest, BadDirective) as error:
            return PLAIN, _failure(endpoint.dialect, 400, str(error))
        if directives.error_event and reply.events is None:
            return directives, _failure(endpoint.dialect, 500, FAILURE, status=200)
        return directives, reply

    def _manage(self, call: DemoRequest) -> tuple[int, object]:
        """The provider's own paths, which the journal does not count."""
        what = f"{call.method} {call.path}"
        try:
            if what == "GET /_demo/stats":
                return 200, asdict(self.journal.stats)
            if what == "GET /_demo/journal":
                last = parse_qs(call.query).get("last")
                return 200, self.journal.last(int(last[0]) if last else None)
            if what == "DELETE /_demo/journal":
                self.clear()
                return 200, {}
            if what == "POST /_demo/script":
                responses = objects(json_object(call.body), "answers")
                self.script(str(response.get("directives", "")) for response in responses)
                return 200, {"queued": len(self._script)}
        except ValueError as error:
            return 400, {"error": str(error)}
        return 404, {"error": f"there is no {what}"}


def _endpoint(call: DemoRequest) -> DemoEndpoint | None:
    """The endpoint by the end of the path: any prefix (`v1/`, `openai/v1/`) may precede it."""
    *_, before, last = ("", *call.path.rsplit("/", 2))
    if call.method == "POST":
        return _POST.get(f"{before}/{last}") or _POST.get(last) or _GOOGLE.get(last.partition(":")[2])
    if call.method in ("GET", "HEAD") and "models" in (before, last):
        return _MODELS[_dialect(call)]
    return None


def _dialect(call: DemoRequest) -> Dialect:
    """Which provider's format to use if the path does not show it: each provider's SDK has its own header."""
    if call.headers.get("x-goog-api-key") is not None or "key=" in call.query:
        return google.DIALECT
    return anthropic.DIALECT if call.headers.get("anthropic-version") is not None else openai_chat.DIALECT


def _failure(dialect: Dialect, code: int, message: str, *, status: int | None = None) -> Reply:
    """An error in the provider's format; `status` if the response's status differs from the error's."""
    headers: HeaderList = [*JSON_HEADERS, ("retry-after", "1")] if code == 429 else JSON_HEADERS
    return Reply(status=status or code, headers=headers, body=encode(dialect.error(code, message)))


class RunningProvider:
    """A demo provider that is being served; closes at the end of an `async with`."""

    def __init__(self, app: DemoProvider, server: RunningServer) -> None:
        self.app = app
        self.port = server.port
        self.url = f"http://{server.host}:{server.port}"
        """Base URL without a path: `{url}/v1/chat/completions`."""
        self._server = server

    async def close(self) -> None:
        """Stop serving; waiting requests are released, and slow clients are not waited for."""
        self.app.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._server.close(), _CLOSE_SECONDS)

    async def __aenter__(self) -> "RunningProvider":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def start_provider(host: str = "127.0.0.1", port: int = 0, clock: Clock | None = None) -> RunningProvider:
    """Serve a demo provider in the running loop, on a port of the system's choice unless one is named.

    Raises AddressInUse if the port is taken.
    """
    app = DemoProvider(clock or SystemClock())
    return RunningProvider(app, await serve(app.handle, host, port))


async def _serve_until_stopped(host: str, port: int) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with await start_provider(host, port) as provider:
        print(f"demo provider on {provider.url}", flush=True)
        await stopped.wait()


def main() -> None:
    """Run a demo provider alone until it is interrupted."""
    parser = argparse.ArgumentParser(
        prog="farebox.demo_provider.provider", description="A local AI provider, for the demo and tests."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=9000, help="port to listen on (9000); 0: any free one, printed")
    options = parser.parse_args()
    uvloop.run(_serve_until_stopped(options.host, options.port))


if __name__ == "__main__":
    main()
