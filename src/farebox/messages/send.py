"""One attempt to deliver a webhook: POST to a checked address, no redirects, little time, little read."""

import asyncio
import re
import ssl
from dataclasses import dataclass
from functools import cache

import httpx
import structlog

from farebox.messages.addresses import Address, AddressRefused, Resolver, checked_addresses, resolve

TIMEOUT_SECONDS = 10.0
"""For all of it, the look-up of the name included."""
URL_MAX = 2048
UNREACHABLE = (
    "the host cannot be reached: its name must resolve only to public addresses, and one of them must accept a "
    "connection, with a valid certificate"
)
"""All that the owner of an endpoint is told: whether a name is unknown, leads inside, or nobody listens there, would be
a map of the operator's network. The log has which of them it was."""
_USER_AGENT = "Farebox-Webhooks/1"
_GONE = 410
_PRINTABLE = re.compile(r"[!-~]+")

log = structlog.get_logger("farebox.messages")


@dataclass(frozen=True, slots=True)
class Sent:
    """What came of one attempt. `error` is empty where the receiver took it (2xx)."""

    error: str = ""
    status: int | None = None
    for_good: bool = False
    """Whether another attempt is useless: the receiver says that it is gone."""

    @property
    def ok(self) -> bool:
        return not self.error


def check_url(text: str, *, private: bool) -> httpx.URL:
    """The URL, if messages may be sent there as far as its text tells. Raises AddressRefused."""
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
) -> Sent:
    """POST the body to the URL. Never raises for what the other side does."""
    try:
        url = check_url(text, private=private)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            port = url.port or (443 if url.scheme == "https" else 80)
            addresses = await checked_addresses(_host(url), port, private=private, resolver=resolver)
            return await _post_to(addresses, url, headers, body, tls or _tls())
    except TimeoutError:
        return Sent(f"no response within {TIMEOUT_SECONDS:.0f} seconds")
    except (AddressRefused, OSError, httpx.ConnectError) as error:
        log.warning("webhook unreachable", url=text, why=str(error) or type(error).__name__)
        return Sent(UNREACHABLE)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Sent(f"no answer: {type(error).__name__}")


async def _post_to(
    addresses: list[Address], url: httpx.URL, headers: dict[str, str], body: bytes, tls: ssl.SSLContext
) -> Sent:
    """To the first of the checked addresses that takes a connection. The certificate is checked for the URL's host."""
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
            await response.aclose()  # its body is not read: nobody would look at it
            return _judged(response.status_code)
    raise AssertionError("there was at least one address")


def _host(url: httpx.URL) -> str:
    return url.raw_host.decode("ascii")


def _judged(status: int) -> Sent:
    if 200 <= status < 300:
        return Sent(status=status)
    return Sent(f"answered {status}", status, for_good=status == _GONE)


@cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()
