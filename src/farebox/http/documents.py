"""Invoices, credit notes and statements: as PDF by a signed link or with a token, and as JSON."""

import re

import msgspec

from farebox.billing import documents as issued
from farebox.errors import NOT_FOUND, Problem
from farebox.http.control.wire import Paging, iso
from farebox.http.envelope import Response, ok, page
from farebox.http.quotas import DOCUMENTS, spend
from farebox.http.request import Request

PDF = "application/pdf"
_SUFFIX = ".pdf"
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


class Signed(msgspec.Struct, frozen=True):
    """The query of a link to a document."""

    account: str
    expires: int
    signature: str


class DocumentInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An issued document. The total of a credit note is below zero."""

    number: str
    kind: str
    top_up_id: str
    cause_id: str
    total_cents: int
    currency: str = "USD"
    issued_at: str
    pdf: str | None
    """A link for the owner, valid for a week."""


class UsageOfModel(msgspec.Struct, frozen=True, kw_only=True):
    """The month's charged calls of one model."""

    provider: str
    model: str
    calls: int
    tokens_in: int
    tokens_out: int
    charge_nanos: int


class MonthStatement(msgspec.Struct, frozen=True, kw_only=True):
    """opening + movements = closing; usage + shifted = what was charged among the movements."""

    month: str
    start: str
    end: str
    final: bool
    opening_nanos: int
    movements_nanos: dict[str, int]
    closing_nanos: int
    usage: list[UsageOfModel]
    shifted_nanos: int
    pdf: str
    """A link for the owner, valid for a week."""


async def linked(request: Request, query: Signed) -> Response:
    """Serve a document by its signed link: anyone who has the link may read it."""
    name = _name(request)
    issued.check_link(
        request.services, name, account_id=query.account, expires=query.expires, signature=query.signature
    )
    spend(request.services, DOCUMENTS, query.account)
    return _pdf(name, await issued.pdf(request.services, query.account, name))


async def pdf(request: Request, _: None) -> Response:
    """Serve a document to a token of the account."""
    name = _name(request)
    return _pdf(name, await issued.pdf(request.services, request.account_id, name))


async def index(request: Request, query: Paging) -> Response:
    window = query.window()
    found, total = await issued.history(request.services, request.account_id, window.offset, window.per_page)
    shown = [
        DocumentInfo(
            number=item.number,
            kind=item.kind,
            top_up_id=item.top_up_id,
            cause_id=item.cause_id,
            total_cents=item.total_cents,
            issued_at=iso(item.issued_at),
            pdf=issued.link_to(request.services, request.account_id, item.number),
        )
        for item in found
    ]
    return page(shown, window.page, window.per_page, total)


async def statement(request: Request, _: None) -> Response:
    found = await issued.statement_of(request.services, request.account_id, request.path["month"])
    return ok(
        MonthStatement(
            month=found.month,
            start=iso(found.start),
            end=iso(found.end),
            final=found.final,
            opening_nanos=found.opening_nanos,
            movements_nanos={item.kind: item.amount_nanos for item in found.movements},
            closing_nanos=found.closing_nanos,
            usage=[
                UsageOfModel(
                    provider=line.provider,
                    model=line.model,
                    calls=line.calls,
                    tokens_in=line.tokens_in,
                    tokens_out=line.tokens_out,
                    charge_nanos=line.charge_nanos,
                )
                for line in found.usage
            ],
            shifted_nanos=found.shifted_nanos,
            pdf=issued.statement_link(request.services, request.account_id, found.month),
        )
    )


def _name(request: Request) -> str:
    text = request.path["document"]
    if not text.endswith(_SUFFIX):
        raise Problem(NOT_FOUND, "There is no such document: its name ends with .pdf")
    return text.removesuffix(_SUFFIX)


def _pdf(name: str, body: bytes) -> Response:
    """A PDF that is shown in the browser, never cached, and never interpreted as another type."""
    headers = (
        ("content-disposition", f'inline; filename="{_UNSAFE.sub("_", name)}{_SUFFIX}"'),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("content-security-policy", "frame-ancestors 'none'"),
        ("x-frame-options", "DENY"),
    )
    return Response(body, content_type=PDF, headers=headers)
