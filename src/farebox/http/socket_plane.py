"""WebSockets of the data plane: from the request to the session."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from farebox.calls.endings import CLIENT_GONE, ending_of
from farebox.calls.forward import unreachable
from farebox.calls.key_selection import choose_key
from farebox.calls.logged_body import LoggedBody
from farebox.calls.model import Call
from farebox.calls.operator_key import ReadError, check_response
from farebox.calls.relaying.relay import relay_response
from farebox.calls.request_signature import has_stale_token, no_token, with_signature
from farebox.calls.settle import end_without_response, settle_call
from farebox.calls.stages import Admitted, Attempts, CallContext, Responded, Stage
from farebox.calls.watch import Interrupted, Watch
from farebox.calls.websockets.readers import session_reader
from farebox.calls.websockets.session import Meter, Session, UnmeteredSession, session_stage
from farebox.calls.websockets.turns import Turns
from farebox.errors import INVALID_REQUEST, NO_WEBSOCKET, NOT_METERED, ClientGone, Problem
from farebox.http.build_call import socket_call, turn_call
from farebox.http.call_target import CallTarget
from farebox.http.exchange import Exchange, HeaderList
from farebox.http.payer import access_of
from farebox.http.permits import Permit, permit_of
from farebox.http.proxy_request import ProxyRequest
from farebox.http.sink import HttpSink
from farebox.http.subprotocols import HEADER, OfferedProtocols
from farebox.http.universal_socket import Handle, UniversalSession
from farebox.limits.byte_budget import ByteLease
from farebox.providers.catalogue import upstream_path
from farebox.providers.cloud_tokens import TokenRefused
from farebox.providers.formats.base import Observed, ParsedRequest
from farebox.providers.provider import FREE, UNMETERED
from farebox.providers.upstream import HandshakeRefused, UpstreamFailed, UpstreamRequest
from farebox.providers.websockets.paths import SocketPath, socket_path
from farebox.quoting import quoted
from farebox.runtime.services import Services

if TYPE_CHECKING:
    from farebox.websocket import ProviderSocket, Room, Socket

_NONE_HERE: Final = frozenset({200, 400, 404, 405, 426, 501})
"""Statuses with which servers answer that have no WebSocket at a path which accepts requests. Clients fall back to
plain HTTP only on 426."""
OVERHEAD_BYTES: Final = 128 * 2**10
"""The least that a session keeps in memory: data received from both sides that is not read yet."""


def wants_socket(exchange: Exchange) -> bool:
    """Whether the request asks for a WebSocket."""
    upgrade = exchange.headers.get("upgrade")
    return upgrade is not None and exchange.method == "GET" and "websocket" in upgrade.lower()


class SocketRequest:
    """One permitted request for a WebSocket: the caller, and the target."""

    def __init__(
        self,
        services: Services,
        exchange: Exchange,
        target: CallTarget,
        permit: Permit,
        offer: OfferedProtocols,
        sink: HttpSink,
        watch: Watch,
        request_id: str,
    ) -> None:
        self._services = services
        self._exchange = exchange
        self._offer = offer
        self._sink = sink
        self._watch = watch
        self._target = target
        self._permit = permit
        self._request = ProxyRequest(
            request_id,
            target.account_id,
            target.gateway_id,
            permit.gateway,
            target.slug,
            target.path,
            exchange.query,
            "GET",
            offer.headers,
            b"",
            watch,
            permit.own_key,
            permit.own,
            {},
            client=exchange.client,
            token=permit.token,
            policies=permit.policies,
        )

    @property
    def _by_model(self) -> bool:
        """Whether the token, or a policy, allows only certain models: then no message may pass unread."""
        token, policies = self._request.token, self._request.policies
        return (token is not None and token.models is not None) or (policies is not None and policies.names_models)

    async def serve(self, begun: Callable[[Session], None], ended: Callable[[Session], None]) -> None:
        """Connect to the provider, then accept the client's handshake, and wait until the session has ended. `begun`
        and `ended` are called with the session. Raises Problem as long as nothing has been answered."""
        exchange = self._exchange
        handshake = _accepted(exchange)
        room = room_for(self._services, exchange, self._request.account_id)
        context, path = self._context()
        meter = self._meter(context, path)
        provider = await self._opened(context, path, room)
        if provider is None:
            return
        chosen = self._offer.chosen(provider.subprotocol)
        try:
            client = accept_handshake(self._services, exchange, handshake, self._sink.headers, chosen, room)
        except ClientGone:
            provider.end()
            await settle_call(session_stage(context), Observed(), CLIENT_GONE)
            return
        if isinstance(meter, Turns):
            meter.tell = client.send
        session = Session(context, client, provider, meter, self._check_permit)
        begun(session)
        try:
            await session.run()
        finally:
            ended(session)

    def _context(self) -> tuple[CallContext, SocketPath]:
        """The call that represents the session, and its path. Raises Problem."""
        services, request = self._services, self._request
        access = access_of(services, request.own, request.slug)
        path = upstream_path(access.provider, request.path)
        found = socket_path(access.provider.slug, path, custom=access.custom is not None)
        if found is None:
            raise no_socket(f"{access.provider.name} has no WebSocket at {quoted(path)} that is served here.")
        if self._by_model and found.kind == "unread":
            raise no_socket(
                "The access token, or a policy, allows only certain models, and this WebSocket names its model in "
                "its messages."
            )
        self._check_gateway()
        try:
            metering = UNMETERED if found.kind == "unread" else FREE
            call = socket_call(services, replace(request, path=path), access, metering)
        except Problem as problem:
            if problem.kind is not NOT_METERED:
                raise
            because = f", as {found.why}" if found.why else ""
            raise no_socket(
                f"A WebSocket at {quoted(path)} needs your own key for {access.provider.name}{because}."
            ) from problem
        call = choose_key(services, call)
        self._sink.of(call)
        return CallContext(services, call, self._sink, self._watch, services.clock.monotonic()), found

    def _check_gateway(self) -> None:
        """Raises Problem."""
        if self._request.gateway.screens:
            raise no_socket("The gateway screens the content of its calls, and WebSocket messages cannot be screened.")

    async def _check_permit(self) -> None:
        """Raises Problem if the session may not continue: its token was revoked, its gateway now has screening rules,
        or its models have been limited."""
        if self._permit.is_current(self._services):
            return
        self._permit = permit = await permit_of(self._services, self._offer, self._target)
        was_by_model = self._by_model
        self._request = replace(
            self._request, gateway=permit.gateway, own=permit.own, token=permit.token, policies=permit.policies
        )
        self._check_gateway()
        if self._by_model and not was_by_model:
            raise no_socket("The access token or a policy now allows only certain models: connect again.")

    def _meter(self, context: CallContext, path: SocketPath) -> Meter:
        """The meter that reads the session. Raises Problem if the session is not allowed on this key."""
        if path.kind == "unread":
            return UnmeteredSession()
        strict = self._by_model or not context.call.own_key
        reader, wire = session_reader(context, path.kind, self._request.query, self._error_event, strict=strict)

        async def call_of(turn_id: str, parsed: ParsedRequest, sent: bytes) -> Call:
            request = replace(self._request, log_id=turn_id, body=sent)
            return turn_call(self._services, request, context.call, wire, parsed)

        return Turns(context, reader, call_of, strict=strict)

    def _error_event(self, problem: Problem) -> bytes:
        """An error as OpenAI's Responses report it within a WebSocket: with its status and headers."""
        status, headers, body = self._sink.error(problem)
        error = msgspec.json.decode(body)["error"]
        return msgspec.json.encode({"type": "error", "status": status, "error": error, "headers": dict(headers)})

    async def _opened(self, context: CallContext, path: SocketPath, room: "Room") -> "ProviderSocket | None":
        """The provider's end; None if the provider answered with something else, which has been passed on. Raises
        Problem."""
        attempts = Attempts()
        stage: Stage = Admitted(context, None, None, None, attempts, False)
        try:
            try:
                return await self._handshake(context, room)
            except HandshakeRefused as refused:
                attempts.status = refused.status
                if path.kind == "openai_responses" and refused.status in _NONE_HERE:
                    raise no_socket(
                        f"{context.call.provider} responded to the request for a WebSocket with {refused.status}."
                    ) from refused
                answer = await check_response(context, ReadError(refused.status, refused.headers, refused.body))
                kept = LoggedBody(context.services.settings.log_body_limit_bytes)
                stage = responded = Responded(context, None, None, None, attempts, False, answer, kept)
                await relay_response(responded)
                return None
            except TokenRefused as no:
                raise no_token(context, no) from no
            except UpstreamFailed as failure:
                raise unreachable(context.call, failure) from failure
        except (Exception, asyncio.CancelledError) as error:
            end = ending_of(stage, error)
            if end.outcome:
                await end_without_response(stage, end, error if isinstance(error, Problem) else None)
            raise

    async def _handshake(self, context: CallContext, room: "Room") -> "ProviderSocket":
        """Connect to the provider. Raises TokenRefused, UpstreamFailed, HandshakeRefused, Interrupted."""
        services, call = context.services, context.call
        request = UpstreamRequest("GET", call.url, call.headers, b"")
        if call.signing is not None:
            request = await with_signature(context, request, call.signing)
        upstream = services.upstream if call.access.custom is None else services.custom_upstream
        wait = (call.request_timeout_ms or services.settings.first_byte_timeout_ms) / 1000
        most = services.settings.websocket_message_bytes
        try:
            with context.watch.waiting(wait):
                return await upstream.open_socket(request, self._offer.subprotocols, most, room)
        except HandshakeRefused as refused:
            if refused.status == 401:
                has_stale_token(context, request, call.signing)
            raise
        except Interrupted as interrupted:
            if interrupted.reason != "silence":
                raise
            upstream.count("timeout_answer")
            raise UpstreamFailed("no answer in time", sent=True, cause="timeout_answer") from interrupted


def no_socket(why: str) -> Problem:
    return Problem(NO_WEBSOCKET, f"{why} Use HTTP, where streams are server-sent events.")


def universal_session(
    services: Services, exchange: Exchange, offer: OfferedProtocols, sink: HttpSink, account_id: str, handle: Handle
) -> UniversalSession:
    """An open WebSocket of the universal endpoint. Raises Problem, ClientGone."""
    handshake = _accepted(exchange)
    room = room_for(services, exchange, account_id)
    socket = accept_handshake(services, exchange, handshake, sink.headers, offer.chosen(""), room)
    return UniversalSession(services, exchange, offer, socket, handle)


def room_for(services: Services, exchange: Exchange, account_id: str) -> "Room":
    """Counts a session's bytes. Raises Problem if there is no room for the session."""
    lease = services.held.lease(account_id)
    exchange.hold(lease)
    lease.take(OVERHEAD_BYTES)
    return _room(lease)


def accept_handshake(
    services: Services,
    exchange: Exchange,
    handshake: HeaderList,
    headers: HeaderList,
    chosen: str,
    room: "Room",
) -> "Socket":
    """The client's end, after accepting its handshake. Raises ClientGone."""
    from farebox.websocket import server_socket

    channel = exchange.switch([*handshake, *headers, *([(HEADER, chosen)] if chosen else [])])
    return server_socket(channel, services.settings.websocket_message_bytes, room)


def _accepted(exchange: Exchange) -> list[tuple[str, str]]:
    """The headers of the response to the client's handshake. Raises Problem (INVALID_REQUEST)."""
    from farebox.websocket import accept_headers

    try:
        return accept_headers(exchange.path, list(exchange.headers.items()))
    except ValueError as error:
        raise Problem(INVALID_REQUEST, f"The request for a WebSocket is malformed: {error}.") from error


def _room(lease: ByteLease) -> "Room":
    """Counts the bytes of large messages on the lease."""
    from farebox.websocket import Room

    class Leased(Room):
        def room_for(self, more: int) -> bool:
            return lease.room_for(more)

        def shrink_by(self, less: int) -> None:
            lease.shrink(lease.size - less)

    return Leased()
