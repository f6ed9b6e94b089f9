"""The store of documents: consecutive numbers, invoices and credit notes as they were issued, sums for statements.

Times are milliseconds since the Unix epoch.
"""

from dataclasses import dataclass

from farebox.storage.account_keys import OF_ACCOUNT, key_of
from farebox.storage.accounts import find_account
from farebox.storage.sql import Connection, row, rows


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentRow:
    """An issued document. `total_cents` is below zero on a credit note; `content` is the JSON of documents.content."""

    account_id: str
    number: str
    kind: str
    """invoice, credit_note."""
    top_up_id: str
    cause_id: str
    """The payment, refund or dispute it documents."""
    total_cents: int
    content: bytes
    issued_at: int


@dataclass(frozen=True, slots=True)
class CustomerRow:
    """Who the customer is, for a document; fields that the owner has not filled in are empty."""

    name: str
    address: str
    """Lines, separated by newlines."""
    country: str
    tax_id: str
    email: str


def next_number(connection: Connection, series: str) -> int:
    """Take the next number of a series: 1, 2, 3 … It is returned on rollback, so there is no gap."""
    found = row(
        connection,
        "INSERT INTO series (name, next) VALUES (?, 2) "
        "ON CONFLICT (name) DO UPDATE SET next = series.next + 1 RETURNING next - 1",
        (series,),
    )
    assert found is not None
    return int(found[0])


_COLUMNS = "account_id, number, kind, top_up_id, cause_id, total_cents, content, issued_at"


def insert_document(connection: Connection, bucket: int, document: DocumentRow) -> None:
    """Write a document. Its number must be unique across all accounts: the directory refuses it otherwise."""
    connection.execute(
        "INSERT INTO document_numbers (number, account_id, cause_id) VALUES (?, ?, ?)",
        (document.number, document.account_id, document.cause_id),
    )
    connection.execute(
        f"INSERT INTO documents (bucket, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            bucket,
            document.account_id,
            document.number,
            document.kind,
            document.top_up_id,
            document.cause_id,
            document.total_cents,
            document.content.decode(),
            document.issued_at,
        ),
    )


def find_by_cause(connection: Connection, account_id: str, cause_id: str) -> DocumentRow | None:
    """The document of a payment, refund or dispute of the account."""
    return _one(connection, f"{OF_ACCOUNT} AND cause_id = ?", (*key_of(connection, account_id), cause_id))


def find_by_number(connection: Connection, number: str, account_id: str | None = None) -> DocumentRow | None:
    """The document of this number; without an account, any account's (the operator's view)."""
    if account_id is None:
        found = row(connection, "SELECT account_id FROM document_numbers WHERE number = ?", (number,))
        if found is None:
            return None
        account_id = str(found[0])
    return _one(connection, f"{OF_ACCOUNT} AND number = ?", (*key_of(connection, account_id), number))


def documents_of_top_up(connection: Connection, account_id: str, top_up_id: str) -> list[DocumentRow]:
    """The invoice of a top-up and its credit notes, in order of issue."""
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM documents WHERE {OF_ACCOUNT} AND top_up_id = ? ORDER BY issued_at, number",
        (*key_of(connection, account_id), top_up_id),
    )
    return [_document(fields) for fields in found]


def list_documents(connection: Connection, account_id: str, offset: int, limit: int) -> tuple[list[DocumentRow], int]:
    """The account's documents, newest first, and how many there are in all."""
    key = key_of(connection, account_id)
    found = rows(
        connection,
        f"SELECT {_COLUMNS} FROM documents WHERE {OF_ACCOUNT} ORDER BY issued_at DESC, number DESC LIMIT ? OFFSET ?",
        (*key, limit, offset),
    )
    total = row(connection, f"SELECT count(*) FROM documents WHERE {OF_ACCOUNT}", key)
    return [_document(fields) for fields in found], int(total[0]) if total else 0


def read_customer(connection: Connection, account_id: str) -> CustomerRow:
    """The account's billing profile as it is now, with the account's own name if the profile has none."""
    account = find_account(connection, account_id)
    if account is None:
        return CustomerRow(account_id, "", "", "", "")
    found = row(
        connection,
        f"SELECT name, address, country, tax_id, email FROM billing_profiles WHERE {OF_ACCOUNT}",
        key_of(connection, account_id),
    )
    name, address, country, tax_id, email = found or ("", "", "", "", "")
    return CustomerRow(name or account.name, address or "", country or "", tax_id or "", email or "")


# Sums for statements ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelSum:
    """The charged calls of one model in a span of hours. `charge` in nano-dollars."""

    provider: str
    model: str
    calls: int
    tokens_in: int
    tokens_out: int
    charge: int


def usage_sums(connection: Connection, account_id: str, start: int, end: int) -> list[ModelSum]:
    """The account's usage in the hours that begin in [start, end), by provider and model."""
    found = rows(
        connection,
        "SELECT provider, model, sum(calls), sum(tokens_in), sum(tokens_out), sum(charge) FROM usage_hours "
        f"WHERE {OF_ACCOUNT} AND hour >= ? AND hour < ? GROUP BY provider, model ORDER BY provider, model",
        (*key_of(connection, account_id), start, end),
    )
    return [ModelSum(*fields) for fields in found]


def _one(connection: Connection, where: str, values: tuple[object, ...]) -> DocumentRow | None:
    found = row(connection, f"SELECT {_COLUMNS} FROM documents WHERE {where}", values)
    return None if found is None else _document(found)


def _document(fields: tuple[object, ...]) -> DocumentRow:
    account_id, number, kind, top_up_id, cause_id, total_cents, content, issued_at = fields
    return DocumentRow(
        account_id=str(account_id),
        number=str(number),
        kind=str(kind),
        top_up_id=str(top_up_id),
        cause_id=str(cause_id),
        total_cents=int(str(total_cents)),
        content=str(content).encode(),
        issued_at=int(str(issued_at)),
    )
