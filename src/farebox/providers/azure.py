"""Azure OpenAI: how its keys are stored."""

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

from farebox.providers.credential import Credential, EntraApp, InvalidKey, is_object, objects_of, word_of

RESOURCE: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,62}[A-Za-z0-9])?"
"""The name of a resource, which is one label of its host name."""
DEPLOYMENT: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"
_Word = Annotated[str, msgspec.Meta(pattern=r"^[\x21-\x7e]{1,4096}$")]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class _Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key as it is stored."""

    resource: Annotated[str, msgspec.Meta(pattern=f"^{RESOURCE}$")]
    api_key: _Word | None = None
    tenant_id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9.-]{1,128}$")] = ""
    client_id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9-]{1,128}$")] = ""
    client_secret: _Word | None = None
    deployments: Mapping[_Name, _Name] = {}


def keys_of(text: str) -> tuple[Credential, ...]:
    """`{"resource": …, "api_key": …, "deployments": {name: model}}`, or `tenant_id`, `client_id` and `client_secret` in
    place of the key; or a list of such objects; or a key alone, which is then for any resource. Raises InvalidKey."""
    if not is_object(text):
        return word_of(text)
    return tuple(map(_credential, objects_of(text, _Key)))


def _credential(key: _Key) -> Credential:
    places = {"resource": frozenset({key.resource.lower()})}
    if key.api_key is not None and not (key.tenant_id or key.client_id or key.client_secret):
        return Credential(key.api_key, places=places, models=key.deployments, secrets=(key.api_key,))
    if key.api_key is not None or not (key.tenant_id and key.client_id and key.client_secret):
        raise InvalidKey("a key has either api_key, or tenant_id, client_id and client_secret")
    app = EntraApp(key.tenant_id, key.client_id, key.client_secret)
    return Credential("", places=places, models=key.deployments, secrets=(key.client_secret,), signer=app)
