"""The hosted pages: Checkout, a bank's authentication, invoices, receipts. They act on POST only.

Anyone who knows a page's address may use it, as with Stripe's own; the addresses cannot be guessed.
"""

import hmac
import re
from collections.abc import Callable
from urllib.parse import parse_qs, urlencode

from fake_stripe import checkout, html, invoice_collection, payment_intents, payment_methods
from fake_stripe.api import ApiResponse, Request
from fake_stripe.errors import Json, StripeError
from fake_stripe.html import message, money
from fake_stripe.pdf import text_pdf
from fake_stripe.world import World

_EXPIRY = re.compile(r"\s*(\d{1,2})\s*[/ .-]?\s*(\d{2}|\d{4})\s*")
_FAILED = "We are unable to authenticate your payment method. Please choose a different payment method and try again."


class Pages:
    """The pages, on one world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def respond(self, request: Request) -> ApiResponse:
        """Serve one request from a browser."""
        parts = request.path.strip("/").split("/")
        handlers: dict[str, Callable[[Request, list[str]], ApiResponse | None]] = {
            "c": self._checkout,
            "i": self._invoice,
            "3ds": self._bank,
            "receipts": self._receipt,
            "p": self._portal,
            "": self._welcome,
        }
        handle = handlers.get(parts[0])
        found = handle(request, parts[1:]) if handle is not None and request.method in ("GET", "HEAD", "POST") else None
        if found is None:
            reason = "It may have been of a fake Stripe that was started without --state, and has forgotten it."
            return _page(404, message("Not found", "There is no such page.", reason))
        return found

    # --- Checkout ---

    def _checkout(self, request: Request, parts: list[str]) -> ApiResponse | None:
        if len(parts) not in (2, 3) or parts[0] != "pay":
            return None
        session = self._world.store.find("checkout.session", parts[1])
        if session is None:
            return None
        if session["status"] != "open":
            done = "is complete" if session["status"] == "complete" else "has expired"
            return _page(200, message("Checkout", f"This session {done}.", link=_return_link(session)))
        if parts[2:] == ["authenticate"]:
            return self._authenticate_session(request, session)
        if len(parts) == 3:
            return None
        if request.method != "POST":
            return self._session_page(request, session, None)
        typed = _typed(request.body)
        try:
            method = self._typed_card(typed)
            error = checkout.give_card(self._world, session, method, typed.get("email"))
        except StripeError as failure:
            error = failure.error
        if error is not None:
            return self._session_page(request, session, error["message"], typed)
        return self._after(session)

    def _after(self, session: Json) -> ApiResponse:
        if session["status"] == "open":
            return _redirect(f"/c/pay/{session['id']}/authenticate")
        target = str(session["success_url"] or "/")
        return _redirect(target.replace("{CHECKOUT_SESSION_ID}", session["id"]))

    def _session_page(
        self, request: Request, session: Json, error: str | None, typed: Json | None = None
    ) -> ApiResponse:
        paying = session["mode"] == "payment"
        amount = money(session["amount_total"], session["currency"]) if paying else None
        rows = [(_quantity(line), money(line["amount_total"], line["currency"])) for line in session["_lines"]]
        body = html.page(
            "checkout.html",
            "Checkout",
            amount=amount,
            rows=rows,
            error=error,
            action=f"/c/pay/{session['id']}",
            filled=typed or self._filled(request),
            email=(session["customer_details"] or {}).get("email") is None and session["customer"] is None,
            keeps_card=not paying or (session["_intent_data"] or {}).get("setup_future_usage"),
            cancel_url=session["cancel_url"],
        )
        return _page(200 if error is None else 422, body)

    def _authenticate_session(self, request: Request, session: Json) -> ApiResponse:
        intent = checkout.pending_intent(self._world, session)
        if intent is None or intent["status"] != "requires_action":
            return _redirect(f"/c/pay/{session['id']}")
        if request.method != "POST":
            amount = money(intent["amount"], intent["currency"]) if session["mode"] == "payment" else None
            return _page(200, html.bank_page(f"/c/pay/{session['id']}/authenticate", amount))
        passed = _typed(request.body).get("result") == "complete"
        error = checkout.authenticate(self._world, session, passed=passed)
        if error is not None:
            return self._session_page(request, session, error["message"] if passed else _FAILED)
        return self._after(session)

    # --- cards ---

    def _typed_card(self, typed: Json) -> Json:
        """A payment method from the form's fields. Raises StripeError."""
        expiry = _EXPIRY.fullmatch(typed.get("card-expiry", ""))
        if expiry is None:
            raise StripeError(402, "card_error", "Your card's expiration date is incomplete.")
        if re.fullmatch(r"\s*\d{3,4}\s*", typed.get("card-cvc", "")) is None:
            raise StripeError(402, "card_error", "Your card's security code is incomplete.")
        number, name = typed.get("card-number", ""), typed.get("card-name")
        if not number.strip():
            raise StripeError(402, "card_error", "Your card number is incomplete.")
        return payment_methods.card_from_form(
            self._world, number, int(expiry[1]), int(expiry[2]), name, typed.get("email")
        )

    def _filled(self, request: Request) -> Json:
        """The field values for a link to a test card."""
        card = parse_qs(request.query).get("card", [""])[0]
        if not card:
            return {}
        return {
            "card-number": card,
            "card-expiry": "12 / 34",
            "card-cvc": "123",
            "card-name": "Test Person",
            "email": "test@example.com",
        }

    # --- invoices ---

    def _invoice(self, request: Request, parts: list[str]) -> ApiResponse | None:
        invoice = self._world.store.find("invoice", parts[0]) if len(parts) in (2, 3) else None
        if invoice is None or not hmac.compare_digest(parts[1].encode(), invoice.get("_secret", "").encode()):
            return None
        if parts[2:] == ["pdf"]:
            return ApiResponse(200, _invoice_pdf(invoice), [("content-type", "application/pdf")])
        if parts[2:] == ["authenticate"]:
            return self._authenticate_invoice(request, invoice)
        if len(parts) == 3:
            return None
        if request.method != "POST" or invoice["status"] not in ("open", "uncollectible"):
            return self._invoice_page(request, invoice, None)
        typed = _typed(request.body)
        try:
            method = self._chosen_card(invoice, typed)
            failure = invoice_collection.pay(self._world, invoice, method, off_session=False)
        except StripeError as error:
            failure = error
        intent = invoice_collection.intent_of(self._world, invoice)
        if intent is not None and intent["status"] == "requires_action":
            return _redirect(f"/i/{invoice['id']}/{invoice['_secret']}/authenticate")
        if failure is not None:
            return self._invoice_page(request, invoice, str(failure), typed)
        return _redirect(f"/i/{invoice['id']}/{invoice['_secret']}")

    def _chosen_card(self, invoice: Json, typed: Json) -> Json:
        saved = typed.get("saved")
        if saved:
            return payment_methods.for_payment(self._world, saved, invoice["customer"])
        return self._typed_card(typed)

    def _invoice_page(
        self, request: Request, invoice: Json, error: str | None, typed: Json | None = None
    ) -> ApiResponse:
        currency = invoice["currency"]
        rows = [(line["description"], money(line["amount"], currency)) for line in invoice["lines"]["data"]]
        rows += [("Tax", money(tax["amount"], currency)) for tax in invoice["total_taxes"]]
        methods = self._world.store.newest("payment_method")
        body = html.page(
            "invoice.html",
            "Invoice",
            invoice=invoice,
            amount=money(invoice["amount_due"], currency),
            rows=rows,
            total=money(invoice["total"], currency),
            action=f"/i/{invoice['id']}/{invoice['_secret']}",
            error=error,
            payable=invoice["status"] in ("open", "uncollectible"),
            saved_cards=[one for one in methods if one["customer"] == invoice["customer"] and one["type"] == "card"],
            filled=typed or self._filled(request),
        )
        return _page(200 if error is None else 422, body)

    def _authenticate_invoice(self, request: Request, invoice: Json) -> ApiResponse:
        intent = invoice_collection.intent_of(self._world, invoice)
        invoice_path = f"/i/{invoice['id']}/{invoice['_secret']}"
        if intent is None or intent["status"] != "requires_action":
            return _redirect(invoice_path)
        if request.method != "POST":
            return _page(
                200, html.bank_page(f"{invoice_path}/authenticate", money(intent["amount"], intent["currency"]))
            )
        passed = _typed(request.body).get("result") == "complete"
        error = payment_intents.authenticate(self._world, intent, passed=passed)
        if error is not None:
            return self._invoice_page(request, invoice, error["message"] if passed else _FAILED)
        return _redirect(invoice_path)

    # --- the rest ---

    def _bank(self, request: Request, parts: list[str]) -> ApiResponse | None:
        """The page that `next_action.redirect_to_url` leads to."""
        intent = self._world.store.find("payment_intent", parts[0]) if len(parts) == 2 else None
        if intent is None or not hmac.compare_digest(parts[1].encode(), intent["client_secret"].encode()):
            return None
        if request.method != "POST" and intent["status"] == "requires_action":
            return _page(200, html.bank_page(request.path, money(intent["amount"], intent["currency"])))
        if intent["status"] == "requires_action":
            payment_intents.authenticate(self._world, intent, passed=_typed(request.body).get("result") == "complete")
        details = {"payment_intent": intent["id"], "payment_intent_client_secret": intent["client_secret"]}
        target = str(intent.get("_return_url") or "/")
        return _redirect(target + ("&" if "?" in target else "?") + urlencode(details))

    def _receipt(self, request: Request, parts: list[str]) -> ApiResponse | None:
        charge = self._world.store.find("charge", parts[0]) if len(parts) == 1 else None
        if charge is None:
            return None
        amount = money(charge["amount_captured"], charge["currency"])
        rows = [("Refunded", money(charge["amount_refunded"], charge["currency"]))] if charge["amount_refunded"] else []
        return _page(200, html.page("receipt.html", "Receipt", amount=amount, rows=[("Charge", charge["id"]), *rows]))

    def _portal(self, request: Request, parts: list[str]) -> ApiResponse | None:
        return _page(200, message("Portal", "Billing portal", "The fake Stripe's portal is empty."))

    def _welcome(self, request: Request, parts: list[str]) -> ApiResponse | None:
        text = "This is a fake Stripe: a local server for demo and tests. No money moves here."
        return _page(200, message("Fake Stripe", "Fake Stripe", text))


def _typed(body: bytes) -> Json:
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=50)
    except ValueError:
        return {}
    return {name: values[0][:500] for name, values in fields.items()}


def _quantity(line: Json) -> str:
    return line["description"] if line["quantity"] == 1 else f"{line['description']} × {line['quantity']}"


def _return_link(session: Json) -> tuple[str, str, str] | None:
    if session["status"] == "complete" and session["success_url"]:
        return "Go on", session["success_url"].replace("{CHECKOUT_SESSION_ID}", session["id"]), "continue"
    return ("Back", session["cancel_url"], "cancel") if session["cancel_url"] else None


def _page(status: int, body: bytes) -> ApiResponse:
    return ApiResponse(status, body, list(html.HEADERS))


def _redirect(target: str) -> ApiResponse:
    return ApiResponse(
        303, b"", [("location", target), ("cache-control", "no-store"), ("referrer-policy", "no-referrer")]
    )


def _invoice_pdf(invoice: Json) -> bytes:
    currency = invoice["currency"]
    rows = [f"{line['description']}   {money(line['amount'], currency)}" for line in invoice["lines"]["data"]]
    return text_pdf(
        [
            "TEST INVOICE - no real money",
            f"Invoice {invoice['number']}   Status: {invoice['status']}",
            f"For {invoice['customer_name'] or invoice['customer_email'] or invoice['customer']}",
            "",
            *rows,
            "",
            f"Total {money(invoice['total'], currency)}   Due {money(invoice['amount_due'], currency)}",
        ]
    )
