"""External text never becomes markup: in addresses and on pages."""

import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from farebox.billing.account_reports import MonthUsage
from farebox.calls.spending.spending_limit import LimitState
from farebox.http.pages import assets, render
from farebox.http.pages.routes import PAGE_ROWS
from farebox.http.pages.view import Details, Flash, View
from farebox.model import Account, Balance, Role
from farebox.payments.model import Card, Dispute, Refund, TopUp, TopUpRule
from farebox.payments.purchase import Tax, price_purchase
from farebox.payments.states import DISPUTE_STATES, REFUND_STATES, RULE_STATES, TOP_UP_STATES
from farebox.storage.call_reports import ModelUsage
from farebox.storage.spending import SpendingLimit
from farebox.storage.transfer_statement import TransferRow

NOW = 1_795_300_000_000
HOSTILE = """"><script>alert(1)</script><img src=x onerror=alert(1)>'&{{7*7}}</title></style>"""


@pytest.mark.parametrize(
    ("url", "linked"),
    [
        ("javascript:alert(1)", "#"),
        (" data:text/html,x", "#"),
        ("https://pay.example/?a=1&b=2", "https://pay.example/?a=1&b=2"),
        ("/billing", "/billing"),
    ],
)
def test_addresses(url: str, linked: str) -> None:
    assert render.address(url) == linked


_OWN_SCRIPTS = [f'<script type="module" src="{assets.address_of(name)}">' for name in ("app.js", "passkeys.js")]


class _Seen(HTMLParser):
    """The elements of a page, checking that they are closed properly."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "link", "input", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _read(page: bytes) -> _Seen:
    seen = _Seen()
    seen.feed(page.decode())
    seen.close()
    assert seen.open == []
    return seen


def _top_up(top_up_id: str, state: str, word: str) -> TopUp:
    return TopUp(
        account_id="a",
        top_up_id=top_up_id,
        kind="manual",
        state=state,
        credit_cents=5000,
        fee_cents=250,
        tax_cents=998,
        lines=b"{}",
        brand=word,
        last4=word,
        payment_id=f"in_{top_up_id}",
        action_url=f"javascript:{word}",
        error=word,
        created_at=NOW,
        updated_at=NOW,
    )


def _view(word: str, rule_state: str = "suspended") -> View:
    """A view with a value in every field, where every text is `word`."""
    card = Card(
        card_id=word,
        brand=word,
        last4=word,
        exp_month=1,
        exp_year=2026,
        fingerprint=word,
        is_default=True,
        created_at=1,
    )
    rule = TopUpRule(account_id="a", amount_cents=5000, threshold_cents=1000, monthly_cap_cents=20_000)
    other: dict[str, Any] = {"account_id": "a", "amount_cents": 6248, "credit_cents": 5000}
    other |= {"created_at": NOW, "updated_at": NOW}
    return View(
        account=Account("a", 1, word, NOW),
        now=NOW,
        balance=Balance(41_234_567_890, 250_000_000),
        owed=3_000_000_000,
        cards=[card, msgspec.structs.replace(card, card_id="other", is_default=False)],
        details=Details(name=word, email=word, address=word, country=word, tax_id=word),
        limits=(1000, 1_000_000),
        top_ups=[_top_up(state, state, word) for state in TOP_UP_STATES],
        rule=msgspec.structs.replace(rule, state=rule_state, reason=word, error=word, until=NOW),
        spending=LimitState(
            limit=SpendingLimit(10**11, "monthly", "fixed"), spent=10**10, held=1, window_start=NOW, window_end=None
        ),
        refunds=[
            Refund(refund_id=state, top_up_id="paid", processor_id=word, state=state, reason=word, **other)
            for state in REFUND_STATES
        ],
        disputes=[
            Dispute(dispute_id=word, top_up_id="paid", state=state, reason=word, **other) for state in DISPUTE_STATES
        ],
        transfers=[TransferRow(1, word, word, word, "credit", 1, word, NOW, word)],
        usage=MonthUsage(NOW, NOW, [ModelUsage(word, word, 1, 17_500)]),
        links={"in_paid": f"javascript:{word}", "succeeded": word},
        statement=word,
    )


def _framed(word: str, template: str, shown: Mapping[str, Any], flash: Flash | None = None) -> bytes:
    """A page in the frame of a signed-in user named `word`."""
    session = SimpleNamespace(account_name=word, frozen=False, sign_in=SimpleNamespace(email=word))
    visit = SimpleNamespace(csrf=word, place="", session=session, roles=frozenset((Role.OWNER,)), account_id=word)
    navigation = [(word, [row for row in PAGE_ROWS if row.label])]
    frame: dict[str, Any] = {
        "title": word,
        "heading": None,
        "flash": flash,
        "refresh": None,
        "visit": visit,
        "confirm": None,
    }
    frame |= {"refused": False, "operates": False}
    return render.page(template, frame | {"navigation": navigation, "here": ""} | dict(shown))


def _billing(view: View, flash: Flash | None = None) -> bytes:
    return _framed(view.account.name, "billing.html", render.billing(view), flash)


@pytest.mark.parametrize("rule_state", RULE_STATES)
def test_hostile_texts_stay_texts(rule_state: str) -> None:
    view = _view(HOSTILE, rule_state)
    purchase = price_purchase(5000, fee_ppm=50_000, fee_fixed_cents=30, tax=Tax(HOSTILE, 190_000))
    pages = [
        _billing(view, Flash("bad", HOSTILE)),
        _framed(HOSTILE, "quote.html", {"view": view, "purchase": purchase, "request_key": HOSTILE, "another": "x"}),
        *(_framed(HOSTILE, "under_way.html", {"top_up": top_up}) for top_up in view.top_ups),
        render.sign_in(HOSTILE, render.SignInMethods(email=True, passkey=True, single_sign_on=HOSTILE)),
        render.signed_out(HOSTILE),
        render.sign_in_mail_sent(HOSTILE, 15),
        render.not_signed_in(HOSTILE),
        render.done(Flash("warn", HOSTILE)),
        render.leave(f"https://pay.example/{HOSTILE}", HOSTILE),
        render.problem(HOSTILE, HOSTILE, expired=False),
    ]
    harmless = _read(_billing(_view("word", rule_state), Flash("bad", "word")))
    for page in pages:
        seen = _read(page)
        assert not seen.tags & {"img", "style", "iframe", "object"}
        assert re.findall(r"<script[^>]*>[^<]*", page.decode()) in (_OWN_SCRIPTS, _OWN_SCRIPTS[:1])
        assert not {name for name in seen.attributes if name.startswith("on") or name == "style"}
        assert b"javascript:" not in page.split(b"<main")[0]
        assert b'="javascript:' not in page
    reported = _read(pages[0])
    assert HOSTILE in reported.text
    assert (reported.tags, reported.attributes) == (harmless.tags, harmless.attributes)


def test_a_page_refreshes_only_while_credit_may_arrive() -> None:
    def refreshes(state: str, age_ms: int = 0) -> bool:
        top_up = msgspec.structs.replace(_top_up("x", state, "word"), created_at=NOW - age_ms)
        return b"http-equiv" in _billing(replace(_view("word"), top_ups=[top_up]))

    assert [state for state in TOP_UP_STATES if refreshes(state)] == [
        "requested",
        "submitting",
        "unknown",
        "processing",
    ]
    assert not refreshes("unknown", age_ms=121_000)  # the forms are in use


def test_without_payments_the_page_offers_none() -> None:
    page = _billing(replace(_view("word"), payments_on=False)).decode()
    assert "Payments are switched off" in page
    assert 'action="/billing/buy"' not in page
    assert 'action="/billing/limit"' in page
