"""Azure OpenAI: how its keys are stored."""

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

from farebox.providers.credential import Credential, is_object, objects_of, word_of

RESOURCE: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,62}[A-Za-z0-9])?"
"""The name of a resource, which is a label of its host's name."""
DEPLOYMENT: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"
_Word = Annotated[str, msgspec.Meta(pattern=r"^[\x21-\x7e]{1,4096}$")]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class _Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As it is stored."""

    resource: Annotated[str, msgspec.Meta(pattern=f"^{RESOURCE}$")]
    api_key: _Word
    deployments: Mapping[_Name, _Name] = {}


def keys_of(text: str) -> tuple[Credential, ...]:
    """`{"resource": …, "api_key": …, "deployments": {name: model}}`, a list of such, or the key alone, which is
    then for any resource. Raises InvalidKey."""
    if not is_object(text):
        return word_of(text)
    return tuple(
        Credential(
            key.api_key,
            places={"resource": frozenset({key.resource.lower()})},
            models=key.deployments,
            secrets=(key.api_key,),
        )
        for key in objects_of(text, _Key)
    )
