"""Numbers without gaps, one document per cause, and contents that never change."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from farebox.billing.documents import content_of, issue_credit_note, issue_invoice
from farebox.documents.content import CreditNote, Invoice
from farebox.payments.model import TopUp
from farebox.payments.purchase import Purchase, Tax, price_purchase
from farebox.runtime.services import Services
from farebox.storage.database import opened_for_command
from farebox.storage.documents import find_by_number
from farebox.storage.sql import Connection
from tests.messages.kit import ANN, BOB, START, ManualClock, bucket_of, change, open_services, sql

VAT = Tax("VAT", 190_000)
YEAR_MS = 366 * 86_400_000


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    async with open_services(
        tmp_path, ManualClock(), seller_name="Seller Ltd", seller_address="Street 1| 12345 Town", seller_tax_id="S1"
    ) as made:
        yield made


def bought(name: str, purchase: Purchase | None = None, account_id: str = ANN) -> TopUp:
    purchase = purchase or price_purchase(5_000, fee_ppm=50_000, fee_fixed_cents=0, tax=VAT)
    return TopUp(
        account_id=account_id,
        top_up_id=f"manual-{name}",
        kind="manual",
        state="paid",
        credit_cents=purchase.credit_cents,
        fee_cents=purchase.fee_cents,
        tax_cents=purchase.tax_cents,
        lines=msgspec.json.encode(purchase),
        payment_id=f"in_{name}",
        brand="visa",
        last4="4242",
        created_at=START,
        updated_at=START,
        paid_at=START,
    )


async def invoice(services: Services, top_up: TopUp, at: int = START) -> str:
    settings = services.settings
    return await services.database.write(
        lambda c: issue_invoice(c, settings, bucket_of(c, top_up.account_id), top_up, at)
    )


async def credit(services: Services, top_up: TopUp, cause: str, amount: int, credit_cents: int = 0) -> str:
    def job(connection: Connection) -> str:
        return issue_credit_note(
            connection,
            services.settings,
            bucket_of(connection),
            top_up,
            cause_id=cause,
            amount_cents=amount,
            credit_cents=credit_cents,
            at=START,
        )

    return await services.database.write(job)


async def content(services: Services, number: str) -> Any:
    found = await services.database.scan(lambda c: find_by_number(c, number))
    assert found is not None
    return content_of(found)


async def test_numbers_count_up_and_a_repeat_gets_the_same_number(services: Services) -> None:
    first = await invoice(services, bought("1"))
    second = await invoice(services, bought("2", account_id=BOB))
    assert (first, second) == ("FB-2026-000001", "FB-2026-000002")
    assert await invoice(services, bought("1"), at=START + 5) == first
    note = await credit(services, bought("1"), "re_1", 100)
    assert note == "FB-CN-2026-000001"
    assert await credit(services, bought("1"), "re_1", 100) == note
    assert await invoice(services, bought("3")) == "FB-2026-000003"
    assert await sql(services, "SELECT count(*) FROM documents") == [(4,)]


async def test_a_new_year_begins_at_one(services: Services) -> None:
    await invoice(services, bought("1"))
    assert await invoice(services, bought("2"), at=START + YEAR_MS) == "FB-2027-000001"


async def test_a_rolled_back_transaction_leaves_no_gap(services: Services) -> None:
    def broken(connection: Connection) -> None:
        issue_invoice(connection, services.settings, bucket_of(connection), bought("broken"), START)
        raise RuntimeError("the payment was not ours")

    results = await asyncio.gather(
        invoice(services, bought("1")),
        services.database.write(broken),
        invoice(services, bought("2")),
        return_exceptions=True,
    )
    assert isinstance(results[1], RuntimeError)
    assert {results[0], results[2]} == {"FB-2026-000001", "FB-2026-000002"}


class Undone(Exception):
    """The transaction is not committed."""


async def test_numbers_have_no_gap_with_many_at_once_and_two_processes(services: Services) -> None:
    failures: list[Exception] = []

    def other_process() -> None:
        """Services with their own connections, like another process."""
        try:
            for n in range(40):
                with contextlib.suppress(Undone), opened_for_command(services.settings, writing=True) as connection:
                    top_up = bought(f"other-{n // 2}")  # each document is requested twice
                    issue_invoice(connection, services.settings, bucket_of(connection), top_up, START)
                    if n % 7 == 0:
                        raise Undone
        except Exception as error:  # noqa: BLE001 - reported in the test below
            failures.append(error)

    thread = threading.Thread(target=other_process)
    thread.start()
    ours = await asyncio.gather(*(invoice(services, bought(f"ours-{n // 2}")) for n in range(80)))
    await asyncio.to_thread(thread.join)
    assert not failures
    assert len(set(ours)) == 40
    numbers = [number for (number,) in await sql(services, "SELECT number FROM documents ORDER BY number")]
    assert numbers == [f"FB-2026-{n:06d}" for n in range(1, len(numbers) + 1)]
    assert len(numbers) == 60


async def test_an_invoice_keeps_the_data_of_its_issue(services: Services) -> None:
    await change(
        services,
        "INSERT INTO billing_profiles (bucket, account_id, name, address, country, tax_id, email, updated_at) "
        "SELECT bucket, account_id, 'Acme SARL', ?, 'FR', 'FR1', 'a@x.example', 0 FROM accounts WHERE account_id = ?",
        ("1 rue Ampère\n75017 Paris", ANN),
    )
    number = await invoice(services, bought("1"))
    await change(services, "UPDATE billing_profiles SET name = 'Other', country = 'DE'")
    found: Invoice = await content(services, number)
    assert found.customer.name == "Acme SARL"
    assert found.customer.address == ("1 rue Ampère", "75017 Paris")
    assert (found.customer.country, found.customer.tax_id) == ("FR", "FR1")
    assert found.seller.name == "Seller Ltd"
    assert found.seller.address == ("Street 1", "12345 Town")
    assert [(line.description, line.amount_cents) for line in found.lines] == [
        ("Prepaid credit", 5_000),
        ("Service fee", 250),
    ]
    assert found.tax is not None
    assert (found.tax.name, found.tax.amount_cents) == ("VAT", 998)
    assert found.total_cents == 6_248 == found.subtotal_cents + found.tax.amount_cents
    assert (found.card_brand, found.card_last4, found.payment_reference) == ("visa", "4242", "in_1")


async def test_without_a_profile_the_account_is_named(services: Services) -> None:
    found: Invoice = await content(services, await invoice(services, bought("1")))
    assert found.customer.name == "Ann & Co"


async def test_a_reverse_charge_costs_nothing_and_is_kept(services: Services) -> None:
    purchase = price_purchase(5_000, fee_ppm=0, fee_fixed_cents=0, tax=Tax("VAT", 190_000, reverse_charge=True))
    found: Invoice = await content(services, await invoice(services, bought("1", purchase)))
    assert found.tax is not None
    assert (found.tax.reverse_charge, found.tax.amount_cents, found.total_cents) == (True, 0, 5_000)


async def test_a_top_up_without_priced_lines_is_invoiced_by_its_own_figures(services: Services) -> None:
    bare = msgspec.structs.replace(bought("1"), lines=b"{}")
    found: Invoice = await content(services, await invoice(services, bare))
    assert found.total_cents == 6_248
    assert found.tax is not None
    assert found.tax.amount_cents == 998


@pytest.mark.parametrize("parts", [(6_248,), (1, 6_247), (1_000, 33, 2_500, 2_715), (3_124, 3_124)])
async def test_the_credit_notes_of_an_invoice_add_up_to_it(services: Services, parts: tuple[int, ...]) -> None:
    top_up = bought("1")
    await invoice(services, top_up)
    notes: list[CreditNote] = [
        await content(services, await credit(services, top_up, f"re_{n}", part)) for n, part in enumerate(parts)
    ]
    for note, part in zip(notes, parts, strict=True):
        tax = 0 if note.tax is None else note.tax.amount_cents
        assert note.total_cents == part == note.subtotal_cents + tax
        assert note.invoice_number == "FB-2026-000001"
        assert tax >= 0
    lines: dict[str, int] = {}
    for note in notes:
        for line in note.lines:
            lines[line.description] = lines.get(line.description, 0) + line.amount_cents
    assert lines == {"Prepaid credit": 5_000, "Service fee": 250}
    assert sum(note.tax.amount_cents for note in notes if note.tax) == 998
    assert await sql(services, "SELECT sum(total_cents) FROM documents") == [(0,)]


async def test_a_credit_note_before_its_invoice_issues_the_invoice_too(services: Services) -> None:
    assert await credit(services, bought("1"), "re_1", 100) == "FB-CN-2026-000001"
    assert await invoice(services, bought("1")) == "FB-2026-000001"
