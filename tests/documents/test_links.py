"""Documents over HTTP: by signed link and with a token, for their owner only."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest

from farebox.billing.documents import document_link, issue_invoice, statement_link
from farebox.model import Permission
from farebox.storage.accounts import find_account
from farebox.storage.sql import Connection
from tests.documents.test_issue import bought
from tests.documents.test_render import read_back
from tests.support import Customer, Farebox, running_farebox

WEEK_SECONDS = 7 * 86_400


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    path: Path = tmp_path_factory.mktemp("links")
    with running_farebox(path, seller_name="Seller Ltd") as served:
        yield served


class Buyer(Customer):
    """An account with an invoice."""

    def __init__(self, farebox: Farebox) -> None:
        customer = farebox.funded()
        super().__init__(farebox, customer.account_id, customer.token)
        services = farebox.services
        top_up = bought(f"of-{self.account_id}", account_id=self.account_id)

        def job(connection: Connection) -> str:
            account = find_account(connection, self.account_id)
            assert account is not None
            return issue_invoice(connection, services.settings, account.bucket, top_up, services.clock.now_ms())

        self.number = farebox.run(services.database.write(job))
        link = farebox.run(self._link(str(top_up.payment_id)))
        assert link is not None
        self.link = link

    async def _link(self, cause_id: str) -> str | None:
        return await document_link(self.farebox.services, self.account_id, cause_id)

    def changed(self, **query: str) -> str:
        """The link with a changed query."""
        url = urlsplit(self.link)
        values = {name: value[0] for name, value in parse_qs(url.query).items()} | query
        return url._replace(query=urlencode(values)).geturl()


@pytest.fixture
def buyer(farebox: Farebox) -> Buyer:
    return Buyer(farebox)


def error_of(response: httpx.Response) -> tuple[int, int]:
    return response.status_code, response.json()["errors"][0]["code"]


def test_a_link_shows_the_invoice_without_credentials(buyer: Buyer) -> None:
    response = httpx.get(buyer.link)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/pdf"
    assert response.headers["content-disposition"] == f'inline; filename="{buyer.number}.pdf"'
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert f"Invoice number {buyer.number}" in read_back(response.content).words


def test_a_link_is_valid_for_a_week(buyer: Buyer) -> None:
    expires = int(parse_qs(urlsplit(buyer.link).query)["expires"][0])
    left = expires - buyer.farebox.services.clock.now_ms() / 1000
    assert WEEK_SECONDS <= left <= WEEK_SECONDS + 86_400


def test_a_link_that_was_changed_is_refused(buyer: Buyer, farebox: Farebox) -> None:
    other = Buyer(farebox)
    signature = parse_qs(urlsplit(buyer.link).query)["signature"][0]
    flipped = ("A" if signature[0] != "A" else "B") + signature[1:]
    for url in (
        buyer.changed(account=other.account_id),
        buyer.changed(expires="4000000000"),
        buyer.changed(expires="1"),
        buyer.changed(signature=flipped),
        buyer.changed(signature=signature[:-1]),
        buyer.changed(signature="é"),
        buyer.link.replace(buyer.number, other.number),
        buyer.link.replace(f"{buyer.number}.pdf", "statement-2026-11.pdf"),
    ):
        assert error_of(httpx.get(url)) == (403, 2936), url
    assert httpx.get(buyer.link.split("&signature")[0]).status_code == 400
    assert httpx.get(buyer.link.split("?")[0]).status_code == 400


def test_a_link_expires(buyer: Buyer) -> None:
    services = buyer.farebox.services
    from farebox.billing import documents

    past = services.clock.now_ms() // 1000 - 1
    text = documents._signed_text(buyer.number, buyer.account_id, past)
    genuine = services.vault.sign(documents._PURPOSE, text)
    assert error_of(httpx.get(buyer.changed(expires=str(past), signature=genuine))) == (403, 2936)
    assert services.vault.verify("another purpose", text, genuine) is False


def test_a_signature_is_for_one_purpose(buyer: Buyer) -> None:
    vault = buyer.farebox.services.vault
    assert vault.verify("a", "text", vault.sign("a", "text"))
    assert not vault.verify("b", "text", vault.sign("a", "text"))
    assert not vault.verify("a", "text2", vault.sign("a", "text"))


def test_the_owners_token_shows_it_too(buyer: Buyer, farebox: Farebox) -> None:
    url = f"{buyer.api_url}/farebox/documents/{buyer.number}.pdf"
    shown = httpx.get(url, headers=buyer.headers)
    assert shown.status_code == 200
    assert shown.content == httpx.get(buyer.link).content

    other = Buyer(farebox)
    assert httpx.get(url, headers=other.headers).status_code == 403
    assert error_of(httpx.get(f"{other.api_url}/farebox/documents/{buyer.number}.pdf", headers=other.headers)) == (
        404,
        7002,
    )
    assert httpx.get(url).status_code == 400
    runs = farebox.create_token(buyer.account_id, Permission.RUN)
    assert httpx.get(url, headers={"authorization": f"Bearer {runs}"}).status_code == 403
    assert httpx.get(url.removesuffix(".pdf"), headers=buyer.headers).status_code == 404


def test_documents_are_listed(buyer: Buyer) -> None:
    listed: dict[str, Any] = httpx.get(f"{buyer.api_url}/farebox/documents", headers=buyer.headers).json()
    (item,) = listed["result"]
    assert (item["number"], item["kind"], item["total_cents"]) == (buyer.number, "invoice", 6_248)
    assert listed["result_info"]["total_count"] == 1


def test_the_statement_as_pdf_and_as_json(buyer: Buyer) -> None:
    assert buyer.chat().status_code == 200
    now = buyer.farebox.services.clock.now_ms()
    from datetime import UTC, datetime

    month = f"{datetime.fromtimestamp(now / 1000, UTC):%Y-%m}"
    made = httpx.get(f"{buyer.api_url}/farebox/statements/{month}", headers=buyer.headers).json()["result"]
    charged = -made["movements_nanos"]["charged"]
    assert made["movements_nanos"]["granted"] == 5_000_000_000
    assert made["closing_nanos"] == buyer.balance.posted == 5_000_000_000 - charged
    assert [(line["provider"], line["calls"], line["charge_nanos"]) for line in made["usage"]] == [("demo", 1, charged)]
    assert made["final"] is False

    async def link() -> str:
        return statement_link(buyer.farebox.services, buyer.account_id, month)

    for url, headers in (
        (buyer.farebox.run(link()), {}),
        (f"{buyer.api_url}/farebox/documents/statement-{month}.pdf", buyer.headers),
    ):
        response = httpx.get(url, headers=headers)
        assert response.status_code == 200, response.text
        assert "Usage statement" in read_back(response.content).words
    assert httpx.get(f"{buyer.api_url}/farebox/statements/2099-01", headers=buyer.headers).status_code == 404
