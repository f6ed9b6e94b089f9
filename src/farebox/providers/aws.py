"""Amazon Bedrock: its hosts, its model names, and how its keys are stored."""

import re
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

from farebox.providers.credential import AwsKeys, Credential, InvalidKey, is_object, objects_of, word_of

REGION: Final = r"[a-z]{2}(?:-[a-z]{2,12}){1,3}-[0-9]{1,2}"
MODEL: Final = r"(?:arn:aws[a-z-]*:bedrock:[a-z0-9-]{0,32}:[0-9]{0,12}:[a-z-]{1,64}/)?[A-Za-z0-9][A-Za-z0-9.:_-]{0,255}"
"""The ID of a model or an inference profile, or the ARN of either. It is percent-encoded in a path."""
_ARN: Final = re.compile(r"arn:aws[a-z-]*:bedrock:[a-z0-9-]*:[0-9]*:(?:foundation-model|inference-profile)/([\w.:-]+)")
_Word = Annotated[str, msgspec.Meta(pattern=r"^[\x21-\x7e]{1,4096}$")]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]


class _Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key as it is stored."""

    access_key_id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]{16,128}$")] = ""
    secret_access_key: _Word | None = None
    session_token: Annotated[str, msgspec.Meta(pattern=r"^[\x21-\x7e]{1,16384}$")] | None = None
    api_key: _Word | None = None
    regions: tuple[Annotated[str, msgspec.Meta(pattern=f"^{REGION}$")], ...] = ()
    models: Mapping[_Name, _Name] = {}


def hosts(fields: Mapping[str, str]) -> Mapping[str, str]:
    """The host of a service in a region."""
    if fields["service"] == "bedrock-mantle":
        return {"host": f"bedrock-mantle.{fields['region']}.api.aws"}
    return {"host": f"{fields['service']}.{fields['region']}.amazonaws.com"}


def keys_of(text: str) -> tuple[Credential, ...]:
    """`{"access_key_id": …, "secret_access_key": …, "session_token": …}`, `{"api_key": …}` or the API key alone. An
    object may also have `regions` that the key is for, and the `models` behind inference profiles. A list of objects is
    several keys. Raises InvalidKey."""
    if not is_object(text):
        return word_of(text)
    return tuple(map(_credential, objects_of(text, _Key)))


def _credential(key: _Key) -> Credential:
    places = {"region": frozenset(key.regions)} if key.regions else {}
    if key.api_key is not None and not (key.access_key_id or key.secret_access_key):
        return Credential(key.api_key, places=places, models=key.models, secrets=(key.api_key,))
    if not key.access_key_id or key.secret_access_key is None or key.api_key is not None:
        raise InvalidKey("a key has either access_key_id and secret_access_key, or api_key")
    secrets = (key.access_key_id, key.secret_access_key, *(() if key.session_token is None else (key.session_token,)))
    signer = AwsKeys(key.access_key_id, key.secret_access_key, key.session_token)
    return Credential("", places=places, models=key.models, secrets=secrets, signer=signer)


def model_of(model_id: str) -> str:
    """The model named by an ID in a path. The ARN of a foundation model or a cross-region inference profile contains
    the model; any other ARN is a name that its owner has chosen."""
    found = _ARN.fullmatch(model_id)
    return model_id if found is None else found[1]
