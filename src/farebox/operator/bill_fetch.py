"""Fetches a bill from the provider's reporting API, with an administrator's key.

That key is not the one for calls: OpenAI's admin key, Anthropic's `sk-ant-admin…`, OpenRouter's management
key. It is used once and stored nowhere.
"""

from collections.abc import Callable, Iterator, Mapping

import httpx

from farebox.calendar import DAY_MS, day_text
from farebox.operator.bill_formats import BillLine, BillUnreadable, read_bill
from farebox.proxies import Proxies

BASE_URLS: Mapping[str, str] = {
    "openai": "https://api.openai.com",
    "anthropic": "https://api.anthropic.com",
    "openrouter": "https://openrouter.ai",
}
PAGES_MAX = 200
PAGE_BYTES_MAX = 16 * 1024 * 1024
DAYS_MAX = 180
SECONDS = 60.0

Parameters = list[tuple[str, str | int | float | bool | None]]


class FetchFailed(RuntimeError):
    """The provider could not be reached, or refused; the message says why."""


def fetch_bill(
    provider: str, start: int, end: int, key: str, *, base_url: str | None = None, proxies: Proxies | None = None
) -> list[BillLine]:
    """What the provider bills for the days in [start, end), milliseconds. Raises FetchFailed, BillUnreadable."""
    start -= start % DAY_MS
    end += -end % DAY_MS
    if not 0 < end - start <= DAYS_MAX * DAY_MS:
        raise FetchFailed(f"at most {DAYS_MAX} days can be fetched at once")
    origin = httpx.URL(base_url or BASE_URLS[provider])
    port = origin.port or (443 if origin.scheme == "https" else 80)
    proxy = None if proxies is None else proxies.for_origin(origin.scheme, origin.host, port)
    with httpx.Client(base_url=origin, timeout=SECONDS, proxy=proxy, trust_env=False) as client:
        lines = [
            line for path, headers, parameters in _REQUESTS[provider](start, end, key)
            for page in _pages(client, path, headers, parameters) for line in read_bill(provider, page)
        ]  # fmt: skip
    return [line for line in lines if start <= line.day < end]


def _pages(client: httpx.Client, path: str, headers: dict[str, str], parameters: Parameters) -> Iterator[bytes]:
    """Each page of a report, until there is no further one."""
    cursor: Parameters = []
    for _ in range(PAGES_MAX):
        body = _get(client, path, headers, parameters + cursor)
        yield body
        try:
            page = httpx.Response(200, content=body).json()
        except ValueError as error:
            raise BillUnreadable(f"{path} did not answer with JSON") from error
        if not (isinstance(page, dict) and page.get("has_more") and page.get("next_page")):
            return
        cursor = [("page", str(page["next_page"]))]
    raise FetchFailed(f"{path} has more than {PAGES_MAX} pages: fetch fewer days at once")


def _get(client: httpx.Client, path: str, headers: dict[str, str], parameters: Parameters) -> bytes:
    body = bytearray()
    try:
        with client.stream("GET", path, headers=headers, params=httpx.QueryParams(parameters)) as response:
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > PAGE_BYTES_MAX:
                    raise FetchFailed(f"{path} answers with more than {PAGE_BYTES_MAX} bytes")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise FetchFailed(f"{client.base_url.host} cannot be queried: {error}") from error
    if response.status_code != 200:
        text = " ".join(bytes(body[:300]).decode("utf-8", "replace").split())
        raise FetchFailed(f"{client.base_url.host}{path} answered {response.status_code}: {text}")
    return bytes(body)


_Request = tuple[str, dict[str, str], Parameters]


def _openai(start: int, end: int, key: str) -> Iterator[_Request]:
    headers = {"authorization": f"Bearer {key}"}
    span = [("start_time", str(start // 1000)), ("end_time", str(end // 1000)), ("bucket_width", "1d")]
    yield "/v1/organization/costs", headers, [*span, ("limit", "180"), ("group_by[]", "line_item")]
    for kind in ("completions", "embeddings"):
        yield f"/v1/organization/usage/{kind}", headers, [*span, ("limit", "31"), ("group_by[]", "model")]


def _anthropic(start: int, end: int, key: str) -> Iterator[_Request]:
    headers = {"x-api-key": key, "anthropic-version": "2023-06-01"}
    span = [("starting_at", f"{day_text(start)}T00:00:00Z"), ("ending_at", f"{day_text(end)}T00:00:00Z")]
    daily = [*span, ("bucket_width", "1d"), ("limit", "31")]
    yield "/v1/organizations/cost_report", headers, [*daily, ("group_by[]", "description")]
    yield "/v1/organizations/usage_report/messages", headers, [*daily, ("group_by[]", "model")]


def _openrouter(start: int, end: int, key: str) -> Iterator[_Request]:
    headers = {"authorization": f"Bearer {key}"}
    for day in range(start, end, DAY_MS):
        yield "/api/v1/activity", headers, [("date", day_text(day))]


_REQUESTS: Mapping[str, Callable[[int, int, str], Iterator[_Request]]] = {
    "openai": _openai,
    "anthropic": _anthropic,
    "openrouter": _openrouter,
}
__all__ = ["BASE_URLS", "FetchFailed", "fetch_bill"]
