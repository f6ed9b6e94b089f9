"""Provider keys as they are stored: one word, for most providers; for a cloud, a JSON object that says which places the
key is for, which models are behind its deployments, and what requests are signed with. A list of such objects is a key
for several places.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias, TypeVar

import msgspec

KEY_BYTES_MAX: Final = 32 * 2**10
"""Largest stored key."""
_is_word: Final = re.compile(r"[\x21-\x7e]+").fullmatch
"""Characters that a header can carry, without spaces."""
_WORD_MAX: Final = 4_096
_KEYS_MAX: Final = 32


class InvalidKey(ValueError):
    """The text is not a key of this provider. The message says what is wrong without quoting the key."""


class AwsKeys(msgspec.Struct, frozen=True):
    """The keys that requests to Amazon are signed with."""

    access_key_id: str
    secret_access_key: str
    session_token: str | None

    def __repr__(self) -> str:
        return "AwsKeys()"


class GoogleAccount(msgspec.Struct, frozen=True):
    """A Google service account, which signs its requests for tokens."""

    email: str
    private_key: str
    key_id: str

    def __repr__(self) -> str:
        return "GoogleAccount()"


class EntraApp(msgspec.Struct, frozen=True):
    """A Microsoft Entra application, which requests its tokens with a client secret."""

    tenant_id: str
    client_id: str
    client_secret: str

    def __repr__(self) -> str:
        return "EntraApp()"


class IbmKey(msgspec.Struct, frozen=True):
    """An IBM Cloud API key, which is exchanged for tokens: the services accept only these."""

    api_key: str

    def __repr__(self) -> str:
        return "IbmKey()"


TokenSource: TypeAlias = GoogleAccount | EntraApp | IbmKey
"""The credential that a token is requested with."""
Signer: TypeAlias = AwsKeys | TokenSource


class Credential(msgspec.Struct, frozen=True):
    """One key."""

    word: str
    """The value for the header of the provider key; empty if requests are signed instead."""
    places: Mapping[str, frozenset[str]] = {}
    """Field of `Provider.place` → values that the key is for; any value if the field is missing."""
    models: Mapping[str, str] = {}
    """Name chosen by the key's owner (a deployment, an inference profile) → model behind it."""
    bearer: bool = False
    """Whether the word goes into `authorization` even where the provider expects its key elsewhere."""
    secrets: tuple[str, ...] = ()
    """Secrets that no response may contain."""
    signer: Signer | None = None
    """What each request is signed with, or gets its token from."""

    def __repr__(self) -> str:
        return f"Credential(places={dict(self.places)!r})"

    def is_for(self, fields: Mapping[str, str]) -> bool:
        """Whether the key may be used at this place."""
        return all(fields.get(name, "") in values for name, values in self.places.items())


Reader = Callable[[str], tuple[Credential, ...]]
"""Reads the keys from a stored text. Raises InvalidKey."""
S = TypeVar("S")


def word_of(text: str) -> tuple[Credential, ...]:
    """The key of nearly all providers. Raises InvalidKey."""
    if len(text) > _WORD_MAX:
        raise InvalidKey(f"the key is too long: it has {len(text):,} characters, and at most {_WORD_MAX:,} are allowed")
    if not _is_word(text):
        raise InvalidKey(
            "the key has characters that no HTTP header can carry: copy it again, without spaces or quotes"
        )
    return (Credential(text, secrets=(text,)),)


def is_object(text: str) -> bool:
    """Whether the text is written as JSON, rather than one word."""
    return text.lstrip()[:1] in ("{", "[")


def objects_of(text: str, kind: type[S]) -> list[S]:
    """The object, or the objects in a list. Raises InvalidKey, whose message quotes nothing of the input, although the
    decoder's own error may."""
    if len(text) > KEY_BYTES_MAX:
        raise InvalidKey(f"the key is larger than {KEY_BYTES_MAX} bytes")
    given = text.lstrip()
    try:
        if given[:1] == "[":
            keys = msgspec.json.decode(given, type=list[kind])  # type: ignore[valid-type]  # a type that is a value
        else:
            keys = [msgspec.json.decode(given, type=kind)]
    except msgspec.ValidationError as error:
        raise InvalidKey(f"the key is not as it should be: {_without_values(str(error))}") from None
    except (ValueError, RecursionError):
        raise InvalidKey("the key is not JSON") from None
    if not 1 <= len(keys) <= _KEYS_MAX:
        raise InvalidKey(f"a list has 1 to {_KEYS_MAX} keys")
    return keys


def _without_values(message: str) -> str:
    """The decoder's message, reduced to field names, which it quotes in backticks, and types."""
    return message if "Invalid" not in message else "a value is invalid" + message[message.rfind(" - at") :]
