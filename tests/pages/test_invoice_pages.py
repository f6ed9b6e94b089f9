"""Invoices, credit notes and statements on the pages: the lists match the API, and link to the PDFs."""

import re
from html import unescape

import httpx
import pytest

from farebox.billing.documents import issue_credit_note, issue_invoice
from farebox.model import Role
from farebox.storage.accounts import find_account
from farebox.storage.sql import Connection
from tests.documents.test_issue import bought
from tests.documents.test_render import read_back
from tests.pages.people import Person, person
from tests.support import Customer, Farebox


@pytest.fixture
def owner(farebox: Farebox, customer: Customer) -> Person:
    return person(farebox, Role.OWNER, customer.account_id)


@pytest.mark.both_engines
@pytest.mark.usefixtures("engine")
def test_documents_are_listed_with_their_pdfs(farebox: Farebox, owner: Person, customer: Customer) -> None:
    services, at = farebox.services, farebox.services.clock.now_ms()
    assert "No invoices yet" in owner.get("/billing/invoices").text

    def job(connection: Connection) -> tuple[str, str]:
        account = find_account(connection, customer.account_id)
        assert account is not None
        top_up = bought(f"of-{customer.account_id}", account_id=customer.account_id)
        number = issue_invoice(connection, services.settings, account.bucket, top_up, at)
        note = issue_credit_note(
            connection, services.settings, account.bucket, top_up,
            cause_id=f"re_{customer.account_id}", amount_cents=100, credit_cents=100, at=at,
        )  # fmt: skip
        return number, note

    numbers = farebox.run(services.database.write(job))
    page = unescape(owner.get("/billing/invoices").text)
    assert [page.index(number) for number in numbers] == sorted((page.index(n) for n in numbers), reverse=True)
    assert "Credit note" in page
    assert "−1.00" in page
    links = re.findall(r'<a href="([^"]*)">PDF', page)
    for number, link in zip(reversed(numbers), links, strict=True):
        assert number in read_back(httpx.get(link).content).words
    assert "No earlier documents" in owner.get("/billing/invoices", page="2").text
    for odd in ("0", "-1", "x", "9" * 20):
        assert owner.get("/billing/invoices", page=odd).status_code == 200


def test_a_statement_matches_the_api(farebox: Farebox, owner: Person, customer: Customer) -> None:
    customer.chat("one two three")
    (month,) = re.findall(r"/billing/statement\?month=([\d-]+)", owner.get("/billing/invoices").text)
    url = f"{customer.api_url}/farebox/statements/{month}"
    found = httpx.get(url, headers=customer.headers).json()["result"]
    page = unescape(owner.get("/billing/statement", month=month).text)
    (line,) = found["usage"]
    charge = f"{line['charge_nanos'] / 10**9:.9f}".rstrip("0")
    assert page.count(f">{charge}<") == 2, "for the model, and in total"
    assert f"−{charge}" in page
    assert "not final yet" in page
    (link,) = re.findall(r'<a href="([^"]*)" class="button quiet">PDF', page)
    assert "Usage statement" in read_back(httpx.get(link).content).words
    assert "No calls were charged" in owner.get("/billing/statement", month="2020-01").text
    for odd in ("2999-01", "2026-13", "x", "2026-1"):
        assert owner.get("/billing/statement", month=odd).status_code == 404
