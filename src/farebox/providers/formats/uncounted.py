"""Fields of requests in OpenAI's form by which a provider uses another model, or a tool, at a price that no usage
object reports."""

from typing import Any

import msgspec


class UncountedFields(msgspec.Struct, kw_only=True):
    """These fields; the structs that inherit from this have a request's other fields."""

    models: Any = None
    plugins: Any = None
    search_parameters: Any = None
    web_search_options: Any = None
    data_sources: Any = None
    enable_search: Any = None
    """Alibaba's, like the next."""
    enable_code_interpreter: Any = None
    providerOptions: Any = None
    """Vercel's: other models, providers, service tiers."""


def unmetered(head: UncountedFields, *, searches: bool = False) -> str | None:
    """Why such a request cannot be paid from credit; None if it can. `searches`: searches are counted."""
    if head.models is head.plugins is head.search_parameters is head.web_search_options is None and (
        head.data_sources is head.enable_search is head.enable_code_interpreter is head.providerOptions is None
    ):
        return None  # the common case
    for name in UncountedFields.__struct_fields__:
        if getattr(head, name) not in (None, [], False) and not (searches and name == "web_search_options"):
            return f"what `{name}` costs is not in the response"
    return None
