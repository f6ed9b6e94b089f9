"""Reads what the billing page shows."""

from functools import partial

from farebox.billing import account_reports, auto_top_up, cards, disputes, documents, refund, top_up
from farebox.calendar import DAY_MS, month_start
from farebox.calls.spending import spending_limit
from farebox.errors import NOT_FOUND, Problem
from farebox.http.pages import labels
from farebox.http.pages.view import TRANSFERS_READ, Details, View
from farebox.payments.model import Dispute, Refund, TopUp
from farebox.quoting import quoted
from farebox.runtime.services import Services
from farebox.storage.accounts import find_account
from farebox.storage.sql import Connection
from farebox.storage.top_ups import charged_since, latest_paid_or_open, not_paid

_TOP_UPS = 10
_FAILURES_MS = 7 * DAY_MS
"""How long failed purchases are shown."""


async def load_view(services: Services, account_id: str) -> View:
    """Read the current billing state of the account."""
    database, now = services.database, services.clock.now_ms()
    account = await database.get(partial(find_account, account_id=account_id))
    if account is None:
        raise Problem(NOT_FOUND, f"There is no account {quoted(account_id)}")
    transfers, _ = await account_reports.statement(services, account_id, 0, TRANSFERS_READ)
    top_ups = await _top_ups(services, account_id)
    refunds = await refund.refunds(services, account_id)
    contested = await disputes.disputes(services, account_id)
    profile = await cards.profile(services, account_id)
    charged = partial(charged_since, account_id=account_id, since=month_start(now))
    return View(
        account=account,
        now=now,
        balance=await account_reports.balance(services, account_id),
        owed=await account_reports.owed(services, account_id),
        payments_on=services.processor is not None,
        switch=services.settings.auto_topup,
        cards=await cards.cards(services, account_id),
        details=Details(
            name=profile.name,
            email=profile.email,
            address=profile.address,
            country=profile.country,
            tax_id=profile.tax_id,
        ),
        limits=await top_up.limits(services, account_id),
        top_ups=top_ups,
        rule=await auto_top_up.rule(services, account_id),
        charged_cents=await database.get(charged),
        spending=await spending_limit.state(services, account_id),
        refunds=refunds,
        disputes=contested,
        transfers=transfers,
        usage=await account_reports.running_month(services, account_id),
        links=await _links(services, account_id, top_ups, refunds, contested),
        statement=documents.statement_link(services, account_id, labels.month_key(now)),
    )


async def _top_ups(services: Services, account_id: str) -> list[TopUp]:
    """The latest purchases: paid, open, or recently failed; not those that were never charged."""
    since = services.clock.now_ms() - _FAILURES_MS

    def read(connection: Connection) -> list[TopUp]:
        found = latest_paid_or_open(connection, account_id, _TOP_UPS)
        return found + not_paid(connection, account_id, since=since, limit=_TOP_UPS)

    found = await services.database.scan(read)
    each = {top_up.top_up_id: top_up for top_up in found if top_up.state != "canceled" or top_up.payment_id}
    return sorted(each.values(), key=lambda top_up: top_up.created_at, reverse=True)[:_TOP_UPS]


async def _links(
    services: Services, account_id: str, top_ups: list[TopUp], refunds: list[Refund], contested: list[Dispute]
) -> dict[str, str]:
    causes = [top_up.payment_id for top_up in top_ups if top_up.payment_id and top_up.state == "paid"]
    causes += [refund.refund_id for refund in refunds]
    causes += [dispute.dispute_id for dispute in contested if dispute.state == "lost"]
    links = {cause: await documents.document_link(services, account_id, cause) for cause in causes}
    return {cause: link for cause, link in links.items() if link is not None}
