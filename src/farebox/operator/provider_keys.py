"""Checks the operator's provider keys as they are entered."""

from farebox.providers.credential import InvalidKey


def key_problem(slug: str, text: str) -> str:
    """What is wrong with an operator's key for the provider with this slug; empty if nothing is. Quotes nothing of the
    key."""
    from farebox.providers.catalogue import provider_of  # here: only these commands need all the formats

    provider = provider_of(slug)
    assert provider is not None, "it was found by its name"
    try:
        keys = provider.keys(text)
    except InvalidKey as error:
        return str(error)
    missing = [name for name in provider.bound if any(name not in key.places for key in keys)]
    if not missing:
        return ""
    return (
        f"the key for {provider.name} has to say which {missing[0]} it is for, as it is sent nowhere else: "
        "docs/providers.md has how it is written"
    )
