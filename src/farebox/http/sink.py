"""The destination of a model call's response: its HTTP exchange, with the headers that identify the call."""

import contextlib

from farebox.calls.model import Call
from farebox.errors import Problem
from farebox.http.exchange import Exchange, HeaderList, ResponseStream
from farebox.http.keep_alive import KeepAlive, takes_comments
from farebox.http.permits import Understood
from farebox.http.provider_errors import (
    DISCONNECTING,
    Form,
    as_run,
    broken_event,
    error_body,
    error_headers,
    error_status,
)
from farebox.http.refusals import Pages
from farebox.http.server.headers import sendable
from farebox.limits.byte_budget import ByteLease

PRIVATE = ("cache-control", "no-store")
"""On every response: whatever is between us and the caller, a call's content is only for the caller."""
_UNDELAYED: HeaderList = [
    ("cache-control", "no-store, no-transform"),  # a proxy that compresses would buffer it
    ("x-accel-buffering", "no"),  # nginx would buffer 32 KiB; other proxies know the header too
]


class HttpSink:
    """Writes a response into the exchange, with the headers that identify the call."""

    def __init__(
        self,
        exchange: Exchange,
        request_id: str,
        understood: Understood,
        no_credit: str,
        comment_seconds: float,
        public_url: str,
    ) -> None:
        """`no_credit`: the setting `no_credit_status`. `comment_seconds`: silence before a comment; 0: never.
        `public_url`: as in refusals.Pages."""
        self._exchange = exchange
        self._no_credit = no_credit
        self._comment_seconds = comment_seconds
        self._call: Call | None = None
        self._keep_alive: KeepAlive | None = None
        self._always: HeaderList = []
        self._public_url = public_url
        self._target = understood.target
        self._request_id = request_id
        self._form: Form = understood.form
        self._waits = understood.waits
        self._headers: HeaderList = [("cf-aig-request-id", request_id)]
        self.lease: ByteLease | None = None
        """Counts what is kept of the response."""

    @property
    def call_known(self) -> bool:
        """Whether the request has become a call."""
        return self._call is not None

    def add(self, headers: HeaderList) -> None:
        """Add headers to every response from now on."""
        self._always = headers

    def of(self, call: Call, cache_status: str = "MISS") -> None:
        """Set the call that is answered from now on; `cache_status` is reported if caching applies to it."""
        self._call = call
        self._headers = [
            ("cf-aig-log-id", call.log_id),
            ("cf-aig-request-id", self._request_id),
            ("cf-aig-event-id", call.event_id or self._request_id),
            ("cf-aig-step", str(call.step)),
        ]
        if call.metadata_ignored:
            self._headers.append(("farebox-metadata-ignored", call.metadata_ignored))
        if call.trace is not None and call.trace.ignored:
            self._headers.append(("farebox-trace-ignored", call.trace.ignored))
        if call.cache is not None:
            self._headers.append(("cf-aig-cache-status", cache_status))
        if call.route:
            self._headers += [("cf-aig-provider", call.provider), ("cf-aig-model", call.model)]
        if call.routing is not None:
            self._headers += [
                ("cf-aig-routed-model", call.routing.model),
                ("cf-aig-routing-reason", call.routing.reason),
                ("cf-aig-routing-decision-id", call.routing.decision_id),
            ]

    @property
    def headers(self) -> HeaderList:
        """The headers that identify the call."""
        return [*self._headers, *self._always, PRIVATE]

    def note(self, name: str, value: str) -> None:
        self._headers = [*(header for header in self._headers if header[0] != name), (name, value)]

    def respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        every = [*headers, *self._named(headers), *self._headers, *self._always, PRIVATE]
        try:
            self._exchange.respond(status, every, body)
        except ValueError:  # the response has been paid for: send it without the header that cannot be sent
            self._exchange.respond(status, sendable(every), body)

    def start(self, status: int, headers: HeaderList) -> ResponseStream | KeepAlive:
        whole = any(name == "content-length" for name, _ in headers)
        every = headers + self._named(headers) + self._headers + self._always + ([PRIVATE] if whole else _UNDELAYED)
        try:
            stream = self._exchange.start(status, every)
        except ValueError:
            stream = self._exchange.start(status, sendable(every))
        if self._comment_seconds and self._call is not None and takes_comments(self._call, status, headers):
            self._keep_alive = KeepAlive(stream, self._comment_seconds)
        return self._keep_alive or stream

    def _named(self, headers: HeaderList) -> HeaderList:
        """The ID of a response in Anthropic's format whose provider sends none. Claude Code notes it with each block of
        a message, and programs that add up its usage (ccusage 20.0.24) know by it which blocks are of one response."""
        if self._form != "anthropic" or any(name == "request-id" for name, _ in headers):
            return []
        return [("request-id", self._request_id)]

    def close(self) -> None:
        """The response is ending: send no more comments."""
        if self._keep_alive is not None:
            self._keep_alive.close()

    def keep(self, more: int) -> bool:
        return self.lease is None or self.lease.room_for(more)

    def release(self, less: int) -> None:
        if self.lease is not None:
            self.lease.shrink(self.lease.size - less)

    def broken(self, problem: Problem, after: bytes = b"") -> bytes:
        return broken_event(problem, self._form, after)

    @property
    def disconnects(self) -> bool:
        return self._form in DISCONNECTING

    def error(self, problem: Problem) -> tuple[int, HeaderList, bytes]:
        """Status, headers and body of an error."""
        if self._form == "run":
            problem = as_run(problem)
        status = error_status(problem, self._form, self._no_credit, waits=self._waits)
        pages = Pages(self._public_url, "" if self._target is None else self._target.account_id)
        body = error_body(problem, self._form, status, self._request_id, pages)
        return status, error_headers(problem, self._form, status, waits=self._waits), body

    def fail(self, problem: Problem) -> None:
        """Respond with an error. If a response has begun, the client sees that it breaks off."""
        with contextlib.suppress(RuntimeError):
            self.respond(*self.error(problem))
