"""A policy as Cloudflare's API writes it: what is stored, and what the control plane takes and returns."""

from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from farebox.periods import Period

CONDITION_MAX: Final = 500
"""Characters: an expression of this length is compiled in two milliseconds and evaluated in a quarter of one, whatever
it contains (policies.conditions)."""
NAMES_MAX: Final = 100
"""Models, or providers, that one policy may list."""

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
_Names: TypeAlias = _Name | Annotated[tuple[_Name, ...], msgspec.Meta(min_length=1, max_length=NAMES_MAX)]


class Resource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The models and providers that a policy covers. A call must match one of the models and one of the providers."""

    model: _Names | msgspec.UnsetType = msgspec.UNSET
    """`provider/model`, or a model alone. `*` stands for any characters except `/`."""
    provider: _Names | msgspec.UnsetType = msgspec.UNSET


class NoLimit(msgspec.Struct, frozen=True, tag_field="type", tag="no-limit", forbid_unknown_fields=True):
    """Matching calls are let through without a limit."""


class Block(msgspec.Struct, frozen=True, tag_field="type", tag="block", forbid_unknown_fields=True, omit_defaults=True):
    """Matching calls are refused."""

    inverted: bool = msgspec.field(name="except", default=False)
    """If true, calls are refused that the resource does *not* cover."""


class Limit(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="limit", forbid_unknown_fields=True):
    """Matching calls are let through until they have cost this amount in a window of the calendar."""

    amount: Annotated[float, msgspec.Meta(gt=0, le=1e9)]
    """US dollars."""
    period: Period
    technique: Literal["named-interval"]


Action: TypeAlias = NoLimit | Block | Limit


class PolicyDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of a policy."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    actor: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    """Which calls share a budget: text with fields in braces, such as `user:{metadata.user_id}`."""
    resource: Literal["*"] | Resource
    condition: Annotated[str, msgspec.Meta(min_length=1, max_length=CONDITION_MAX)] = "true"
    """A CEL expression."""
    action: Action
