"""Checkout Sessions: a hosted page that saves a card (`setup`) or takes a payment (`payment`)."""

from fake_stripe import customers, invoice_collection, payment_intents, payment_methods, setup_intents
from fake_stripe.errors import Json, StripeError, invalid, missing_param, refused
from fake_stripe.invoice_items import create as create_item
from fake_stripe.invoice_items import price_of
from fake_stripe.invoices import new_invoice
from fake_stripe.listing import page
from fake_stripe.object_fields import stripe_object
from fake_stripe.params import Params, merge_metadata, new_metadata, update_fields
from fake_stripe.rendering import includable, list_of
from fake_stripe.store import Store
from fake_stripe.world import World, random_text

_OPEN_SECONDS = 24 * 3600
_SOONEST, _LATEST = 1800, 86400
_PLAIN = (
    "billing_address_collection", "cancel_url", "client_reference_id", "customer_email", "locale", "submit_type",
    "success_url", "customer_creation", "payment_method_collection", "return_url",
)  # fmt: skip


def create(world: World, params: Params) -> Json:
    mode = params.choice("mode", "payment", "setup", "subscription") or "payment"
    if mode == "subscription":
        raise invalid("The fake Stripe has no subscriptions: use mode `payment` or `setup`.", param="mode")
    hosted = params.text("ui_mode") in (None, "hosted", "hosted_page")
    if hosted and not params.text("success_url"):
        raise missing_param("success_url")
    for name in ("success_url", "cancel_url", "return_url"):
        params.url(name)
    customer_id = params.text("customer")
    if customer_id is not None:
        customers.existing_customer(world, customer_id)
    session = _session(world, params, mode)
    if mode == "payment":
        _price_lines(world, session, params)
    elif not (params.text("currency") or params.texts("payment_method_types")):
        raise missing_param("currency")
    expires = params.integer("expires_at")
    if expires is not None and not _SOONEST - 60 <= expires - world.now() <= _LATEST + 60:
        raise invalid(
            "The `expires_at` timestamp must be between 30 minutes and 24 hours from now.", param="expires_at"
        )
    session["expires_at"] = expires or session["expires_at"]
    world.store.add(session)
    if mode == "setup":
        data = params.sub("setup_intent_data")
        intent = setup_intents.new_intent(world, customer_id, new_metadata(data))
        update_fields(intent, data, "description")
        intent["_session"] = session["id"]
        session["setup_intent"] = world.store.add(intent)["id"]
        world.emit("setup_intent.created", intent)
    world.later(session["expires_at"] - world.now(), "expire", session["id"])
    return session


def _session(world: World, params: Params, mode: str) -> Json:
    now, session_id = world.now(), f"cs_test_{random_text(58)}"
    types = params.texts("payment_method_types") or params.texts("allowed_payment_method_types") or ["card"]
    session = stripe_object(
        "checkout.session",
        id=session_id,
        adaptive_pricing={"enabled": False} if mode == "payment" else None,
        automatic_tax={"enabled": False, "liability": None, "provider": None, "status": None},
        created=now,
        currency=(params.text("currency") or "").lower() or None,
        custom_fields=[],
        custom_text=dict.fromkeys(("after_submit", "shipping_address", "submit", "terms_of_service_acceptance")),
        customer=params.text("customer"),
        customer_creation="if_required" if mode == "payment" else None,
        discounts=[] if mode == "payment" else None,
        expires_at=now + _OPEN_SECONDS,
        metadata=new_metadata(params),
        mode=mode,
        payment_method_collection="if_required" if mode == "payment" else "always",
        payment_method_options={"card": {"request_three_d_secure": "automatic"}},
        payment_method_types=types,
        payment_status="unpaid" if mode == "payment" else "no_payment_required",
        phone_number_collection={"enabled": False},
        shipping_options=[],
        status="open",
        ui_mode="hosted_page",
        url=f"{world.public_url}/c/pay/{session_id}",
        _lines=[],
        _intent_data=params.sub("payment_intent_data").values,
        _invoice_data=params.sub("invoice_creation").values,
    )
    update_fields(session, params, *_PLAIN)
    creation = params.sub("invoice_creation")
    if mode == "payment":
        session["invoice_creation"] = {
            "enabled": creation.flag("enabled") or False,
            "invoice_data": _invoice_data(creation.sub("invoice_data")),
        }
    if session["customer_email"] or session["customer"]:
        known = world.store.find("customer", session["customer"]) or {}
        session["customer_details"] = _details(session["customer_email"] or known.get("email"), known.get("name"))
    return session


def _invoice_data(data: Params) -> Json:
    plain = ("account_tax_ids", "custom_fields", "description", "footer", "issuer", "rendering_options")
    return {name: data.plain(name) for name in plain} | {"metadata": new_metadata(data)}


def _details(email: str | None, name: str | None) -> Json:
    return {
        "address": None,
        "business_name": None,
        "email": email,
        "individual_name": None,
        "name": name,
        "phone": None,
        "tax_exempt": "none",
        "tax_ids": [],
    }


def _price_lines(world: World, session: Json, params: Params) -> None:
    lines = [_line(world, line) for line in params.subs("line_items")]
    if not lines:
        raise missing_param("line_items")
    currencies = {line["currency"] for line in lines}
    if len(currencies) > 1:
        raise invalid("All line items must have the same currency.", param="line_items")
    total = sum(line["amount_total"] for line in lines)
    currency = currencies.pop()
    payment_intents.check_amount(total, currency, "line_items")
    session.update(
        currency=currency,
        amount_subtotal=total,
        amount_total=total,
        total_details={"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        _lines=lines,
    )


def _line(world: World, params: Params) -> Json:
    quantity = params.integer("quantity") or 1
    price = price_of(world, params, "usd", "Item")
    amount = price["unit_amount"] * quantity
    return {
        "id": world.new_id("li"),
        "object": "item",
        "adjustable_quantity": None,
        "amount_discount": 0,
        "amount_subtotal": amount,
        "amount_tax": 0,
        "amount_total": amount,
        "currency": price["currency"],
        "description": world.store.get("product", price["product"])["name"],
        "metadata": {},
        "price": world.snapshot(price),
        "quantity": quantity,
    }


# --- the customer's actions on the page -------------------------------------------------------------------------------


def give_card(world: World, session: Json, method: Json, email: str | None = None) -> Json | None:
    """The customer has entered a card. Returns the card's error; None if the session is complete, or the cardholder
    must authenticate."""
    _require_open(session)
    if session["mode"] == "setup":
        intent = world.store.get("setup_intent", session["setup_intent"])
        error = setup_intents.attempt(world, intent, method)
    else:
        intent = _intent(world, session, email, method)
        error = payment_intents.attempt(world, intent, method)
    if error is None and intent["status"] in ("succeeded", "processing", "requires_capture"):
        complete(world, session, intent, method)
    return error


def authenticate(world: World, session: Json, *, passed: bool) -> Json | None:
    """The cardholder has responded. Returns the card's error; None if the session is complete."""
    _require_open(session)
    intent = pending_intent(world, session)
    if intent is None or intent["status"] != "requires_action":
        raise refused("There is nothing to authenticate.")
    method = world.store.get("payment_method", intent["payment_method"])
    act = setup_intents.authenticate if session["mode"] == "setup" else payment_intents.authenticate
    error = act(world, intent, passed=passed)
    if error is None:
        complete(world, session, intent, method)
    return error


def pending_intent(world: World, session: Json) -> Json | None:
    """The intent that the session tries to complete."""
    if session["mode"] == "setup":
        return world.store.find("setup_intent", session["setup_intent"])
    return world.store.find("payment_intent", session.get("_intent"))


def _intent(world: World, session: Json, email: str | None, method: Json) -> Json:
    known = world.store.find("payment_intent", session.get("_intent"))
    if known is not None:
        return known
    data = Params(session["_intent_data"])
    customer_id = session["customer"]
    wanted = session["customer_creation"] == "always" or session["invoice_creation"]["enabled"]
    if customer_id is None and (wanted or data.text("setup_future_usage")):
        name = method["billing_details"]["name"]
        values = {"email": email or session["customer_email"] or "", "name": name or ""}
        customer_id = session["_new_customer"] = customers.create(world, Params(values))["id"]
    intent = payment_intents.new_intent(
        world,
        session["amount_total"],
        session["currency"],
        customer_id,
        metadata=new_metadata(data),
        setup_future_usage=data.text("setup_future_usage"),
        _session=session["id"],
    )
    update_fields(intent, data, "description", "receipt_email", "shipping", "statement_descriptor_suffix")
    if data.text("capture_method"):
        intent["capture_method"] = data.text("capture_method")
    world.store.add(intent)
    session["_intent"] = intent["id"]
    world.emit("payment_intent.created", intent)
    return intent


def complete(world: World, session: Json, intent: Json, method: Json) -> None:
    """Complete the session."""
    billing = method["billing_details"]
    known = session["customer_details"] or {}
    session.update(
        status="complete",
        url=None,
        customer=session["customer"] or session.get("_new_customer"),
        customer_details=_details(known.get("email") or billing["email"], billing["name"] or known.get("name")),
    )
    if session["mode"] == "payment":
        session["payment_intent"] = intent["id"]
        session["payment_status"] = "paid" if intent["status"] == "succeeded" else "unpaid"
        if session["invoice_creation"]["enabled"] and intent["status"] == "succeeded":
            session["invoice"] = _write_invoice(world, session, intent)["id"]
    world.emit("checkout.session.completed", session)


def _write_invoice(world: World, session: Json, intent: Json) -> Json:
    customer = world.store.get("customer", session["customer"])
    invoice = world.store.add(new_invoice(world, customer, session["currency"]))
    data = session["invoice_creation"]["invoice_data"]
    invoice.update(metadata=dict(data["metadata"]), description=data["description"], footer=data["footer"])
    for line in session["_lines"]:
        values = {
            "customer": customer["id"],
            "invoice": invoice["id"],
            "description": line["description"],
            "quantity": str(line["quantity"]),
            "pricing": {"price": line["price"]["id"]},
        }
        create_item(world, Params(values))
    invoice_collection.record_paid(world, invoice, intent)
    return invoice


def _require_open(session: Json) -> None:
    if session["status"] != "open":
        raise refused(f"This Checkout Session is {session['status']}.")


# --- the API's calls --------------------------------------------------------------------------------------------------


def retrieve(world: World, params: Params, session_id: str) -> Json:
    return world.store.get("checkout.session", session_id)


def update(world: World, params: Params, session_id: str) -> Json:
    session = world.store.get("checkout.session", session_id)
    merge_metadata(session, params)
    return session


def list_all(world: World, params: Params) -> Json:
    names = ("customer", "payment_intent", "status")
    return page(world.store.newest("checkout.session"), params, "/v1/checkout/sessions", *names)


def line_items(world: World, params: Params, session_id: str) -> Json:
    session = world.store.get("checkout.session", session_id)
    return page(session["_lines"], params, f"/v1/checkout/sessions/{session_id}/line_items")


@includable("checkout.session", "line_items")
def _line_items(store: Store, session: Json) -> Json:
    known = store.find("checkout.session", session["id"]) or {}
    return list_of(known.get("_lines") or [], f"/v1/checkout/sessions/{session['id']}/line_items")


def expire(world: World, params: Params, session_id: str) -> Json:
    session = world.store.get("checkout.session", session_id)
    if session["status"] != "open":
        raise refused(
            'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout Session has a status of '
            + session["status"]
        )
    end(world, session)
    return session


def end(world: World, session: Json) -> None:
    """End an unfinished session: what it began is canceled."""
    session.update(status="expired", url=None)
    intent = pending_intent(world, session)
    if intent is not None and session["mode"] == "setup":
        setup_intents.end(world, intent, "abandoned")
    elif intent is not None:
        payment_intents.end(world, intent, "abandoned")
    world.emit("checkout.session.expired", session)


def expire_due(world: World, session_id: str) -> None:
    session = world.store.find("checkout.session", session_id)
    if session is not None and session["status"] == "open":
        end(world, session)


# --- the calls that Stripe's own page makes, as `stripe trigger` makes them -------------------------------------------


def payment_page(world: World, params: Params, page_id: str) -> Json:
    session = world.store.get("checkout.session", page_id)
    return {"id": page_id, "object": "checkout.payment_page", "session_id": page_id, "status": session["status"]}


def confirm_page(world: World, params: Params, page_id: str) -> Json:
    session = world.store.get("checkout.session", page_id)
    method = payment_methods.usable(world, params.need("payment_method"))
    expected = params.integer("expected_amount")
    if expected is not None and expected != session["amount_total"]:
        raise _changed(session)
    error = give_card(world, session, method)
    if error is not None:
        raise payment_intents.payment_error(error)
    return payment_page(world, params, page_id)


def _changed(session: Json) -> StripeError:
    return refused(f"The expected amount is not the session's, {session['amount_total']}.", param="expected_amount")
