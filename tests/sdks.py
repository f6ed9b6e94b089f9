"""The official SDKs, loaded when a test first uses one.

They take seconds of processor time to load, and every test process imports every test module. Loading them lazily
means that only processes that run a test with an SDK pay for that. A module that names their classes in annotations has
`from __future__ import annotations`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import anthropic
    import boto3
    import botocore
    import cartesia
    import cloudflare
    import deepgram
    import elevenlabs
    import fal_client
    import mistralai.client as mistralai
    import openai
    import replicate
    from google import genai
else:

    class _Later:
        """A module that is imported on first attribute access."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):  # pytest inspects every name in a module for fixtures and mocks
                raise AttributeError(name)
            return getattr(importlib.import_module(self._name), name)

    anthropic = _Later("anthropic")
    boto3 = _Later("boto3")
    botocore = _Later("botocore")
    cartesia = _Later("cartesia")
    cloudflare = _Later("cloudflare")
    deepgram = _Later("deepgram")
    elevenlabs = _Later("elevenlabs")
    fal_client = _Later("fal_client")
    mistralai = _Later("mistralai.client")
    openai = _Later("openai")
    genai = _Later("google.genai")
    replicate = _Later("replicate")

__all__ = [
    "anthropic",
    "boto3",
    "botocore",
    "cartesia",
    "cloudflare",
    "deepgram",
    "elevenlabs",
    "fal_client",
    "genai",
    "mistralai",
    "openai",
    "replicate",
]
