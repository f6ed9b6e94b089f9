"""What the forms of the billing page do, once `table` has checked who sent them."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec

from farebox.billing import auto_top_up, cards, top_up
from farebox.billing.auto_top_up import AMOUNT_MIN, CAP_MAX, THRESHOLD_MAX, THRESHOLD_MIN
from farebox.calls.spending import spending_limit
from farebox.calls.spending.spending_limit import AMOUNT_MIN_CENTS
from farebox.errors import PROCESSOR_UNAVAILABLE, VALIDATION_FAILED, Problem
from farebox.http.envelope import Response
from farebox.http.pages import labels
from farebox.http.pages.render import ANOTHER
from farebox.http.pages.table import Fields, stale
from farebox.http.pages.visit import Visit, leave, see_other
from farebox.http.quotas import PAGES, spend
from farebox.storage.customers import default_card
from farebox.storage.top_ups import find_by_request

# --- buying -----------------------------------------------------------------------------------------------------------

_REQUEST_KEY = re.compile(r"[A-Za-z0-9_-]{16,64}")


async def buy(visit: Visit, form: Fields) -> Response | str:
    """Charge a saved card, or redirect to the payment page. The form's key makes a double click a single purchase."""
    amount = cents(form, "amount", "the amount", *await top_up.limits(visit.services, visit.account_id))
    key = form.get("request_key", "")
    if not _REQUEST_KEY.fullmatch(key):
        raise stale()
    card_id = form.get("card", ANOTHER)
    if card_id == ANOTHER:
        return await _buy_at_checkout(visit, amount, key)
    name = f"page:{key}"
    try:
        bought = await top_up.buy(
            visit.services, visit.account_id, credit_cents=amount, card_id=card_id, request_key=name
        )
    except Problem as problem:
        under_way = await visit.services.database.get(
            partial(find_by_request, account_id=visit.account_id, request_key=name)
        )
        if problem.kind is not PROCESSOR_UNAVAILABLE or under_way is None:
            raise
        bought = under_way  # the purchase continues in the background; another form would be another purchase
    if bought.state == "paid":
        return bought_text(bought.credit_cents)
    return see_other(f"/billing/top-up?id={bought.top_up_id}")


async def _buy_at_checkout(visit: Visit, amount: int, key: str) -> Response:
    spend(visit.services, PAGES, visit.account_id)
    bought = await top_up.buy_at_checkout(
        visit.services,
        visit.account_id,
        credit_cents=amount,
        success_url=_return_url(visit),
        cancel_url=f"{visit.services.base_url}/billing",
        request_key=f"page:{key}",
    )
    return leave(bought.action_url) if bought.action_url else see_other(f"/billing/top-up?id={bought.top_up_id}")


def bought_text(credit_cents: int) -> str:
    return f"Bought {labels.usd(credit_cents)} of credit."


def _return_url(visit: Visit) -> str:
    """Where the payment page sends the browser back to; the processor inserts the page's ID."""
    return f"{visit.services.base_url}/billing/done?checkout={{CHECKOUT_SESSION_ID}}"


# --- cards and details ------------------------------------------------------------------------------------------------


async def save_card(visit: Visit, form: Fields) -> Response | str:
    checkout = await cards.open_setup(
        visit.services,
        visit.account_id,
        success_url=_return_url(visit),
        cancel_url=f"{visit.services.base_url}/billing",
    )
    if checkout.url is None:
        return "The payment page has already been completed."
    return leave(checkout.url)


async def make_default(visit: Visit, form: Fields) -> Response | str:
    await cards.set_default(visit.services, visit.account_id, form.get("card", ""))
    return "The default card has been changed."


async def remove_card(visit: Visit, form: Fields) -> Response | str:
    await cards.remove(visit.services, visit.account_id, form.get("card", ""))
    return "The card has been removed."


async def save_details(visit: Visit, form: Fields) -> Response | str:
    """The country decides the tax of later purchases; earlier ones stay unchanged."""
    profile = await cards.profile(visit.services, visit.account_id)
    given = {name: form.get(name, "").strip() for name in ("name", "email", "address", "country", "tax_id")}
    given["country"] = given["country"].upper()
    given["address"] = given["address"].replace("\r\n", "\n")
    await cards.set_profile(visit.services, visit.account_id, msgspec.structs.replace(profile, **given))
    return "The invoice details have been saved."


# --- auto top-up and spending limit -----------------------------------------------------------------------------------


async def set_auto(visit: Visit, form: Fields) -> Response | str:
    low, high = await top_up.limits(visit.services, visit.account_id)
    amount = cents(form, "auto-amount", "the amount to buy", max(low, AMOUNT_MIN), high)
    obstacle = await _obstacle(visit)  # read first: once the rule is saved, nothing may fail
    rule = await auto_top_up.set_rule(
        visit.services,
        visit.account_id,
        amount_cents=amount,
        threshold_cents=cents(form, "threshold", "the threshold", THRESHOLD_MIN, THRESHOLD_MAX),
        monthly_cap_cents=_cap(form, amount),
    )
    if obstacle:
        return f"The auto top-up has been saved, but nothing is bought yet: {obstacle}."
    bought, below = labels.usd(rule.amount_cents), labels.usd(rule.threshold_cents)
    return f"Auto top-up is on: {bought} whenever the balance falls below {below}."


async def _obstacle(visit: Visit) -> str:
    """Why an active auto top-up buys nothing; empty if it does."""
    if visit.session.frozen:
        return "the account is frozen"
    if visit.services.settings.auto_topup != "on":
        return "the operator has switched automatic purchases off for now"
    if await visit.services.database.get(partial(default_card, account_id=visit.account_id)) is None:
        return "there is no card to charge. Save one"
    return ""


def _cap(form: Fields, amount: int) -> int | None:
    """The monthly cap; None if the field is empty. Raises Problem (VALIDATION_FAILED)."""
    if not form.get("cap", "").strip():
        return None
    cap = cents(form, "cap", "the monthly cap", high=CAP_MAX)
    if cap < amount:
        message = f"The monthly cap must be at least {labels.usd(amount)}, one purchase"
        raise Problem(VALIDATION_FAILED, message, path=("body", "cap"))
    return cap


async def end_auto(visit: Visit, form: Fields) -> Response | str:
    await auto_top_up.remove_rule(visit.services, visit.account_id)
    return "Auto top-up has been switched off."


async def set_limit(visit: Visit, form: Fields) -> Response | str:
    duration = next((word for word in labels.DURATIONS if word == form.get("duration")), None)
    strategy = next((word for word in labels.STRATEGIES if word == form.get("strategy")), None)
    if duration is None:
        raise Problem(VALIDATION_FAILED, f"Choose a period: {_choices(labels.DURATIONS)}", path=("body", "duration"))
    if strategy is None:
        message = f"Choose how spending is counted: {_choices(labels.STRATEGIES)}"
        raise Problem(VALIDATION_FAILED, message, path=("body", "strategy"))
    amount = cents(form, "limit-amount", "the limit", AMOUNT_MIN_CENTS)
    await spending_limit.put(
        visit.services, visit.account_id, amount_cents=amount, duration=duration, strategy=strategy
    )
    return f"The spending limit is {labels.usd(amount)} per {labels.DURATIONS[duration]}."


def _choices(options: Mapping[Any, str]) -> str:
    """`day, week or month`."""
    *first, last = options.values()
    return f"{', '.join(first)} or {last}"


async def end_limit(visit: Visit, form: Fields) -> Response | str:
    await spending_limit.remove(visit.services, visit.account_id)
    return "The spending limit has been removed."


# --- fields -----------------------------------------------------------------------------------------------------------

_AMOUNT = re.compile(r"([0-9]{1,100})(?:\.([0-9]{1,2}))?")


def cents(form: Fields, name: str, what: str, low: int = 0, high: int = 10**11) -> int:
    """US cents of a field with US dollars, within the bounds. Raises Problem (VALIDATION_FAILED)."""
    found = _AMOUNT.fullmatch(form.get(name, "").strip())
    if found is None:
        raise Problem(VALIDATION_FAILED, f"Enter {what} in US dollars, such as 50 or 49.90", path=("body", name))
    dollars, decimals = found.groups(default="0")
    amount = int(dollars) * 100 + int(decimals.ljust(2, "0"))
    if not low <= amount <= high:
        message = f"{what[:1].upper()}{what[1:]} must be from {labels.usd(low)} to {labels.usd(high)}"
        raise Problem(VALIDATION_FAILED, message, path=("body", name))
    return amount
