"""The signature or token of one attempt of a call to a cloud."""

from typing import Final

from farebox.calls.operator_key import unavailable
from farebox.calls.stages import CallContext
from farebox.errors import KEY_UNREADABLE, Problem
from farebox.providers.cloud_tokens import TokenRefused
from farebox.providers.key_problem import KeyProblem
from farebox.providers.signing import Signing, TokenSigning, signed
from farebox.providers.upstream import UpstreamFailed, UpstreamRequest

_SECONDS: Final = 15.0


async def with_signature(context: CallContext, request: UpstreamRequest, signing: Signing) -> UpstreamRequest:
    """The request as it is sent. Raises TokenRefused if no token is granted, UpstreamFailed if the token server cannot
    be reached, Interrupted."""
    try:
        with context.watch.waiting(_SECONDS):
            ready = await signed(request, signing, context.services.tokens)
    except UpstreamFailed as failure:  # whatever happened to the token request, the call's own was not sent
        raise UpstreamFailed(f"no token: {failure}", sent=False, cause=failure.cause) from failure
    if isinstance(signing, TokenSigning) and _token(ready) not in context.tokens:
        context.tokens.append(_token(ready))
    return ready


def no_token(context: CallContext, refused: TokenRefused) -> Problem:
    """The error for the caller; the operator gets an alarm if it is the operator's key."""
    call = context.call
    if call.own_key:
        words = f"There is no token for the stored key of {call.access.provider.name}: {refused}."
        return Problem(KEY_UNREADABLE, words)
    code, _, message = str(refused).partition(": ")
    return unavailable(context, 401, KeyProblem("key_refused", code, message))


def has_stale_token(context: CallContext, request: UpstreamRequest, signing: Signing | None) -> bool:
    """Whether the request was sent with a token. It is then discarded, as it has ended early or was revoked."""
    if not isinstance(signing, TokenSigning):
        return False
    context.services.tokens.forget(signing.source, _token(request))
    return True


def _token(request: UpstreamRequest) -> str:
    return dict(request.headers)["authorization"].removeprefix("Bearer ")
