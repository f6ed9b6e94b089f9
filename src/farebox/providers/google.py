"""Google Vertex AI: its hosts, and how its keys are stored."""

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

from farebox.providers.credential import Credential, GoogleAccount, InvalidKey, is_object, objects_of, word_of

PROJECT: Final = r"[a-z0-9][a-z0-9-]{1,62}"
LOCATION: Final = r"(?:global|us|eu|[a-z]{2,20}-[a-z]{2,20}[0-9]{1,2})"
MODEL: Final = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}"
_HOST: Final = "aiplatform.googleapis.com"
_MULTI_REGIONS: Final = frozenset({"us", "eu"})
_Project = Annotated[str, msgspec.Meta(pattern=f"^{PROJECT}$")]


class _Key(msgspec.Struct, frozen=True):
    """A key file as issued by Google, with optional additions."""

    type: str = ""
    project_id: _Project | None = None
    private_key_id: Annotated[str, msgspec.Meta(max_length=256)] = ""
    private_key: Annotated[str, msgspec.Meta(max_length=16_384)] | None = None
    client_email: Annotated[str, msgspec.Meta(max_length=320)] | None = None
    projects: tuple[_Project, ...] = ()
    api_key: Annotated[str, msgspec.Meta(pattern=r"^[\x21-\x7e]{1,4096}$")] | None = None


def hosts(fields: Mapping[str, str]) -> Mapping[str, str]:
    """The host of a location."""
    location = fields.get("location", "global")
    if location == "global":
        return {"host": _HOST}
    if location in _MULTI_REGIONS:
        return {"host": f"aiplatform.{location}.rep.googleapis.com"}
    return {"host": f"{location}-{_HOST}"}


def keys_of(text: str) -> tuple[Credential, ...]:
    """The file of a service account, for its own project and those in `projects`; `{"api_key": …}` or that key alone,
    for express mode, whose paths name no project. A list of these is several keys. Raises InvalidKey."""
    if not is_object(text):
        return word_of(text)
    return tuple(map(_credential, objects_of(text, _Key)))


def _credential(key: _Key) -> Credential:
    if key.api_key is not None:
        return Credential(key.api_key, places={"project": frozenset({""})}, secrets=(key.api_key,))
    if key.type != "service_account":
        raise InvalidKey('the key is neither the file of a service account ("type": "service_account") nor an api_key')
    if key.private_key is None or key.client_email is None or key.project_id is None:
        raise InvalidKey("a service account's file has project_id, client_email and private_key")
    account = GoogleAccount(key.client_email, key.private_key, key.private_key_id)
    places = {"project": frozenset({key.project_id, *key.projects})}
    return Credential("", places=places, secrets=(key.private_key, key.private_key_id), signer=account)
