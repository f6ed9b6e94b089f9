"""IBM Cloud: its API keys, with which tokens are requested."""

from farebox.providers.credential import Credential, IbmKey, word_of


def keys_of(text: str) -> tuple[Credential, ...]:
    """An API key. Raises InvalidKey."""
    (found,) = word_of(text)
    return (Credential("", secrets=found.secrets, signer=IbmKey(found.word)),)
