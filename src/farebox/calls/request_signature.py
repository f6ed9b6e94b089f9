"""The signature of a request to a cloud, or its token, as one attempt of a call has it."""

from typing import Final

from farebox.calls.operator_key import unavailable
from farebox.calls.stages import CallContext
from farebox.errors import KEY_UNREADABLE, Problem
from farebox.providers.key_problem import KeyProblem
from farebox.providers.signing import Signing, TokenSigning, signed
from farebox.providers.tokens import TokenRefused
from farebox.providers.upstream import UpstreamFailed, UpstreamRequest

_SECONDS: Final = 15.0


async def with_signature(context: CallContext, request: UpstreamRequest, signing: Signing) -> UpstreamRequest:
    """The request as it is sent. Raises TokenRefused where there is no token, UpstreamFailed where nobody can be asked
    for one, Interrupted."""
    try:
        with context.watch.waiting(_SECONDS):
            ready = await signed(request, signing, context.services.tokens)
    except UpstreamFailed as failure:  # whatever has become of that request, the call's own was not sent
        raise UpstreamFailed(f"no token: {failure}", sent=False, cause=failure.cause) from failure
    if isinstance(signing, TokenSigning) and _token(ready) not in context.tokens:
        context.tokens.append(_token(ready))
    return ready


def no_token(context: CallContext, refused: TokenRefused) -> Problem:
    """What the caller gets; the operator gets an alarm, where it is the operator's key."""
    call = context.call
    if call.own_key:
        words = f"There is no token for the stored key of {call.access.provider.name}: {refused}."
        return Problem(KEY_UNREADABLE, words)
    code, _, message = str(refused).partition(": ")
    return unavailable(context, 401, KeyProblem("key_refused", code, message))


def has_stale_token(context: CallContext, request: UpstreamRequest, signing: Signing | None) -> bool:
    """Whether the request had a token, which is then not used again: it has ended early, or was taken back."""
    if not isinstance(signing, TokenSigning):
        return False
    context.services.tokens.forget(signing.source, _token(request))
    return True


def _token(request: UpstreamRequest) -> str:
    return dict(request.headers)["authorization"].removeprefix("Bearer ")
