"""The HTTP transport of the official SDK: httpx, through the configured proxy only.

The SDK's own httpx client reads the proxy from the environment, which httpx interprets differently from us (an
ALL_PROXY with an unsupported scheme raises ImportError), and it passes its proxy argument on under a name that httpx
0.28 no longer accepts.
"""

import ssl
from collections.abc import Mapping
from typing import Any

import httpx
import stripe

TIMEOUT_SECONDS = 30.0
"""Seconds, for connecting and for each wait for bytes."""


class StripeHttpClient(stripe.HTTPClient):
    """An HTTP client for stripe.StripeClient; asynchronous methods only."""

    name = "httpx"

    def __init__(self, proxy: str | None = None) -> None:
        super().__init__()
        authorities = ssl.create_default_context(cafile=stripe.ca_bundle_path)
        self._client = httpx.AsyncClient(verify=authorities, trust_env=False, proxy=proxy, timeout=TIMEOUT_SECONDS)

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """Raises stripe.APIConnectionError if there was no response."""
        try:
            response = await self._client.request(method, url, headers=headers, content=post_data or b"")
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise stripe.APIConnectionError(f"no answer ({type(error).__name__})") from error  # type: ignore[no-untyped-call]
        return response.content, response.status_code, response.headers

    async def close_async(self) -> None:
        await self._client.aclose()
