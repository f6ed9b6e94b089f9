"""Where at a provider a request goes, if its path says so: a resource, a region, a project. The host is built only from
these names, each of which has been matched by a pattern that excludes the separators of host names."""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

import msgspec

from farebox.providers.formats.base import InvalidRequest
from farebox.providers.provider import Provider

_NOT_FILLED: Final = re.compile(r"\{\w+\}")


class ProviderPath(msgspec.Struct, frozen=True):
    """A canonical path at a provider: the place it names, and the rest."""

    fields: Mapping[str, str]
    """The names in the path, in lower case; and `host`, if the provider derives it from them."""
    path: str
    """The part of the path that follows the base URL."""


def provider_path(provider: Provider, path: str) -> ProviderPath:
    """The parts of this canonical path. Raises InvalidRequest if it does not name the place."""
    if provider.place is None:
        return ProviderPath({}, path)
    found = provider.place.match(path)
    if found is None:
        raise InvalidRequest(f"The path does not say where: {provider.name} is called at {provider.place_example}.")
    fields = {name: value.lower() for name, value in found.groupdict().items() if value is not None}
    rest = path[found.end("prefix") :] if fields.pop("prefix", None) else path
    rest = path[found.start("own") :] if fields.pop("own", None) else rest
    model = provider.encoded.search(rest) if provider.encoded else None
    if model is not None:
        rest = rest[: model.start("model")] + quote(model["model"], safe="") + rest[model.end("model") :]
    return ProviderPath({**fields, **(provider.hosts(fields) if provider.hosts else {})}, rest)


def filled_base_url(base_url: str, where: ProviderPath) -> str:
    """The base URL with its `{names}` filled in. Raises InvalidRequest if others are left, which the operator has to
    fill in."""
    if not base_url:
        raise InvalidRequest(
            "This server is not set up here: the operator does so on the Operator's provider keys page, or with "
            "`farebox provider set`."
        )
    if "{" not in base_url:
        return base_url
    for name, value in where.fields.items():
        base_url = base_url.replace(f"{{{name}}}", value)
    if _NOT_FILLED.search(base_url):
        raise InvalidRequest(
            "The provider has no URL here: the operator sets one on the Operator's provider keys page, or with "
            "`farebox provider set`."
        )
    return base_url
