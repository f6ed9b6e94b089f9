"""Where the answer of a model call goes: into its HTTP exchange, with the headers that name the call."""

import contextlib

from farebox.errors import Problem
from farebox.http.exchange import AnswerStream, ClientGone, Exchange, HeaderList
from farebox.http.provider_errors import Form, broken_event, error_body, error_headers, error_status
from farebox.http.server.heads import sendable
from farebox.usecases.call import Call, Gone


class HttpSink:
    """Writes an answer into the exchange, with the headers that name the call."""

    def __init__(self, exchange: Exchange, request_id: str, form: Form, no_credit: str) -> None:
        self._exchange = exchange
        self._no_credit = no_credit
        self._always: HeaderList = []
        self._request_id = request_id
        self._form: Form = form
        self._headers: HeaderList = [("cf-aig-request-id", request_id)]
        self.call_known = False

    def add(self, headers: HeaderList) -> None:
        """Headers of every answer from now on."""
        self._always = headers

    def of(self, call: Call) -> None:
        """The call that is being answered from now on."""
        self.call_known = True
        self._headers = [
            ("cf-aig-log-id", call.log_id),
            ("cf-aig-request-id", self._request_id),
            ("cf-aig-event-id", call.event_id or self._request_id),
            ("cf-aig-step", str(call.step)),
        ]

    def answer(self, status: int, headers: HeaderList, body: bytes) -> None:
        ours = self._headers + self._always
        try:
            self._exchange.answer(status, headers + ours, body)
        except ValueError:  # the answer has been paid for: it goes out without the header that cannot be sent
            self._exchange.answer(status, sendable(headers + ours), body)

    def start(self, status: int, headers: HeaderList) -> "HttpStream":
        every = headers + self._headers + self._always
        try:
            return HttpStream(self._exchange.start(status, every))
        except ValueError:
            return HttpStream(self._exchange.start(status, sendable(every)))

    def broken(self, message: str) -> bytes:
        return broken_event(message, self._form)

    def fail(self, problem: Problem) -> None:
        """Answer with an error. Where an answer has begun, the client sees that it breaks off."""
        with contextlib.suppress(RuntimeError):
            status = error_status(problem, self._form, self._no_credit)
            body = error_body(problem, self._form, status, self._request_id)
            self.answer(status, error_headers(problem, self._form), body)


class HttpStream:
    __slots__ = ("_stream",)

    def __init__(self, stream: AnswerStream) -> None:
        self._stream = stream

    async def send(self, chunk: bytes) -> None:
        try:
            await self._stream.send(chunk)
        except ClientGone as error:
            raise Gone from error
