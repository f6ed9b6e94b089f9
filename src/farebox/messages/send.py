"""One attempt to deliver a webhook: POST to a checked address, without redirects, with a short time-out."""

import asyncio
import re
import ssl
from dataclasses import dataclass
from functools import cache

import httpx
import structlog

from farebox.addresses import Address, AddressRefused, Resolver, checked_addresses, resolve

TIMEOUT_SECONDS = 10.0
"""Seconds for the whole attempt, including name resolution."""
URL_MAX = 2048
UNREACHABLE = (
    "the host cannot be reached: its name must resolve only to public addresses, and one of them must accept a "
    "connection, with a valid certificate"
)
"""The only reason shown to an endpoint's owner: whether a name is unknown, is internal, or refuses connections would
let them map the operator's network. The log has the actual reason.
"""
_USER_AGENT = "Farebox-Webhooks/1"
_GONE = 410
_PRINTABLE = re.compile(r"[!-~]+")

log = structlog.get_logger("farebox.messages")


@dataclass(frozen=True, slots=True)
class WebhookResult:
    """The result of one attempt. `error` is empty if the receiver accepted the message (2xx)."""

    error: str = ""
    status: int | None = None
    for_good: bool = False
    """Whether a retry is useless: the receiver answered that it is gone."""

    @property
    def ok(self) -> bool:
        return not self.error


def check_url(text: str, *, private: bool) -> httpx.URL:
    """The parsed URL, if its text is acceptable for sending messages. Raises AddressRefused."""
    if len(text) > URL_MAX or not _PRINTABLE.fullmatch(text):
        raise AddressRefused(f"a URL has at most {URL_MAX} characters, all of them printable ASCII")
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise AddressRefused("this is not a URL: write it as https://example.com/webhooks") from error
    if url.scheme not in (("https", "http") if private else ("https",)) or not url.host:
        raise AddressRefused("a URL for messages begins with https:// (else set FAREBOX_WEBHOOK_PRIVATE to `allow`)")
    if url.port is not None and not 0 < url.port < 65_536:
        raise AddressRefused("a port is a number from 1 to 65535")
    if url.userinfo:
        raise AddressRefused("a URL for messages has no user name: messages are signed, verify the signature instead")
    if url.fragment:
        raise AddressRefused("a URL for messages has no fragment")
    return url


async def post(
    text: str,
    headers: dict[str, str],
    body: bytes,
    *,
    private: bool,
    resolver: Resolver = resolve,
    tls: ssl.SSLContext | None = None,
) -> WebhookResult:
    """POST the body to the URL. Failures on the receiver's side are results, not exceptions."""
    try:
        url = check_url(text, private=private)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            port = url.port or (443 if url.scheme == "https" else 80)
            addresses = await checked_addresses(_host(url), port, private=private, resolver=resolver)
            return await _post_to(addresses, url, headers, body, tls or _tls())
    except TimeoutError:
        return WebhookResult(f"no response within {TIMEOUT_SECONDS:.0f} seconds")
    except (AddressRefused, OSError, httpx.ConnectError) as error:
        log.warning("webhook unreachable", url=text, why=str(error) or type(error).__name__)
        return WebhookResult(UNREACHABLE)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return WebhookResult(f"no answer: {type(error).__name__}")


async def _post_to(
    addresses: list[Address], url: httpx.URL, headers: dict[str, str], body: bytes, tls: ssl.SSLContext
) -> WebhookResult:
    """Connects to the first of the checked addresses that accepts the connection. The certificate is verified for the
    URL's host."""
    netloc = url.netloc.decode("ascii")
    all_headers = {"content-type": "application/json", "user-agent": _USER_AGENT, **headers, "host": netloc}
    async with httpx.AsyncClient(
        verify=tls, trust_env=False, follow_redirects=False, timeout=TIMEOUT_SECONDS
    ) as client:
        for number, address in enumerate(addresses, 1):
            request = client.build_request(
                "POST",
                url.copy_with(host=str(address)),
                headers=all_headers,
                content=body,
                extensions={"sni_hostname": _host(url)},
            )
            try:
                response = await client.send(request, stream=True)
            except httpx.ConnectError:
                if number == len(addresses):
                    raise
                continue
            await response.aclose()  # the response body is not read: it is not needed
            return _result(response.status_code)
    raise AssertionError("there was at least one address")


def _host(url: httpx.URL) -> str:
    return url.raw_host.decode("ascii")


def _result(status: int) -> WebhookResult:
    if 200 <= status < 300:
        return WebhookResult(status=status)
    return WebhookResult(f"answered {status}", status, for_good=status == _GONE)


@cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()
