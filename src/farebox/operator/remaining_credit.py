"""The credit left at providers, queried with the operator's key at providers that have an API for it."""

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal, DecimalException
from typing import Any, Final, NamedTuple, TypeAlias

import httpx

from farebox.providers.catalogue import provider_of
from farebox.proxies import Proxies

SECONDS: Final = 10.0
"""Timeout for one key."""
ROUND_SECONDS: Final = 30.0
"""Timeout for all keys."""
AT_ONCE: Final = 8
"""Keys that are queried at the same time."""
BYTES_MAX: Final = 65_536
_DIGITS_MAX: Final = 16
"""Most digits of an amount before the decimal point."""
_PROJECTS_MAX: Final = 5
_is_project: Final = re.compile(r"[\w-]{1,64}", re.ASCII).fullmatch
_FAL: Final = "https://api.fal.ai"
_STRANGE: Final = "the response does not have the form that the provider documents"


class RemainingCredit(NamedTuple):
    """The credit left, in US dollars (`USD`) or another unit."""

    amount: Decimal
    unit: str


class CreditQuery(NamedTuple):
    """A key at a provider, by the provider's slug."""

    slug: str
    base_url: str
    key: str


class CreditUnknown(Exception):
    """The credit could not be queried; the message says why, without the key."""


_Get: TypeAlias = Callable[[str], Awaitable[Any]]
"""The provider's response at a path below its base URL. Raises CreditUnknown, httpx.HTTPError, httpx.InvalidURL."""


async def _openrouter(get: _Get, _: str) -> RemainingCredit | None:
    """What is left of the key's own limit; null: the key has none, and only a management key sees the account's credit.
    openrouter.ai/docs/api-reference/api-keys"""
    return _dollars((await get("/key"))["data"]["limit_remaining"])


async def _deepseek(get: _Get, _: str) -> RemainingCredit | None:
    """api-docs.deepseek.com/api/get-user-balance"""
    found = {each["currency"]: each["total_balance"] for each in (await get("/user/balance"))["balance_infos"]}
    return _dollars(found.get("USD"))


async def _moonshot(get: _Get, base_url: str) -> RemainingCredit | None:
    """In US dollars at api.moonshot.ai, in yuan at api.moonshot.cn: platform.kimi.ai/docs/api/balance,
    platform.moonshot.cn/docs/api/balance"""
    host = httpx.URL(base_url).host
    left = (await get("/users/me/balance"))["data"]["available_balance"]
    return RemainingCredit(Decimal(str(left)), "CNY" if host.endswith(".cn") else "USD")


async def _vercel(get: _Get, _: str) -> RemainingCredit | None:
    """vercel.com/docs/ai-gateway/sdks-and-apis/rest-api, "Check credit balance" """
    return _dollars((await get("/credits"))["balance"])


async def _elevenlabs(get: _Get, _: str) -> RemainingCredit | None:
    """What the plan has left until its next period: elevenlabs.io/docs/api-reference/user/subscription/get"""
    found = await get("/v1/user/subscription")
    return RemainingCredit(Decimal(found["character_limit"]) - Decimal(found["character_count"]), "characters")


async def _deepgram(get: _Get, _: str) -> RemainingCredit | None:
    """The balances of the projects that the key sees: developers.deepgram.com/reference/manage/billing/list"""
    left = []
    for project in (await get("/v1/projects"))["projects"][:_PROJECTS_MAX]:
        if not _is_project(project["project_id"]):
            raise CreditUnknown(_STRANGE)
        balances = (await get(f"/v1/projects/{project['project_id']}/balances"))["balances"]
        left += [Decimal(str(each["amount"])) for each in balances if str(each["units"]).upper() == "USD"]
    return RemainingCredit(sum(left, Decimal(0)), "USD") if left else None


async def _fal(get: _Get, base_url: str) -> RemainingCredit | None:
    """Only for a key that may see billing; on a host of its own: fal.ai/docs/platform-apis/v1/account/billing"""
    host = _FAL if "{" in base_url else ""
    found = (await get(f"{host}/v1/account/billing?expand=credits"))["credits"]
    return RemainingCredit(Decimal(str(found["current_balance"])), str(found["currency"])[:8])


async def _stability(get: _Get, _: str) -> RemainingCredit | None:
    """platform.stability.ai/docs/api-reference, "Balance" (v1)"""
    return RemainingCredit(Decimal(str((await get("/v1/user/balance"))["credits"])), "credits")


ASKED: Final[Mapping[str, Callable[[_Get, str], Awaitable[RemainingCredit | None]]]] = {
    "openrouter": _openrouter,
    "deepseek": _deepseek,
    "moonshot": _moonshot,
    "vercel-ai-gateway": _vercel,
    "elevenlabs": _elevenlabs,
    "deepgram": _deepgram,
    "fal": _fal,
    "stability": _stability,
}
"""The providers that are queried, each by a documented API."""


def _dollars(left: Any) -> RemainingCredit | None:
    return None if left is None else RemainingCredit(Decimal(str(left)), "USD")


async def remaining(
    keys: Sequence[CreditQuery], proxies: Proxies | None
) -> list[RemainingCredit | CreditUnknown | None]:
    """The credit left for each key; None: the provider does not report it; CreditUnknown: why it could not be queried.
    Takes at most ROUND_SECONDS."""
    tls, turns = await asyncio.to_thread(httpx.create_ssl_context), asyncio.Semaphore(AT_ONCE)

    async def ask(asked: CreditQuery) -> RemainingCredit | CreditUnknown | None:
        try:
            async with asyncio.timeout(ROUND_SECONDS), turns, asyncio.timeout(SECONDS):
                return await _remaining(asked, proxies, tls)
        except TimeoutError:
            return CreditUnknown("the provider could not be queried in time")
        except CreditUnknown as unknown:
            return unknown

    return await asyncio.gather(*(ask(asked) for asked in keys))


async def _remaining(asked: CreditQuery, proxies: Proxies | None, tls: ssl.SSLContext) -> RemainingCredit | None:
    """Query one key. Raises CreditUnknown."""
    if asked.slug not in ASKED:
        return None

    async def get(path: str) -> Any:
        url = httpx.URL(path if path.startswith("https://") else asked.base_url + path)
        return await _json(url, asked, proxies, tls)

    try:
        left = await ASKED[asked.slug](get, asked.base_url)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CreditUnknown(f"the provider could not be queried: {type(error).__name__}") from error
    except (ValueError, KeyError, TypeError, AttributeError, DecimalException, OverflowError, RecursionError) as error:
        raise CreditUnknown(_STRANGE) from error
    if left is not None and not (left.amount.is_finite() and left.amount.adjusted() < _DIGITS_MAX):
        raise CreditUnknown(_STRANGE)
    return left


async def _json(url: httpx.URL, asked: CreditQuery, proxies: Proxies | None, tls: ssl.SSLContext) -> Any:
    provider = provider_of(asked.slug)
    assert provider is not None, "those that are asked are in the catalog"
    in_scheme = provider.key_header == "authorization"
    # Without compression, so that BYTES_MAX bounds what is read.
    headers = {
        provider.key_header: f"{provider.scheme} {asked.key}" if in_scheme else asked.key,
        "accept-encoding": "identity",
    }
    proxy = None if proxies is None else proxies.for_origin(url.scheme, url.host, url.port or 443)
    async with (
        httpx.AsyncClient(timeout=SECONDS, verify=tls, proxy=proxy, trust_env=False) as client,
        client.stream("GET", url, headers=headers) as response,
    ):
        body = bytearray()
        async for piece in response.aiter_raw():
            body += piece
            if len(body) > BYTES_MAX:
                raise CreditUnknown("the answer is too long")
        if response.status_code != httpx.codes.OK:
            raise CreditUnknown(f"the provider answered with status {response.status_code}")
    return httpx.Response(200, content=bytes(body)).json()
