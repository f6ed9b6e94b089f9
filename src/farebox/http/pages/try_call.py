"""A test call from the pages: a model and a question; the call's page shows the answer and the receipt.

It goes through the data plane like any other call, in this process, with an access token that the account has for this
purpose: it is listed among the tokens, and can be revoked like them.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import msgspec

from farebox.calendar import DAY_MS
from farebox.calls import logs
from farebox.calls.quotes import quote
from farebox.errors import ACCOUNT_FROZEN, NOT_FOUND, VALIDATION_FAILED, Problem
from farebox.gateway import DEFAULT_GATEWAY, gateway_path
from farebox.http.envelope import Response
from farebox.http.exchange import HeaderList
from farebox.http.inner_exchange import InnerExchange
from farebox.http.pages import labels
from farebox.http.pages.sdk_snippets import example_model
from farebox.http.pages.table import Fields, Shown, shell
from farebox.http.pages.visit import Visit, see_other
from farebox.http.quotas import TEST_CALLS, spend
from farebox.model import AccessToken, Permission
from farebox.providers.formats.base import InvalidRequest
from farebox.providers.naming import is_custom
from farebox.providers.reading import CommonBody, ParsedBody, Place, read_common
from farebox.storage.accounts import add_token, find_token
from farebox.storage.call_reports import usage_by_model
from farebox.storage.gateways import list_gateways
from farebox.storage.sql import Connection
from farebox.vault import TOKEN_PREFIX

NAME = "Test calls on the pages"
_TEXT_MAX = 8_000
_FIRST = ("input_tokens", "output_tokens")
_RECENT_MS = 30 * DAY_MS


async def form(visit: Visit) -> Shown:
    """The form, with the models of the last days to choose from."""
    return await _form(visit, {})


async def _form(visit: Visit, given: Fields, priced: "PriceQuote | None" = None) -> Shown:
    services, account_id, now = visit.services, visit.account_id, visit.services.clock.now_ms()
    used = await services.database.scan(
        partial(usage_by_model, account_id=account_id, start=now - _RECENT_MS, end=now + 1)
    )
    gateways = await services.database.scan(partial(list_gateways, account_id=account_id))
    names = [f"{each.provider}/{each.model}" for each in used if each.provider != "unrecorded"]
    if services.configuration.demo and "demo/demo-1" not in names:
        names.insert(0, "demo/demo-1")
    return {
        "title": "Make a call",
        "models": names,
        "gateways": {name: name for name in [gateway.gateway_id for gateway in gateways] or [DEFAULT_GATEWAY]},
        "model": given.get("model", names[0] if names else example_model(demo=False)),
        "gateway": given.get("gateway", DEFAULT_GATEWAY),
        "text": given.get("text", "Hello!"),
        "priced": priced,
    }


@dataclass(frozen=True, slots=True)
class PriceQuote:
    """What a call would cost, in words. Amounts in US dollars, as text."""

    text: str
    rates: list[tuple[str, str]]
    """Rates per million units of a meter."""


async def price(visit: Visit, form: Fields) -> Response:
    """What the call would cost; nothing is called."""
    text, model, gateway_id = _asked(form)
    await _check_gateway(visit, gateway_id)
    spend(visit.services, TEST_CALLS, visit.account_id)
    own = await visit.services.configuration.own_providers(visit.account_id, gateway_id)
    place = Place("", "POST", "chat/completions", "application/json")
    try:
        found = read_common(_body(model, text), place, visit.services.refusals, False, "", own.with_alias(""))
    except InvalidRequest as error:
        raise Problem(VALIDATION_FAILED, str(error), path=("body", "model")) from error
    known = visit.services.configuration.provider(found.slug) is not None or found.slug in own.custom
    if not known and not found.route:
        raise Problem(VALIDATION_FAILED, f"This provider does not exist: {found.slug[:64]}", path=("body", "model"))
    priced = _priced(visit, found, own.with_alias(""))
    return shell(visit, "try_call.html", await _form(visit, form, priced), "/ui/calls")


def _priced(visit: Visit, found: CommonBody, own: frozenset[str]) -> PriceQuote:
    if found.route:
        return PriceQuote("The cost depends on the model that the route chooses.", [])
    if found.slug in own or is_custom(found.slug):
        return PriceQuote(
            "The call is made with your own key: the provider bills you for it, and it uses no credit.", []
        )
    if not isinstance(found.read, ParsedBody) or found.read.parsed is None:
        return PriceQuote("This provider cannot be called in this format.", [])
    quoted = quote(visit.services, visit.account_id, found.slug, found.read.parsed.demand)
    if quoted is None:
        return PriceQuote("This model has no price, so calls to it cannot be paid from credit.", [])
    most = quoted.most
    text = (
        f"It costs at most {labels.exact_usd(most.amount)} USD, for {most.input_tokens:,} input tokens and up to "
        f"{most.output_tokens:,} output tokens (fewer if there is less credit). This amount is held before the call; "
        "whatever is not used is released after it."
    )
    factor = Fraction(quoted.markup.parts_per_million, quoted.price.denominator)
    rates = [
        (labels.meter(rate.meter), labels.exact_usd(round(rate.base * factor)))
        for rate in sorted(quoted.price.rates, key=lambda rate: (rate.meter not in _FIRST, rate.meter))
        if rate.meter.endswith("_tokens")
    ]
    return PriceQuote(text, rates)


def _asked(form: Fields) -> tuple[str, str, str]:
    """The question, the model and the gateway. Raises Problem."""
    text, model = form.get("text", "").strip()[:_TEXT_MAX], form.get("model", "").strip()
    if "/" not in model:
        raise Problem(VALIDATION_FAILED, "Enter a model as provider/model", path=("body", "model"))
    if not text:
        raise Problem(VALIDATION_FAILED, "Enter a question", path=("body", "text"))
    return text, model, form.get("gateway", DEFAULT_GATEWAY)


async def _check_gateway(visit: Visit, gateway_id: str) -> None:
    if not await logs.exists(visit.services, visit.account_id, gateway_id):
        raise Problem(NOT_FOUND, "This gateway does not exist")


def _body(model: str, text: str) -> bytes:
    return msgspec.json.encode({"model": model, "messages": [{"role": "user", "content": text}]})


async def send(visit: Visit, form: Fields) -> Response:
    """Make the call, and redirect to its page."""
    text, model, gateway_id = _asked(form)
    await _check_gateway(visit, gateway_id)
    if visit.session.frozen:
        raise Problem(ACCOUNT_FROZEN, "The account is frozen")
    spend(visit.services, TEST_CALLS, visit.account_id)
    secret = await _token(visit)
    path = f"{gateway_path(visit.account_id, gateway_id)}/compat/chat/completions"
    exchange = _PageCall(path, secret, _body(model, text), visit.request.client)
    serve = visit.request.data_plane
    assert serve is not None
    await asyncio.create_task(_served(serve, exchange))  # its own task: the watch of a call may cancel it
    log_id = exchange.sent.get("cf-aig-log-id")
    if log_id is None:
        raise Problem(VALIDATION_FAILED, _error_text(exchange.received))
    return see_other(f"/ui/calls/{log_id}")


async def _served(serve: Callable[["_PageCall"], Awaitable[None] | None], exchange: "_PageCall") -> None:
    try:
        left = serve(exchange)
        if left is not None:
            await left
    finally:
        if exchange.lease is not None:
            exchange.lease.close()


async def _token(visit: Visit) -> str:
    """The secret of the account's token for this: derived, so that it is stored nowhere. Raises Problem if it was
    revoked."""
    services, now, account_id = visit.services, visit.services.clock.now_ms(), visit.account_id
    secret = TOKEN_PREFIX + services.vault.sign("test calls", account_id)
    hashed = services.vault.hash_token(secret)
    made = AccessToken(services.ids.account_id(), account_id, NAME, frozenset((Permission.RUN,)), now, None, None)

    def job(connection: Connection) -> bool:
        found = find_token(connection, hashed)
        if found is None:
            add_token(connection, made, hashed)
        return found is None or found.active(now)

    known = await services.database.get(partial(find_token, token_hash=hashed))
    if known is None and await services.database.write(job):
        await services.configuration.notice_own_change()
    elif known is None or not known.active(now):
        raise Problem(VALIDATION_FAILED, f"The token “{NAME}” has been revoked. Make the call from a program instead")
    return secret


def _error_text(answer: bytes) -> str:
    """The message of an error's body."""
    try:
        found = msgspec.json.decode(answer)
        return str(found["error"]["message"])[:500]
    except (msgspec.DecodeError, KeyError, TypeError):
        return "The call was not made. Try again"


class _PageCall(InnerExchange):
    """A call that the page makes; only the head of its response is read, or the body of an error."""

    def __init__(self, path: str, token: str, body: bytes, client: str) -> None:
        headers = {
            "authorization": f"Bearer {token}",
            "content-type": "application/json",
            "content-length": str(len(body)),
            "user-agent": "farebox pages",
        }
        super().__init__(path, headers, body, client, encrypted=True)
        self.status = 0
        self.sent: dict[str, str] = {}
        """The headers of the response."""
        self.received = b""
        """The body of a response that was sent as a whole."""

    def respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        if self.status:
            raise RuntimeError("the exchange already has a response")
        self.status, self.received = status, body
        self.sent = {name.lower(): value for name, value in headers}

    def start(self, status: int, headers: HeaderList) -> "_PageCall":
        self.respond(status, headers, b"")
        return self

    async def send(self, chunk: bytes) -> None:
        """Does nothing: the page of the call shows what is stored."""

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Does nothing: if the page's reader leaves, the call is completed anyway."""
