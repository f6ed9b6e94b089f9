"""What credit is left at providers, asked with the operator's key where the provider has an API that says it."""

import asyncio
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import httpx

from farebox.money import NANOS_PER_USD
from farebox.proxies import Proxies

SECONDS: Final = 10.0
BYTES_MAX: Final = 65_536


class CreditUnknown(Exception):
    """It could not be asked for; the message says why, without the key."""


def _openrouter(body: Any) -> str | float | None:
    """What is left of the key's own limit; null: it has none, and only a management key sees the account's credit."""
    left: str | float | None = body["data"]["limit_remaining"]
    return left


def _deepseek(body: Any) -> str | float | None:
    found = {each["currency"]: each["total_balance"] for each in body["balance_infos"]}
    left: str | float | None = found.get("USD")
    return left


ASKED: Final[Mapping[str, tuple[str, Callable[[Any], str | float | None]]]] = {
    "openrouter": ("/key", _openrouter),
    "deepseek": ("/user/balance", _deepseek),
}
"""Provider → the path below its base URL, and what of the answer is the credit, in US dollars:
openrouter.ai/docs/api-reference/api-keys, api-docs.deepseek.com/api/get-user-balance. Others have no such API for the
keys that call models."""


async def remaining(slug: str, base_url: str, key: str, proxies: Proxies | None) -> int | None:
    """Nano-dollars that are left; None: the provider does not say it. Takes SECONDS at most. Raises CreditUnknown."""
    if slug not in ASKED:
        return None
    path, read = ASKED[slug]
    url = httpx.URL(base_url + path)
    proxy = None if proxies is None else proxies.for_origin(url.scheme, url.host, url.port or 443)
    try:
        async with (
            asyncio.timeout(SECONDS),
            httpx.AsyncClient(timeout=SECONDS, proxy=proxy, trust_env=False) as client,
            client.stream("GET", url, headers={"authorization": f"Bearer {key}"}) as response,
        ):
            body = bytearray()
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > BYTES_MAX:
                    raise CreditUnknown("the answer is too long")
            if response.status_code != httpx.codes.OK:
                raise CreditUnknown(f"the provider answered with status {response.status_code}")
        left = read(httpx.Response(200, content=bytes(body)).json())
        return None if left is None else int(Decimal(str(left)) * NANOS_PER_USD)
    except (httpx.HTTPError, TimeoutError) as error:
        raise CreditUnknown(f"the provider could not be asked: {type(error).__name__}") from error
    except (ValueError, KeyError, TypeError, AttributeError, InvalidOperation, OverflowError) as error:
        raise CreditUnknown("the answer is not as the provider describes it") from error
