"""Farebox extension: the endpoints that an account's messages are sent to, the list of messages, and sending one
again."""

from typing import Annotated, Any

import msgspec

from farebox.http.control.wire import Paging, iso, iso_or_none
from farebox.http.envelope import Response, ok, page
from farebox.http.request import Request
from farebox.messages.sign import message_id
from farebox.operator import endpoints as places
from farebox.operator import messages
from farebox.operator.messages import NoticeHistory
from farebox.storage.deliveries import MAIL, Delivery
from farebox.storage.webhook_endpoints import Endpoint as StoredEndpoint


class NewEndpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An endpoint for messages of these kinds; if no kinds are named, of all."""

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]
    kinds: Annotated[list[str], msgspec.Meta(max_length=50)] = []


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    endpoint_id: str
    url: str
    kinds: list[str]
    created_at: str


class EndpointWithSecret(msgspec.Struct, frozen=True, kw_only=True):
    """A new endpoint. The secret signs the messages that are sent there; it is shown only this once."""

    endpoint_id: str
    url: str
    kinds: list[str]
    created_at: str
    secret: str


class TestResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of the test message. `status` is the receiver's response, `error` why that was not enough."""

    delivered: bool
    status: int | None
    error: str | None


class Attempted(msgspec.Struct, frozen=True, kw_only=True):
    """One recipient of a message: an endpoint, or `e-mail`."""

    target: str
    attempts: int
    delivered_at: str | None
    next_attempt_at: str | None
    error: str | None


class Message(msgspec.Struct, frozen=True, kw_only=True):
    message_id: str
    webhook_id: str
    type: str
    created_at: str
    data: dict[str, Any]
    deliveries: list[Attempted]


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """The number of recipients the message is sent to again."""

    message_id: str
    deliveries: int


async def endpoints(request: Request, _: None) -> Response:
    return ok([_endpoint(item) for item in await places.listed(request.services, request.account_id)])


async def add_endpoint(request: Request, wanted: NewEndpoint) -> Response:
    made = await places.create(request.services, request.account_id, url=wanted.url, kinds=wanted.kinds)
    shown = _endpoint(made.endpoint)
    return ok(EndpointWithSecret(**msgspec.structs.asdict(shown), secret=made.secret), status=201)


async def remove_endpoint(request: Request, _: None) -> Response:
    return ok(_endpoint(await places.remove(request.services, request.account_id, request.path["endpoint_id"])))


async def try_endpoint(request: Request, _: None) -> Response:
    sent = await places.test(request.services, request.account_id, request.path["endpoint_id"])
    return ok(TestResult(delivered=sent.ok, status=sent.status, error=sent.error or None))


async def index(request: Request, query: Paging) -> Response:
    window = query.window()
    found, total = await messages.history(request.services, request.account_id, window.offset, window.per_page)
    return page([_message(item) for item in found], window.page, window.per_page, total)


async def replay(request: Request, _: None) -> Response:
    notice_id = request.path["message_id"]
    count = await messages.replay(request.services, notice_id, account_id=request.account_id)
    return ok(Replayed(message_id=notice_id, deliveries=count))


def _endpoint(item: StoredEndpoint) -> Endpoint:
    return Endpoint(endpoint_id=item.endpoint_id, url=item.url, kinds=list(item.kinds), created_at=iso(item.created_at))


def _message(item: NoticeHistory) -> Message:
    notice = item.notice
    return Message(
        message_id=notice.notice_id,
        webhook_id=message_id(notice.account_id, notice.notice_id),
        type=notice.kind,
        created_at=iso(notice.created_at),
        data=notice.content,
        deliveries=[_attempted(delivery) for delivery in item.deliveries],
    )


def _attempted(item: Delivery) -> Attempted:
    return Attempted(
        target="e-mail" if item.target.startswith(MAIL) else item.target,
        attempts=item.attempts,
        delivered_at=iso_or_none(item.delivered_at),
        next_attempt_at=iso_or_none(item.next_at),
        error=item.last_error,
    )
