"""Who calls the data plane, and who pays: our access token, and possibly the caller's own provider key.

Our token is recognized by its prefix in any header, and is never forwarded. Anything else in a header that can carry a
provider key is the caller's own key: it is forwarded, and the account is not charged.
"""

import re
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import parse_qsl

import msgspec

from farebox.errors import GATEWAY_NOT_ALLOWED, INVALID_REQUEST, TOKEN_REJECTED, Problem
from farebox.model import AccessToken, Permission
from farebox.providers.provider import CALLER_KEY_HEADERS, CALLER_KEY_QUERY
from farebox.quoting import quoted
from farebox.runtime.configuration import Configuration
from farebox.vault import TOKEN_PREFIX

_is_name = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+").fullmatch
_is_value = re.compile(r"[\t\x20-\x7e\x80-\xff]*").fullmatch  # RFC 9110, 5.5
_METADATA = "cf-aig-metadata"  # JSON that stays here
STEP_HEADERS_MAX = 100
"""The maximum number of headers of a whole request, too."""
QUERY_FIELDS_MAX = 200
"""Maximum fields of a query: each is decoded and encoded again."""
_SCHEMES = ("bearer", "token", "key")
"""Schemes that providers require before a key in `authorization`: Deepgram `Token`, fal `Key`."""
GATEWAY_TOKEN_HEADER = "cf-aig-authorization"  # noqa: S105 - a header's name


class Headers(Protocol):
    def get(self, name: str) -> str | None: ...


class Credentials(msgspec.Struct, frozen=True):
    """The credentials of a request. `token` is one of our access tokens; None if there is none."""

    token: str | None
    own_key: bool


def read_credentials(headers: Headers, query: str) -> Credentials:
    """Separate a request's credentials into ours and the caller's own. Raises Problem (INVALID_REQUEST) if its query
    has too many fields."""
    if query.count("&") >= QUERY_FIELDS_MAX:
        raise Problem(INVALID_REQUEST, f"The query has more than {QUERY_FIELDS_MAX} fields.")
    token = _bare(headers.get(GATEWAY_TOKEN_HEADER))
    own_key = False
    for name in CALLER_KEY_HEADERS:
        value = _bare(headers.get(name))
        if value is None:
            continue
        if is_ours(value):
            token = token or value
        else:
            own_key = True
    if f"{CALLER_KEY_QUERY}=" in query:
        value = dict(parse_qsl(query)).get(CALLER_KEY_QUERY)
        if value and is_ours(value):
            token = token or value
        elif value:
            own_key = True
    return Credentials(token, own_key)


def is_ours(value: str) -> bool:
    """Whether a credential is one of our tokens, valid or not."""
    return value.startswith(TOKEN_PREFIX)


def carries_ours(value: str) -> bool:
    """Whether a header's value is one of our tokens, with or without a scheme such as `Bearer`."""
    return is_ours(_bare(value) or "")


async def authorize_run(
    token: str | None, account_id: str, gateway_id: str, configuration: Configuration
) -> AccessToken:
    """The token with this text. Raises Problem: TOKEN_REJECTED unless it may run calls on the account, the same for
    unknown and revoked tokens and for those of other accounts; GATEWAY_NOT_ALLOWED unless it may use the gateway,
    whether or not one of this name exists."""
    if token is None:
        raise Problem(
            TOKEN_REJECTED,
            f"Unauthorized: the request has no access token. Send one of this account (`{TOKEN_PREFIX}…`) with the "
            "permission `AI Gateway Run`, as `cf-aig-authorization: Bearer <token>` or as the SDK's API key.",
        )
    found = await configuration.token(token)
    if found is None or found.account_id != account_id or Permission.RUN not in found.permissions:
        raise Problem(
            TOKEN_REJECTED,
            "Unauthorized: the access token is not valid for this account. It must be an unexpired, unrevoked "
            "token of this account, with the permission `AI Gateway Run`: create one on the Tokens page or with "
            "`farebox token create`, or ask the account's owner for one.",
        )
    check_gateway(found, gateway_id)
    return found


class Limited(Protocol):
    """An access token, or a caller with one, that may be limited to gateways."""

    def may_reach(self, gateway_id: str) -> bool: ...


def check_gateway(caller: Limited, gateway_id: str) -> None:
    """Raises Problem (GATEWAY_NOT_ALLOWED)."""
    if not caller.may_reach(gateway_id):
        words = f"The access token is limited to certain gateways, and {quoted(gateway_id)} is not one of them."
        raise Problem(GATEWAY_NOT_ALLOWED, words)


def _bare(value: str | None) -> str | None:
    """The credential in a header's value; None if it is empty."""
    if value is None:
        return None
    value = value.strip()
    scheme, _, rest = value.partition(" ")
    if scheme.lower() in _SCHEMES:  # a scheme alone: from an SDK without a key
        value = rest.strip()
    return value or None


class StepHeaders:
    """The headers of one step of a universal request."""

    def __init__(self, headers: Mapping[str, str], bytes_max: int) -> None:
        """Raises Problem (INVALID_REQUEST): JSON can contain invalid headers, and more and larger ones than a request
        can have; and some of these are repeated in the response."""
        if len(headers) > STEP_HEADERS_MAX or sum(map(len, (*headers, *headers.values()))) > bytes_max:
            raise Problem(
                INVALID_REQUEST,
                f"A step has more than {STEP_HEADERS_MAX} headers, or more than {bytes_max} bytes of them.",
            )
        for name, value in headers.items():
            if not (_is_name(name) and (_is_value(value) or name.lower() == _METADATA)):
                raise Problem(INVALID_REQUEST, f"A step's header {quoted(name)} or its value cannot be sent over HTTP.")
        self._headers = {name.lower(): value.strip(" \t") for name, value in headers.items()}

    def get(self, name: str) -> str | None:
        return self._headers.get(name)

    def items(self) -> list[tuple[str, str]]:
        return list(self._headers.items())
