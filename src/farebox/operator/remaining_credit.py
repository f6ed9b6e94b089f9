"""What credit is left at providers, asked with the operator's key where the provider has an API that says it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NamedTuple, TypeAlias

import httpx

from farebox.providers.catalogue import provider_of
from farebox.proxies import Proxies

SECONDS: Final = 10.0
BYTES_MAX: Final = 65_536
_PROJECTS_MAX: Final = 5
_FAL: Final = "https://api.fal.ai"


class Left(NamedTuple):
    """What is left, in US dollars (`USD`) or another unit."""

    amount: Decimal
    unit: str


class CreditUnknown(Exception):
    """It could not be asked for; the message says why, without the key."""


_Get: TypeAlias = Callable[[str], Awaitable[Any]]
"""What the provider answers at a path below its base URL. Raises CreditUnknown, httpx.HTTPError, TimeoutError."""


async def _openrouter(get: _Get, _: str) -> Left | None:
    """What is left of the key's own limit; null: it has none, and only a management key sees the account's credit.
    openrouter.ai/docs/api-reference/api-keys"""
    return _dollars((await get("/key"))["data"]["limit_remaining"])


async def _deepseek(get: _Get, _: str) -> Left | None:
    """api-docs.deepseek.com/api/get-user-balance"""
    found = {each["currency"]: each["total_balance"] for each in (await get("/user/balance"))["balance_infos"]}
    return _dollars(found.get("USD"))


async def _moonshot(get: _Get, base_url: str) -> Left | None:
    """In US dollars at api.moonshot.ai, in yuan at api.moonshot.cn: platform.kimi.ai/docs/api/balance,
    platform.moonshot.cn/docs/api/balance"""
    host = httpx.URL(base_url).host
    left = (await get("/users/me/balance"))["data"]["available_balance"]
    return Left(Decimal(str(left)), "CNY" if host.endswith(".cn") else "USD")


async def _vercel(get: _Get, _: str) -> Left | None:
    """vercel.com/docs/ai-gateway/sdks-and-apis/rest-api, "Check credit balance" """
    return _dollars((await get("/credits"))["balance"])


async def _elevenlabs(get: _Get, _: str) -> Left | None:
    """What the plan has left until it begins anew: elevenlabs.io/docs/api-reference/user/subscription/get"""
    found = await get("/v1/user/subscription")
    return Left(Decimal(found["character_limit"]) - Decimal(found["character_count"]), "characters")


async def _deepgram(get: _Get, _: str) -> Left | None:
    """The balances of the projects that the key sees: developers.deepgram.com/reference/manage/billing/list"""
    left = []
    for project in (await get("/v1/projects"))["projects"][:_PROJECTS_MAX]:
        balances = (await get(f"/v1/projects/{project['project_id']}/balances"))["balances"]
        left += [Decimal(str(each["amount"])) for each in balances if str(each["units"]).upper() == "USD"]
    return Left(sum(left, Decimal(0)), "USD") if left else None


async def _fal(get: _Get, base_url: str) -> Left | None:
    """Only for a key that may see billing; on a host of its own: fal.ai/docs/platform-apis/v1/account/billing"""
    host = _FAL if "{" in base_url else ""
    found = (await get(f"{host}/v1/account/billing?expand=credits"))["credits"]
    return Left(Decimal(str(found["current_balance"])), str(found["currency"])[:8])


ASKED: Final[Mapping[str, Callable[[_Get, str], Awaitable[Left | None]]]] = {
    "openrouter": _openrouter,
    "deepseek": _deepseek,
    "moonshot": _moonshot,
    "vercel-ai-gateway": _vercel,
    "elevenlabs": _elevenlabs,
    "deepgram": _deepgram,
    "fal": _fal,
}
"""The providers that document an API that says it. The others have none, or none for the keys that call models."""


def _dollars(left: Any) -> Left | None:
    return None if left is None else Left(Decimal(str(left)), "USD")


async def remaining(slug: str, base_url: str, key: str, proxies: Proxies | None) -> Left | None:
    """What is left; None: the provider does not say it. Takes SECONDS at most. Raises CreditUnknown."""
    if slug not in ASKED:
        return None

    async def get(path: str) -> Any:
        url = httpx.URL(path if path.startswith("https://") else base_url + path)
        return await _json(url, slug, key, proxies)

    try:
        async with asyncio.timeout(SECONDS):
            return await ASKED[slug](get, base_url)
    except (httpx.HTTPError, TimeoutError) as error:
        raise CreditUnknown(f"the provider could not be asked: {type(error).__name__}") from error
    except (ValueError, KeyError, TypeError, AttributeError, InvalidOperation, OverflowError) as error:
        raise CreditUnknown("the answer is not as the provider describes it") from error


async def _json(url: httpx.URL, slug: str, key: str, proxies: Proxies | None) -> Any:
    provider = provider_of(slug)
    assert provider is not None, "those that are asked are in the catalogue"
    in_scheme = provider.key_header == "authorization"
    headers = {provider.key_header: f"{provider.scheme} {key}" if in_scheme else key}
    proxy = None if proxies is None else proxies.for_origin(url.scheme, url.host, url.port or 443)
    async with (
        httpx.AsyncClient(timeout=SECONDS, proxy=proxy, trust_env=False) as client,
        client.stream("GET", url, headers=headers) as response,
    ):
        body = bytearray()
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > BYTES_MAX:
                raise CreditUnknown("the answer is too long")
        if response.status_code != httpx.codes.OK:
            raise CreditUnknown(f"the provider answered with status {response.status_code}")
    return httpx.Response(200, content=bytes(body)).json()
