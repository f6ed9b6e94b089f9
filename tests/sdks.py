"""The official SDKs, loaded when a test first uses one.

They take seconds of processor time to load, and every test process imports every test module: only the processes that
run a test of theirs pay for that. A module that names their classes in annotations has `from __future__ import
annotations`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import anthropic
    import boto3
    import botocore
    import cloudflare
    import mistralai.client as mistralai
    import openai
    from google import genai
else:

    class _Later:
        """A module that is imported at the first look into it."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):  # pytest asks whatever a module has whether it is a fixture, or a mock
                raise AttributeError(name)
            return getattr(importlib.import_module(self._name), name)

    anthropic = _Later("anthropic")
    boto3 = _Later("boto3")
    botocore = _Later("botocore")
    cloudflare = _Later("cloudflare")
    mistralai = _Later("mistralai.client")
    openai = _Later("openai")
    genai = _Later("google.genai")

__all__ = ["anthropic", "boto3", "botocore", "cloudflare", "genai", "mistralai", "openai"]
