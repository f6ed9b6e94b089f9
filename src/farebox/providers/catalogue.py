"""All known providers, and where a request goes at each.

A new provider is a row in farebox.providers.definitions. Paths are compared in their canonical form, the one that
follows the provider's base URL; `moves` convert the other spellings that SDKs send. A path that no route matches
exactly is UNMETERED, so a path that Farebox does not understand can never be called with the operator's key.
"""

from typing import Final

from farebox.providers.definitions.by_unit import BY_UNIT
from farebox.providers.definitions.clouds import CLOUDS
from farebox.providers.definitions.openai_compatible import OPENAI_COMPATIBLE
from farebox.providers.definitions.vendors import DEMO, VENDORS
from farebox.providers.objects import object_call
from farebox.providers.provider import FREE, UNMETERED, Metering, Provider

PROVIDERS: Final[tuple[Provider, ...]] = (*VENDORS, *CLOUDS, *OPENAI_COMPATIBLE, *BY_UNIT, DEMO)

_BY_SLUG: Final = {provider.slug: provider for provider in PROVIDERS}
_BY_NAME: Final = _BY_SLUG | {alias: provider for provider in PROVIDERS for alias in provider.aliases}

SLUG_OF_ALIAS: Final = {alias: provider.slug for provider in PROVIDERS for alias in provider.aliases}


def provider_of(slug: str) -> Provider | None:
    """The provider of a URL's slug, or of an alias such as `xai`; None if there is none."""
    return _BY_NAME.get(slug)


def upstream_path(provider: Provider, path: str) -> str:
    """The canonical path for any spelling that a client sends. It is appended to the base URL and a slash.

    A path that no move knows stays as it is. Query strings are not part of it.
    """
    path = path.lstrip("/")
    for pattern, replacement in provider.moves:
        if pattern.search(path):
            return pattern.sub(replacement, path, count=1)
    return path


def format_of(provider: Provider, method: str, path: str) -> Metering:
    """How a call is metered. `path` is the canonical one, as it is sent: see `upstream_path`."""
    if ".." in path:  # an HTTP client would resolve it to a path that no route has checked
        return UNMETERED
    if method == "HEAD":  # like GET without the body: if GET is free, HEAD is too
        method = "GET"
    for verb, pattern, metering in provider.routes:
        if verb == method and pattern.fullmatch(path):
            return metering
    return FREE if object_call(provider.objects, method, path) else UNMETERED


def key_header(provider: Provider, path: str, key: str) -> tuple[str, str]:
    """Name and value of the header that carries a provider key; `path` is the canonical one."""
    compatible = provider.bearer_paths is not None and provider.bearer_paths.fullmatch(path) is not None
    if provider.key_header == "authorization" or compatible:
        return "authorization", f"{provider.scheme} {key}"
    return provider.key_header, key
