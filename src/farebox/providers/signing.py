"""Requests that are signed individually, by the libraries of the provider that checks the signatures, or that carry a
token that is valid for an hour."""

import asyncio
import hashlib
import importlib
import sys
from collections.abc import Mapping
from typing import Final, TypeAlias

import msgspec
from msgspec.structs import replace

from farebox.memory_files import whole
from farebox.providers.cloud_tokens import Tokens
from farebox.providers.credential import AwsKeys, Signer, TokenSource
from farebox.providers.upstream import SentHead, UpstreamRequest

_AT_ONCE: Final = 256 * 2**10
"""Bytes of a body that are hashed on the event loop."""
_SIGNER: Final = "botocore.auth"


class AwsSigning(msgspec.Struct, frozen=True):
    """How a request to Amazon is signed."""

    keys: AwsKeys
    region: str
    service: str


class TokenSigning(msgspec.Struct, frozen=True):
    """Where the token of a request comes from."""

    source: TokenSource


Signing: TypeAlias = AwsSigning | TokenSigning


def signing_of(signer: Signer | None, fields: Mapping[str, str]) -> Signing | None:
    """How requests to this place are signed; None if they are not."""
    if signer is None:
        return None
    if not isinstance(signer, AwsKeys):
        return TokenSigning(signer)
    service = fields.get("service", "bedrock")
    return AwsSigning(signer, fields.get("region", ""), "bedrock" if service == "bedrock-runtime" else service)


async def signed(request: UpstreamRequest, signing: Signing, tokens: Tokens) -> UpstreamRequest:
    """The request with its signature, which is valid for some minutes, or its token. Raises TokenRefused,
    UpstreamFailed."""
    if isinstance(signing, TokenSigning):
        others = [(name, value) for name, value in request.headers if name != "authorization"]
        token = await tokens.of(signing.source)
        return replace(request, headers=[*others, ("authorization", f"Bearer {token}")], head=SentHead())
    if len(request.body) <= _AT_ONCE and _SIGNER in sys.modules:
        return _signed(request, signing)
    return await asyncio.to_thread(_signed, request, signing)  # the first call loads botocore


def _signed(request: UpstreamRequest, signing: AwsSigning) -> UpstreamRequest:
    """Signature Version 4. Only the headers that the signature needs are signed: a proxy may add others, and the
    caller's own headers of this kind would contradict them."""
    importlib.import_module(_SIGNER)
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    others = [(name, value) for name, value in request.headers if not name.startswith(("x-amz-", "amz-sdk-"))]
    kind = {name: value for name, value in others if name == "content-type"}
    digest = hashlib.sha256(whole(request.body)).hexdigest()
    to_sign = AWSRequest(request.method, request.url, headers={**kind, "x-amz-content-sha256": digest})
    keys = signing.keys
    credentials = Credentials(keys.access_key_id, keys.secret_access_key, keys.session_token)
    SigV4Auth(credentials, signing.service, signing.region).add_auth(to_sign)
    added = [(name.lower(), str(value)) for name, value in to_sign.headers.items() if name.lower() not in kind]
    return replace(request, headers=[*others, *added], head=SentHead())
