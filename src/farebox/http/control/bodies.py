"""Types of request bodies, generated from the stored struct: optional fields that were not sent are UNSET."""

from typing import Annotated, Any, Union

import msgspec

Ignored = Annotated[Any, msgspec.Meta(extra_json_schema={"readOnly": True})]
"""A field that a client sends back as it received it."""


def body_of(
    name: str,
    stored: type[msgspec.Struct],
    *,
    required: tuple[str, ...] = (),
    more: tuple[tuple[str, Any], ...] = (),
    ignored: tuple[str, ...] = (),
) -> type[msgspec.Struct]:
    """The type of a body with the fields of `stored`, and `more` fields."""
    known = [(field.name, field.type) for field in msgspec.structs.fields(stored)]
    fields: list[Any] = []
    for field, kind in (*known, *more):
        if field in required:
            fields.append((field, kind))
        else:
            fields.append((field, Union[kind, msgspec.UnsetType], msgspec.UNSET))  # noqa: UP007 - a value, not a type
    fields += [(field, Ignored, msgspec.UNSET) for field in ignored]
    return msgspec.defstruct(name, fields, frozen=True, kw_only=True, forbid_unknown_fields=True)


def given(body: Any, stored: type[msgspec.Struct]) -> dict[str, Any]:
    """The fields of `stored` that were sent."""
    found = {field.name: getattr(body, field.name) for field in msgspec.structs.fields(stored)}
    return {name: value for name, value in found.items() if value is not msgspec.UNSET}
