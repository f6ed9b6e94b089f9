"""The operator's pages for accounts: finding, creating and changing them."""

from dataclasses import dataclass
from functools import partial
from typing import Final

from farebox.billing import refund as refunds
from farebox.errors import NOT_FOUND, Problem
from farebox.http.envelope import Response
from farebox.http.pages.operator_attention import operator_attention
from farebox.http.pages.operator_forms import amount, day, invalid, run_action, signed_amount, text
from farebox.http.pages.table import Fields, Shown, shell
from farebox.http.pages.visit import Visit, see_other
from farebox.identity import sessions
from farebox.identity.sessions import LinkHolder
from farebox.model import Account, Balance, Role
from farebox.money import NANOS_PER_CENT, format_usd
from farebox.operator import administer
from farebox.storage import accounts as store
from farebox.storage.account_search import LOOKED_THROUGH, search_accounts
from farebox.storage.customers import find_profile
from farebox.storage.members import list_members
from farebox.storage.operator_actions import list_actions
from farebox.storage.sql import Connection
from farebox.storage.top_ups import history

SHOWN: Final = 50
COUNTED: Final = 10_000
"""Most accounts that are counted."""
_ACTIONS: Final = 10
_TOP_UPS: Final = 20
_MEMBERS: Final = 10


@dataclass(frozen=True, slots=True)
class AccountLine:
    """An account of the list."""

    account: Account
    balance: Balance | None
    """None: its node of the database is unavailable."""


async def account_list(visit: Visit) -> Shown:
    """The accounts of this installation, in order of ID; with `find`, only those that match."""
    query = dict(visit.request.query_pairs())
    after, wanted = query.get("after", ""), query.get("find", "").strip()[:200]

    def read(connection: Connection) -> Shown:
        found = search_accounts(connection, wanted, after=after, limit=SHOWN)
        balances = store.balances_of(connection, found.accounts)
        lines = [AccountLine(each, balances.get(each.account_id)) for each in found.accounts]
        complete = all(line.balance for line in lines)
        total = store.count_some_accounts(connection, COUNTED + 1)
        return {"lines": lines, "complete": complete, "more": found.after, "total": total}

    page: Shown = {
        "counted": COUNTED,
        "looked_through": LOOKED_THROUGH,
        "wanted": wanted,
        "after": after,
        "attention": [] if wanted or after else await operator_attention(visit),
    }
    return {**page, **await visit.services.database.scan(read)}


async def create(visit: Visit, form: Fields) -> Response:
    """Create an account, and open its page."""
    services = visit.services
    account_id = text(form, "id") or None
    made = await run_action(
        visit,
        lambda connection, by: administer.create_account(
            connection,
            services.ids,
            by=by,
            name=text(form, "name"),
            account_id=account_id,
            at=services.clock.now_ms(),
            buckets=services.settings.buckets,
        ),
    )
    return see_other(f"/ui/accounts/{made.account_id}")


async def one_account(visit: Visit) -> Shown:
    """An account: its money, members, purchases, and what operators have done to it."""
    account_id = visit.request.path["account_id"]

    def read(connection: Connection) -> Shown:
        account = store.find_account(connection, account_id)
        if account is None:
            raise Problem(NOT_FOUND, "This account does not exist")
        top_ups, bought = history(connection, account_id, "all", 0, _TOP_UPS, every=True)
        members = list_members(connection, account_id)
        return {
            "account": account,
            "balance": store.read_balance(connection, account_id) or Balance(0, 0),
            "owed": store.read_owed(connection, account_id),
            "profile": find_profile(connection, account_id),
            "members": members[:_MEMBERS],
            "more_members": len(members[_MEMBERS:]),
            "tokens": store.count_tokens(connection, account_id)[1],
            "top_ups": top_ups,
            "bought": bought,
            "actions": list_actions(connection, account_id=account_id, limit=_ACTIONS),
        }

    shown = await visit.services.database.scan(read)
    name, services = shown["account"].name, visit.services
    frame = {"title": name, "payments": services.processor is not None, "key": services.ids.log_id()}
    return {**frame, **shown}


async def grant(visit: Visit, form: Fields) -> str:
    """Grant credit."""
    services, account_id, nanos = visit.services, visit.request.path["account_id"], amount(form)
    expires_at, note = day(form, "expires"), text(form, "note")
    posted = await run_action(
        visit,
        lambda connection, by: administer.grant(
            connection,
            services.ids,
            by=by,
            account_id=account_id,
            amount=nanos,
            grant_id=f"page:{text(form, 'key')}" if form.get("key") else None,
            expires_at=expires_at,
            note=note,
            at=services.clock.now_ms(),
        ),
    )
    if posted.repeated:
        return "This grant had already been made; nothing has changed."
    return f"Granted {format_usd(nanos)} USD: {format_usd(posted.balance.available)} USD is available."


async def correct(visit: Visit, form: Fields) -> str:
    """Correct a charge: give back or charge."""
    services, account_id, signed = visit.services, visit.request.path["account_id"], signed_amount(form)
    posted = await run_action(
        visit,
        lambda connection, by: administer.correct(
            connection,
            services.ids,
            by=by,
            account_id=account_id,
            amount=signed,
            correction_id=f"page:{text(form, 'key')}" if form.get("key") else None,
            reason=text(form, "reason"),
            at=services.clock.now_ms(),
        ),
    )
    if posted.repeated:
        return "This correction had already been made; nothing has changed."
    did = "Gave back" if signed > 0 else "Charged"
    return f"{did} {format_usd(abs(signed))} USD: {format_usd(posted.balance.available)} USD is available."


async def refund(visit: Visit, form: Fields) -> str:
    """Refund a purchase to the card."""
    nanos = amount(form) if form.get("amount", "").strip() else None
    if nanos is not None and nanos % NANOS_PER_CENT:
        raise invalid("Enter a whole number of cents: cards cannot be refunded fractions of a cent")
    made = await refunds.refund(
        visit.services,
        visit.request.path["account_id"],
        top_up_id=text(form, "top_up"),
        credit_cents=None if nanos is None else nanos // NANOS_PER_CENT,
        allow_spent=form.get("allow_spent") == "on",
        reason=text(form, "reason"),
        request_key=f"page:{text(form, 'key')}" if form.get("key") else None,
        by=visit.operator,
    )
    if made.state == "failed":
        raise invalid(f"The refund failed: {made.error}. The credit has been restored.")
    money, credit = (format_usd(cents * NANOS_PER_CENT) for cents in (made.amount_cents, made.credit_cents))
    sent = "will be returned once the processor confirms it" if made.state == "requested" else "were returned"
    return f"Took {credit} USD of credit; {money} USD {sent}."


async def link(visit: Visit, form: Fields) -> Response:
    """A sign-in link to the account, with a role; shown once."""
    services, account_id = visit.services, visit.request.path["account_id"]
    role = next((role for role in Role if role == form.get("role") and role is not Role.OPERATOR), None)
    if role is None:
        raise invalid("Choose one of the roles")
    holder, at = LinkHolder(account_id=account_id, role=role), services.clock.now_ms()
    made = await run_action(
        visit,
        lambda connection, by: sessions.new_link(
            connection, services.vault, services.ids, services.base_url, holder, at=at, by=by
        ),
    )
    shown = {"title": "A sign-in link", "link": made, "account_id": account_id, "role": role}
    return shell(visit, "account_link.html", shown, "/ui/accounts")


async def freeze(visit: Visit, form: Fields) -> str:
    """Freeze or unfreeze the account."""
    does = form.get("do")
    if does not in ("freeze", "unfreeze"):
        raise invalid("Choose whether to freeze or unfreeze the account")
    change = partial(
        administer.set_frozen,
        account_id=visit.request.path["account_id"],
        frozen=does == "freeze",
        reason=text(form, "reason"),
        at=visit.services.clock.now_ms(),
    )
    changed = await run_action(visit, lambda connection, by: change(connection, by=by))
    if does == "freeze":
        return f"The account is {'now' if changed else 'already'} frozen: its calls and purchases are refused."
    return "The account is no longer frozen." if changed else "The account was not frozen."
