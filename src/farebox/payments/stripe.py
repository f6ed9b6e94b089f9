"""Stripe, through its official SDK (API 2026-10-28.endive): the only module that imports it. See payments.processor.

The SDK does not retry here: our state machines do, with the same keys. Stripe repeats its response to a key for 24
hours, failures (5xx) included; so after a failure the object itself is fetched before anything is considered lost.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
import stripe

from farebox.payments import metadata as metadata_of
from farebox.payments.model import Card
from farebox.payments.processor import (
    CUSTOMER_DELETED,
    Checkout,
    Declined,
    InvalidSignature,
    ProcessorDispute,
    ProcessorEvent,
    ProcessorInvoice,
    ProcessorLine,
    ProcessorRefund,
    ProcessorRefused,
    ProcessorUnavailable,
)
from farebox.payments.stripe_objects import (
    AUTHENTICATION_CODES,
    CURRENCY,
    PAYMENT_OF_INVOICE,
    error_in,
    for_the_owner,
    object_id,
    page,
    quoted,
    read_card,
    read_checkout,
    read_dispute,
    read_event,
    read_invoice,
    read_refund,
    split_lines,
)
from farebox.payments.stripe_wire import StripeHttpClient

stripe.enable_telemetry = False  # it would write an ID into the home folder and report request durations to Stripe

SIGNATURE_TOLERANCE_MS = 300_000
PAGE = 100
_KEY_MARK: Final = "farebox_key"
"""The metadata field with the key that an invoice was created with, by which it is found if the response was lost."""
_TRANSIENT_CODES = frozenset({"idempotency_key_in_use", "lock_timeout", "rate_limit"})

_Marked = TypeVar("_Marked", ProcessorInvoice, Checkout, ProcessorRefund)


class StripeProcessor:
    """One Stripe account, for one installation of Farebox: its ID is in every key and on every object that is created,
    and objects with another ID are ignored. `http_client` replaces our own, for tests."""

    def __init__(
        self,
        secret_key: str,
        *,
        webhook_secret: str,
        api_base: str,
        installation: str = "",
        proxy: str | None = None,
        http_client: stripe.HTTPClient | None = None,
    ) -> None:
        self._installation = installation
        self._webhook_secret = webhook_secret
        self._api_base = api_base.rstrip("/")
        self._http = http_client or StripeHttpClient(proxy)
        self._client = stripe.StripeClient(
            secret_key, http_client=self._http, base_addresses={"api": self._api_base}, max_network_retries=0
        )

    def __repr__(self) -> str:
        return f"StripeProcessor({self._api_base!r})"

    async def close(self) -> None:
        await self._http.close_async()  # type: ignore[no-untyped-call]

    def _key(self, key: str) -> str:
        return f"{self._installation}:{key}"

    def _marked(self, metadata: Mapping[str, str]) -> dict[str, str]:
        return metadata_of.marked(metadata, self._installation)

    def _ours(self, found: _Marked) -> _Marked:
        """The object, without its metadata if that is another installation's."""
        metadata = metadata_of.unless_foreign(found.metadata, self._installation)
        return found if metadata is found.metadata else msgspec.structs.replace(found, metadata=metadata)

    # --- requests -----------------------------------------------------------------------------------------------------

    async def _call(
        self, method: str, path: str, params: Mapping[str, Any] | None = None, *, key: str = "", charges: bool = False
    ) -> dict[str, Any]:
        """Send one request; returns the JSON of its response, without converting it to the SDK's objects.
        Raises ProcessorUnavailable or ProcessorRefused, and if it `charges` a card, Declined."""
        options = {"idempotency_key": key} if key else {}
        try:
            with _translated_errors():
                request: Any = self._client.raw_request_async
                response: Any = (await request(method, f"/v1/{path}", **(params or {}), **options)).data
        except Declined as declined:
            if charges:
                raise
            raise ProcessorRefused(declined.message, declined.code) from declined
        if not isinstance(response, dict) or "object" not in response:
            raise ProcessorUnavailable("Stripe returned no usable response: it is not a Stripe object")
        return dict(response)

    async def _pages(self, path: str, params: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The items of a list, newest first, page after page."""
        after: dict[str, str] | None = {}
        while after is not None:
            page = await self._call("get", path, {"limit": PAGE, **params, **after})
            for item in page["data"]:
                yield item
            after = {"starting_after": page["data"][-1]["id"]} if page["has_more"] and page["data"] else None

    # --- customers and cards ------------------------------------------------------------------------------------------

    async def create_customer(self, account_id: str, *, name: str, email: str, key: str) -> str:
        params: dict[str, Any] = {"metadata": self._marked({metadata_of.ACCOUNT: account_id})}
        params |= {field: value for field, value in (("name", name), ("email", email)) if value}
        made = await self._call("post", "customers", params, key=self._key(key))
        return str(made["id"])

    async def cards(self, customer_id: str) -> list[Card]:
        customer = await self._call("get", f"customers/{quoted(customer_id)}")
        if customer.get("deleted"):
            raise ProcessorRefused(f"the customer {customer_id} was deleted at Stripe", CUSTOMER_DELETED)
        default = object_id((customer.get("invoice_settings") or {}).get("default_payment_method"))
        methods = self._pages("payment_methods", {"customer": customer_id, "type": "card"})
        return [read_card(method, default) async for method in methods]

    async def set_default_card(self, customer_id: str, card_id: str) -> None:
        params = {"invoice_settings": {"default_payment_method": card_id}}
        await self._call("post", f"customers/{quoted(customer_id)}", params)

    async def remove_card(self, card_id: str) -> None:
        try:
            await self._call("post", f"payment_methods/{quoted(card_id)}/detach")
        except ProcessorRefused:
            if (await self._call("get", f"payment_methods/{quoted(card_id)}")).get("customer") is not None:
                raise

    # --- hosted pages -------------------------------------------------------------------------------------------------

    async def open_setup(
        self, customer_id: str, *, success_url: str, cancel_url: str, metadata: Mapping[str, str], key: str
    ) -> Checkout:
        marked = self._marked(metadata)
        params = {
            **page(customer_id, success_url, cancel_url, marked),
            "mode": "setup",
            "setup_intent_data": {"metadata": marked},
        }
        return self._ours(read_checkout(await self._call("post", "checkout/sessions", params, key=self._key(key))))

    async def open_purchase(
        self,
        customer_id: str,
        lines: Sequence[ProcessorLine],
        *,
        success_url: str,
        cancel_url: str,
        metadata: Mapping[str, str],
        key: str,
    ) -> Checkout:
        charged, notes = split_lines(lines)
        marked = self._marked(metadata)
        params = {
            **page(customer_id, success_url, cancel_url, marked),
            "mode": "payment",
            "adaptive_pricing": {"enabled": False},  # otherwise the customer could pay in another currency
            "line_items": [
                {
                    "quantity": 1,
                    "price_data": {
                        "currency": CURRENCY,
                        "unit_amount": line.amount_cents,
                        "product_data": {"name": line.description},
                    },
                }
                for line in charged
            ],
            "payment_intent_data": {"setup_future_usage": "off_session", "metadata": marked},
            "invoice_creation": {"enabled": True, "invoice_data": {"metadata": marked, **notes}},
        }
        return self._ours(read_checkout(await self._call("post", "checkout/sessions", params, key=self._key(key))))

    async def fetch_checkout(self, checkout_id: str) -> Checkout:
        params = {"expand": ["setup_intent", "payment_intent"]}
        session = await self._call("get", f"checkout/sessions/{quoted(checkout_id)}", params)
        invoice_id = object_id(session.get("invoice"))
        invoice = None if invoice_id is None else await self.fetch_invoice(invoice_id)
        return self._ours(read_checkout(session, invoice))

    async def expire_checkout(self, checkout_id: str) -> None:
        try:
            await self._call("post", f"checkout/sessions/{quoted(checkout_id)}/expire")
        except ProcessorRefused:
            if (await self._call("get", f"checkout/sessions/{quoted(checkout_id)}"))["status"] == "open":
                raise

    # --- invoices -----------------------------------------------------------------------------------------------------

    async def open_invoice(
        self, customer_id: str, lines: Sequence[ProcessorLine], *, card_id: str, metadata: Mapping[str, str], key: str
    ) -> ProcessorInvoice:
        """Three requests, each with its own key: a repeat continues where the first attempt was interrupted."""
        key = self._key(key)
        charged, notes = split_lines(lines)
        params = {
            "customer": customer_id,
            "currency": CURRENCY,
            "auto_advance": False,
            "collection_method": "charge_automatically",
            "pending_invoice_items_behavior": "exclude",
            "default_payment_method": card_id,
            "payment_settings": {"payment_method_types": ["card"]},
            "metadata": {**self._marked(metadata), _KEY_MARK: key},
            **notes,
        }
        try:
            invoice_id = (await self._call("post", "invoices", params, key=f"{key}:invoice"))["id"]
        except ProcessorUnavailable:
            invoice_id = await self._find_created(customer_id, key)
            if invoice_id is None:
                raise
        try:
            await self._fill(invoice_id, charged, key)
            return await self._finalize(invoice_id, key)
        except ProcessorRefused:
            with contextlib.suppress(ProcessorUnavailable, ProcessorRefused):  # no one would ask for it again
                await self._call("delete", f"invoices/{quoted(invoice_id)}")
            raise

    async def _find_created(self, customer_id: str, key: str) -> str | None:
        """The customer's recent invoice that was created with this key although the response was a failure."""
        params = {"customer": customer_id, "limit": PAGE}
        latest = await self._call("get", "invoices", params)
        return next((item["id"] for item in latest["data"] if (item["metadata"] or {}).get(_KEY_MARK) == key), None)

    async def _fill(self, invoice_id: str, lines: Sequence[ProcessorLine], key: str) -> None:
        """Add all lines in one request, so that the invoice has either all of them or none."""
        params = {"lines": [{"description": line.description, "amount": line.amount_cents} for line in lines]}
        try:
            await self._call("post", f"invoices/{quoted(invoice_id)}/add_lines", params, key=f"{key}:lines")
        except (ProcessorUnavailable, ProcessorRefused):
            invoice = await self._call("get", f"invoices/{quoted(invoice_id)}")
            if invoice.get("total") != sum(line.amount_cents for line in lines):
                raise

    async def _finalize(self, invoice_id: str, key: str) -> ProcessorInvoice:
        params = {"auto_advance": False, "expand": [PAYMENT_OF_INVOICE]}
        try:
            await self._call("post", f"invoices/{quoted(invoice_id)}/finalize", params, key=f"{key}:finalize")
        except (ProcessorUnavailable, ProcessorRefused):
            found = await self.fetch_invoice(invoice_id)
            if found.state == "draft":
                raise
            return found
        # The response may repeat an old one: only the current state counts.
        return await self.fetch_invoice(invoice_id)

    async def pay_invoice(self, invoice_id: str, *, card_id: str, on_session: bool, key: str) -> ProcessorInvoice:
        """If the owner has to confirm the payment, `payment_state` says so, whether on session or off."""
        params = {"payment_method": card_id, "off_session": not on_session}
        try:
            await self._call("post", f"invoices/{quoted(invoice_id)}/pay", params, key=self._key(key), charges=True)
        except Declined as declined:
            # the response may be an old one, and the owner may have paid since
            found = await self.fetch_invoice(invoice_id)
            if found.payment_state in ("succeeded", "processing", "action_required"):
                return found
            if declined.code in AUTHENTICATION_CODES and found.state == "open":
                return for_the_owner(found, declined)
            raise
        except ProcessorRefused:
            found = await self.fetch_invoice(invoice_id)
            if found.payment_state not in ("succeeded", "processing"):
                raise
            return found
        return await self.fetch_invoice(invoice_id)

    async def fetch_invoice(self, invoice_id: str) -> ProcessorInvoice:
        params = {"expand": [PAYMENT_OF_INVOICE]}
        return self._ours(read_invoice(await self._call("get", f"invoices/{quoted(invoice_id)}", params)))

    async def void_invoice(self, invoice_id: str) -> ProcessorInvoice:
        """A draft is deleted: it cannot be voided. One whose payment is in progress is returned unchanged too."""
        found = await self.fetch_invoice(invoice_id)
        try:
            if found.state == "draft":
                deleted = await self._call("delete", f"invoices/{quoted(invoice_id)}")
                return self._ours(read_invoice({**deleted, "deleted": True}))
            if found.state in ("open", "uncollectible"):
                await self._call("post", f"invoices/{quoted(invoice_id)}/void")
        except ProcessorRefused:
            found = await self.fetch_invoice(invoice_id)
            if found.state in ("draft", "open", "uncollectible") and found.payment_state != "processing":
                raise
            return found
        return found if found.state in ("paid", "void") else await self.fetch_invoice(invoice_id)

    async def invoices(self, *, since: int, customer_id: str | None = None) -> AsyncIterator[ProcessorInvoice]:
        """The payment of an open invoice of ours is fetched separately: Stripe does not include it in lists."""
        params: dict[str, Any] = {"created": {"gte": since // 1000}, "expand": ["data.payments"]}
        if customer_id is not None:
            params["customer"] = customer_id
        async for item in self._pages("invoices", params):
            found = self._ours(read_invoice(item))
            waiting = found.state == "open" and metadata_of.top_up_of(found.metadata) is not None
            yield await self.fetch_invoice(found.invoice_id) if waiting else found

    # --- refunds, disputes, events ------------------------------------------------------------------------------------

    async def refund(
        self, payment_intent_id: str, amount_cents: int, *, metadata: Mapping[str, str], key: str
    ) -> ProcessorRefund:
        params = {"payment_intent": payment_intent_id, "amount": amount_cents, "metadata": self._marked(metadata)}
        return self._ours(read_refund(await self._call("post", "refunds", params, key=self._key(key))))

    async def fetch_refund(self, refund_id: str) -> ProcessorRefund:
        return self._ours(read_refund(await self._call("get", f"refunds/{quoted(refund_id)}")))

    async def refunds(self, *, since: int, payment_intent_id: str | None = None) -> AsyncIterator[ProcessorRefund]:
        params: dict[str, Any] = {"created": {"gte": since // 1000}}
        if payment_intent_id is not None:
            params["payment_intent"] = payment_intent_id
        async for item in self._pages("refunds", params):
            yield self._ours(read_refund(item))

    async def fetch_dispute(self, dispute_id: str) -> ProcessorDispute:
        return read_dispute(await self._call("get", f"disputes/{quoted(dispute_id)}"))

    async def disputes(self, *, since: int) -> AsyncIterator[ProcessorDispute]:
        async for item in self._pages("disputes", {"created": {"gte": since // 1000}}):
            yield read_dispute(item)

    async def events(self, *, since: int, undelivered: bool = False) -> AsyncIterator[ProcessorEvent]:
        params: dict[str, Any] = {"created": {"gte": since // 1000}}
        if undelivered:
            params["delivery_success"] = False
        async for item in self._pages("events", params):
            yield read_event(item, json.dumps(item, separators=(",", ":"), default=str).encode())

    def read_event(self, body: bytes, signature: str, *, at: int) -> ProcessorEvent:
        """The signature is checked by the SDK, its time against `at`."""
        if not signature.isascii():  # the SDK's comparison raises a TypeError
            raise InvalidSignature("the webhook has no valid signature")
        try:
            text = body.decode()
            stripe.WebhookSignature.verify_header(text, signature, self._webhook_secret)
            signed_at = int(dict(part.split("=", 1) for part in reversed(signature.split(",")))["t"]) * 1000
            event = json.loads(text)
        except (stripe.SignatureVerificationError, ValueError) as error:
            raise InvalidSignature("the webhook is not signed with the endpoint's secret") from error
        if abs(at - signed_at) > SIGNATURE_TOLERANCE_MS:
            raise InvalidSignature("the webhook was signed too long ago, or the clock is wrong")
        return read_event(event, body)


# --- requests ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _translated_errors() -> Iterator[None]:
    """Translates the SDK's errors into ours. After an unknown error, the request may have taken effect."""
    try:
        yield
    except stripe.CardError as error:
        details = error_in(error.json_body)
        code = details.get("decline_code") or error.code or "card_declined"
        raise Declined(code, error.user_message or "", advice=details.get("advice_code")) from error
    except (stripe.InvalidRequestError, stripe.IdempotencyError) as error:
        code = str(error_in(error.json_body).get("code") or "")
        if code in _TRANSIENT_CODES or error.http_status == 409:
            raise ProcessorUnavailable(f"Stripe is busy with the same request: {code}") from error
        raise ProcessorRefused(
            error.user_message or "", code or str(error_in(error.json_body).get("type") or "")
        ) from error
    except stripe.AuthenticationError as error:
        raise ProcessorRefused("Stripe does not know the secret key", "authentication") from error
    except stripe.PermissionError as error:
        raise ProcessorRefused("the secret key may not do this at Stripe", "permission") from error
    except (stripe.StripeError, AttributeError) as error:  # the SDK fails on JSON that comes from a proxy
        where = f"HTTP {getattr(error, 'http_status', None)}, request {getattr(error, 'request_id', None)}"
        raise ProcessorUnavailable(f"Stripe returned no usable response ({type(error).__name__}, {where})") from error
