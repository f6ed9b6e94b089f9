"""Authentication and authorization on the control plane.

Credentials are an access token (`Authorization: Bearer`), or a user's e-mail address and key (`X-Auth-Email` with
`X-Auth-Key`). The TypeScript client sends all the credentials it has: a valid token wins, then the key; otherwise the
token's error is reported.
"""

import re

from farebox.errors import (
    ACCESS_DENIED,
    CREDENTIALS_MALFORMED,
    CREDENTIALS_MISSING,
    CREDENTIALS_REJECTED,
    GATEWAY_NOT_ALLOWED,
    KEY_REJECTED,
    TOKEN_INVALID,
    ErrorKind,
    Problem,
)
from farebox.http.credentials import check_gateway
from farebox.http.exchange import RequestHeaders
from farebox.model import AccessToken, Caller, Permission
from farebox.runtime.configuration import Configuration

_BEARER = re.compile(r"[Bb]earer +([A-Za-z0-9._~+/=-]{1,512})")
_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s]{1,255}")
_KEY = re.compile(r"[!-~]{1,512}")

_BAD_AUTHORIZATION = (6111, "Invalid format for Authorization header")
_BAD_EMAIL = (6102, "Invalid format for X-Auth-Email header")
_BAD_KEY = (6103, "Invalid format for X-Auth-Key header")


async def authenticate(headers: RequestHeaders, configuration: Configuration) -> Caller:
    """The caller. Raises Problem: CREDENTIALS_MISSING, _MALFORMED, _REJECTED or KEY_REJECTED."""
    authorization = headers.get("authorization")
    if authorization is None:
        return await _user(headers, configuration)
    try:
        token = await _token(authorization, configuration)
    except Problem as problem:
        try:
            return await _user(headers, configuration)
        except Problem:
            raise problem from None
    accounts = frozenset((token.account_id,))
    return Caller(
        token.name, accounts, token.permissions, token.token_id, token.expires_at, token.models, token.gateways
    )


async def authenticate_token(headers: RequestHeaders, configuration: Configuration) -> AccessToken:
    """The access token itself, for the route that verifies tokens: a rejected one is TOKEN_INVALID there."""
    authorization = headers.get("authorization")
    if authorization is None:
        raise _missing()
    try:
        return await _token(authorization, configuration)
    except Problem as problem:
        if problem.kind is CREDENTIALS_REJECTED:
            raise Problem(TOKEN_INVALID, "Invalid API Token") from None
        raise


def authorize(
    caller: Caller, account_id: str, permissions: tuple[Permission, ...], denied: ErrorKind = ACCESS_DENIED
) -> None:
    """Raises Problem (ACCESS_DENIED), the same whether the account belongs to another or does not exist; `denied` if
    only the permission is missing."""
    if caller.may(account_id, *permissions):
        return
    if denied is not ACCESS_DENIED and account_id in caller.accounts:
        raise Problem(denied, denied.remedy)
    raise Problem(ACCESS_DENIED, "Authentication error")


def authorize_gateway(caller: Caller, gateway_id: str | None, *, limited_too: bool) -> None:
    """A token that is limited to gateways may call their routes, and other routes only if they support such tokens
    (`limited_too`, http.router.Route). Raises Problem (GATEWAY_NOT_ALLOWED)."""
    if gateway_id is not None:
        check_gateway(caller, gateway_id)
    elif caller.gateways is not None and not limited_too:
        words = "The access token is limited to certain gateways, and this request concerns the whole account."
        raise Problem(GATEWAY_NOT_ALLOWED, words)


async def _token(authorization: str, configuration: Configuration) -> AccessToken:
    found = _BEARER.fullmatch(authorization)
    if found is None:
        raise _malformed(_BAD_AUTHORIZATION)
    token = await configuration.token(found.group(1))
    if token is None:
        raise Problem(CREDENTIALS_REJECTED, "Invalid access token")
    return token


async def _user(headers: RequestHeaders, configuration: Configuration) -> Caller:
    email, key = headers.get("x-auth-email"), headers.get("x-auth-key")
    if email is None and key is None:
        raise _missing()
    faults = []
    if email is None or not _EMAIL.fullmatch(email):
        faults.append(_BAD_EMAIL)
    if key is None or not _KEY.fullmatch(key):
        faults.append(_BAD_KEY)
    if email is None or key is None or faults:
        raise _malformed(*faults)
    caller = await configuration.user(email, key)
    if caller is None:
        raise Problem(KEY_REJECTED, "Unknown X-Auth-Key or X-Auth-Email")
    return caller


def _missing() -> Problem:
    return Problem(CREDENTIALS_MISSING, "Missing X-Auth-Key, X-Auth-Email or Authorization headers")


def _malformed(*chain: tuple[int, str]) -> Problem:
    return Problem(CREDENTIALS_MALFORMED, "Invalid request headers", chain=chain)
