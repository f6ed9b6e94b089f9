"""The caller's own token and accounts."""

from typing import Literal

import msgspec

from farebox.billing import account_reports
from farebox.errors import ACCESS_DENIED, Problem
from farebox.http.auth import authenticate_token
from farebox.http.control.wire import Paging, iso
from farebox.http.envelope import Note, Response, ok, page
from farebox.http.request import Request
from farebox.model import Account


class TokenStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """A valid token; any other one gets an error."""

    id: str
    status: Literal["active", "disabled", "expired"]
    expires_on: str | None = None


class AccountInfo(msgspec.Struct, frozen=True):
    id: str
    name: str
    type: Literal["standard", "enterprise"]
    created_on: str


class AccountsQuery(Paging, frozen=True, kw_only=True):
    name: str = ""
    """Only accounts with exactly this name."""


async def verify_token(request: Request, _: None) -> Response:
    token = await authenticate_token(request.headers, request.services.configuration)
    expires_on = None if token.expires_at is None else iso(token.expires_at)
    status = TokenStatus(token.token_id, "active", expires_on)
    return ok(status, Note(10000, "This API Token is valid and active"))


async def list_accounts(request: Request, query: AccountsQuery) -> Response:
    assert request.caller is not None
    found = await account_reports.accounts(request.services, request.caller.accounts)
    if query.name:
        found = [account for account in found if account.name == query.name]
    window = query.window()
    shown = [_info(account) for account in found[window.offset : window.offset + window.per_page]]
    return page(shown, window.page, window.per_page, len(found))


async def get_account(request: Request, _: None) -> Response:
    found = await account_reports.accounts(request.services, frozenset((request.account_id,)))
    if not found:
        raise Problem(ACCESS_DENIED, "Authentication error")
    return ok(_info(found[0]))


def _info(account: Account) -> AccountInfo:
    return AccountInfo(account.account_id, account.name, "standard", iso(account.created_at))
