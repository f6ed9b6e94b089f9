"""Invoices and credit notes: numbered without gaps, issued once per cause, shown only to their owner."""

import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from urllib.parse import quote, urlencode

import msgspec

from farebox.billing.monthly_statement import statement
from farebox.calendar import DAY_MS, month_span, utc
from farebox.documents.content import CreditNote, DocumentLine, Invoice, Party, Statement, TaxLine
from farebox.documents.render import rendered
from farebox.errors import LINK_EXPIRED, NOT_FOUND, Problem
from farebox.payments.model import TopUp
from farebox.payments.purchase import Purchase
from farebox.runtime.services import Services
from farebox.settings import Settings
from farebox.storage.documents import (
    DocumentRow,
    documents_of_top_up,
    find_by_cause,
    find_by_number,
    insert_document,
    list_documents,
    next_number,
    read_customer,
)
from farebox.storage.sql import Connection, DatabaseUnavailable
from farebox.storage.transfer_days import keep_sums, new_sums

LINK_DAYS = 7
"""Minimum validity of a link. It expires at the end of a day, so that a page shows the same link all day."""
_PURPOSE = "link to a document"
_STATEMENT = re.compile(r"statement-([0-9]{4}-[0-9]{2})")
_CONTENT: dict[str, type[Invoice] | type[CreditNote]] = {"invoice": Invoice, "credit_note": CreditNote}

# Issuing: inside the caller's transaction -------------------------------------------------------------------------


def issue_invoice(connection: Connection, settings: Settings, bucket: int, top_up: TopUp, at: int) -> str:
    """The number of the paid top-up's invoice, issued if there is none yet."""
    cause_id = top_up.payment_id or top_up.top_up_id
    issued = find_by_cause(connection, top_up.account_id, cause_id)
    if issued is not None:
        return issued.number
    purchase = _purchase(top_up)
    number = _next(connection, settings.invoice_prefix, at)
    content = Invoice(
        number=number,
        issued_at=at,
        paid_at=top_up.paid_at or at,
        account_id=top_up.account_id,
        seller=seller_of(settings),
        customer=customer_of(connection, top_up.account_id),
        lines=_lines(purchase.credit_cents, purchase.fee_cents),
        tax=_tax(purchase, purchase.tax_cents),
        total_cents=purchase.charge_cents,
        card_brand=top_up.brand or "",
        card_last4=top_up.last4 or "",
        payment_reference=top_up.payment_id or top_up.top_up_id,
    )
    insert_document(connection, bucket, _row("invoice", content, top_up.top_up_id, cause_id, content.total_cents))
    return number


def issue_credit_note(
    connection: Connection,
    settings: Settings,
    bucket: int,
    top_up: TopUp,
    *,
    cause_id: str,
    amount_cents: int,
    credit_cents: int,
    at: int,
    reason: str = "",
) -> str:
    """The number of the credit note of a refund or a lost dispute, issued if there is none yet.

    `amount_cents` went back to the card, `credit_cents` were taken from the credit. Fee and tax are credited in
    proportion; the parts of several credit notes add up to the invoice's own.
    """
    issued = find_by_cause(connection, top_up.account_id, cause_id)
    if issued is not None:
        return issued.number
    issue_invoice(connection, settings, bucket, top_up, at)
    documents = documents_of_top_up(connection, top_up.account_id, top_up.top_up_id)
    invoice = next(msgspec.json.decode(item.content, type=Invoice) for item in documents if item.kind == "invoice")
    before = -sum(item.total_cents for item in documents if item.kind == "credit_note")
    purchase = _purchase(top_up)
    fee, tax = (
        _share(part, before + amount_cents, purchase.charge_cents) - _share(part, before, purchase.charge_cents)
        for part in (purchase.fee_cents, purchase.tax_cents)
    )
    number = _next(connection, settings.invoice_prefix + "CN-", at)
    content = CreditNote(
        number=number,
        issued_at=at,
        account_id=top_up.account_id,
        seller=seller_of(settings),
        customer=customer_of(connection, top_up.account_id),
        invoice_number=invoice.number,
        invoice_issued_at=invoice.issued_at,
        lines=_lines(amount_cents - fee - tax, fee),
        tax=_tax(purchase, tax),
        total_cents=amount_cents,
        credit_cents=credit_cents,
        reason=reason,
        card_brand=top_up.brand or "",
        card_last4=top_up.last4 or "",
        payment_reference=cause_id,
    )
    insert_document(connection, bucket, _row("credit_note", content, top_up.top_up_id, cause_id, -amount_cents))
    return number


def seller_of(settings: Settings) -> Party:
    """The seller according to the settings."""
    return Party(
        name=settings.seller_name,
        address=tuple(line.strip() for line in settings.seller_address.split("|") if line.strip()),
        country=settings.seller_country,
        tax_id=settings.seller_tax_id,
        email=settings.seller_email,
    )


def customer_of(connection: Connection, account_id: str) -> Party:
    """The customer according to the current billing profile."""
    found = read_customer(connection, account_id)
    return Party(
        name=found.name,
        address=tuple(line.strip() for line in found.address.splitlines() if line.strip()),
        country=found.country,
        tax_id=found.tax_id,
        email=found.email,
    )


def _purchase(top_up: TopUp) -> Purchase:
    """The purchase as it was priced; from the top-up's own figures if no lines were stored with it."""
    try:
        return msgspec.json.decode(top_up.lines, type=Purchase)
    except msgspec.ValidationError:
        return Purchase(credit_cents=top_up.credit_cents, fee_cents=top_up.fee_cents, tax_cents=top_up.tax_cents)


def _lines(credit_cents: int, fee_cents: int) -> tuple[DocumentLine, ...]:
    lines = [DocumentLine("Prepaid credit", credit_cents)]
    if fee_cents:
        lines.append(DocumentLine("Service fee", fee_cents))
    return tuple(lines)


def _tax(purchase: Purchase, tax_cents: int) -> TaxLine | None:
    tax = purchase.tax
    if tax is None:
        return TaxLine("Tax", 0, tax_cents) if tax_cents else None
    return TaxLine(tax.name, tax.parts_per_million, tax_cents, tax.reverse_charge)


def _share(part: int, of: int, whole: int) -> int:
    """`part` × `of` / `whole`, to the nearest cent."""
    return (2 * part * of + whole) // (2 * whole) if whole else 0


def _next(connection: Connection, prefix: str, at: int) -> str:
    series = f"{prefix}{utc(at).year}"
    return f"{series}-{next_number(connection, series):06d}"


def _row(kind: str, content: Invoice | CreditNote, top_up_id: str, cause_id: str, total_cents: int) -> DocumentRow:
    return DocumentRow(
        account_id=content.account_id,
        number=content.number,
        kind=kind,
        top_up_id=top_up_id,
        cause_id=cause_id,
        total_cents=total_cents,
        content=msgspec.json.encode(content),
        issued_at=content.issued_at,
    )


# Showing ----------------------------------------------------------------------------------------------------------


async def document_link(services: Services, account_id: str, cause_id: str) -> str | None:
    """A link to the PDF of a payment, refund or dispute; as `link_to`. None: there is no document."""
    found = await services.database.get(partial(find_by_cause, account_id=account_id, cause_id=cause_id))
    return None if found is None else link_to(services, account_id, found.number)


def statement_link(services: Services, account_id: str, month: str) -> str:
    """A link to the usage statement of a month such as `2026-11`; as `link_to`."""
    return link_to(services, account_id, f"statement-{month}")


def link_to(services: Services, account_id: str, name: str) -> str:
    """A link to the PDF of the document with this number; anyone who has the link can open it.

    It is valid for seven to eight days, and for this document of this account only.
    """
    expires = (services.clock.now_ms() // DAY_MS + LINK_DAYS + 1) * DAY_MS // 1000
    signature = services.vault.sign(_PURPOSE, _signed_text(name, account_id, expires))
    query = urlencode({"account": account_id, "expires": expires, "signature": signature})
    return f"{services.base_url}/documents/{quote(name, safe='')}.pdf?{query}"


def _signed_text(name: str, account_id: str, expires: int) -> str:
    return msgspec.json.encode([name, account_id, expires]).decode()


def check_link(services: Services, name: str, *, account_id: str, expires: int, signature: str) -> None:
    """Raises Problem (LINK_EXPIRED) if a link to this document of the account is not signed by us, or has expired."""
    genuine = services.vault.verify(_PURPOSE, _signed_text(name, account_id, expires), signature)
    if not genuine or expires * 1000 <= services.clock.now_ms():
        raise Problem(LINK_EXPIRED, "The link is invalid or has expired")


async def pdf(services: Services, account_id: str, name: str) -> bytes:
    """A document of the account by its number, or a statement as `statement-2026-11`. Raises Problem (NOT_FOUND)."""
    month = _STATEMENT.fullmatch(name)
    if month is not None:
        return await rendered(await statement_of(services, account_id, month.group(1)))
    found = await services.database.get(partial(find_by_number, number=name, account_id=account_id))
    if found is None:
        raise Problem(NOT_FOUND, "There is no such document")
    return await rendered(content_of(found))


def content_of(document: DocumentRow) -> Invoice | CreditNote:
    """The decoded content of an issued document."""
    return msgspec.json.decode(document.content, type=_CONTENT[document.kind])


async def statement_of(services: Services, account_id: str, month: str) -> Statement:
    """The account's statement of a month such as `2026-11`. Raises Problem: NOT_FOUND if it is not a month, or is in
    the future.
    """
    now = services.clock.now_ms()
    span = month_span(month)
    if span is None or span[0] > now:
        raise Problem(
            NOT_FOUND, "There is no statement for that month: name the current or a past month, such as 2026-11"
        )
    new = await services.database.scan(partial(new_sums, account_id=account_id))
    if new is not None:
        with suppress(DatabaseUnavailable):  # the statement is complete without it
            await services.database.write(partial(keep_sums, new=new))
    return await services.database.scan(statement_reader(services.settings, account_id, month, now))


def statement_reader(settings: Settings, account_id: str, month: str, now: int) -> Callable[[Connection], Statement]:
    """A function that reads the statement in one snapshot of the database."""

    def read(connection: Connection) -> Statement:
        return statement(
            connection,
            account_id=account_id,
            month=month,
            now=now,
            settle_ms=settings.call_timeout_ms,
            seller=seller_of(settings),
            customer=customer_of(connection, account_id),
        )

    return read


async def history(services: Services, account_id: str, offset: int, limit: int) -> tuple[list[DocumentRow], int]:
    """The account's invoices and credit notes, newest first, and their total number."""
    return await services.database.scan(partial(list_documents, account_id=account_id, offset=offset, limit=limit))
