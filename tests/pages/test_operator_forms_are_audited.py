"""Every form of the operator's pages leaves a row in the audit log: who, what, and the state before and after.

The forms are those of the table; a new one fails until it says here which action it is.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pytest

from farebox.http.pages.routes import FORM_ROWS
from farebox.http.pages.table import OPERATOR
from farebox.identity import membership
from farebox.identity.sessions import LinkHolder
from farebox.model import Role
from farebox.operator.long_reports import latest as latest_report
from farebox.storage.deliveries import add_delivery
from farebox.storage.findings import Finding, add_finding
from farebox.storage.notices import add_notice
from farebox.storage.operator_actions import OperatorAction, list_actions
from farebox.storage.operator_alarms import Alarm, put_alarm
from farebox.storage.sql import Connection
from tests.engines import ON_BOTH_ENGINES
from tests.http.support import save_card
from tests.pages.people import Person, person
from tests.support import Customer, Farebox, running_farebox
from tests.waiting import pauses

pytestmark = ON_BOTH_ENGINES
WHO = "auditor@operators.example"


@dataclass
class Place:
    """An account with something for each form, and its names."""

    farebox: Farebox
    customer: Customer
    operator: Person
    top_up: str


Sent = tuple[str, Callable[[Place], Mapping[str, str]], str]
"""The action, the form's fields, and the states that there are: before, after."""


def _finding(place: Place) -> Mapping[str, str]:
    """The fields of a finding that is open."""
    name = f"audited:{place.farebox.services.ids.log_id()}"
    finding = Finding(
        finding_id=name, kind="test", account_id=place.customer.account_id, amount_cents=-100, detail="x", found_at=1
    )
    place.farebox.run(place.farebox.services.database.write(lambda connection: add_finding(connection, finding)))
    return {"finding": name, "seen": "-100"}


def _notice(place: Place) -> Mapping[str, str]:
    account_id, database = place.customer.account_id, place.farebox.services.database

    def add(connection: Connection) -> None:
        add_notice(connection, 0, account_id, "audited", "low_balance", {}, 1)
        add_delivery(connection, 0, account_id, "audited", "we_1", 1)
        connection.execute("UPDATE deliveries SET next_at = NULL WHERE account_id = ?", (account_id,))

    place.farebox.run(database.write(add))
    return {"of": account_id, "message": "audited"}


def _alarm(place: Place) -> Mapping[str, str]:
    alarm = Alarm(kind="overrun", about=place.customer.account_id, content={}, first_at=1, last_at=1)
    place.farebox.run(place.farebox.services.database.write(lambda connection: put_alarm(connection, alarm)))
    return {"kind": "overrun", "about": place.customer.account_id}


def _price(place: Place) -> Mapping[str, str]:
    scope = {"provider": "demo", "model": "audited", "account": place.customer.account_id, "do": "set"}
    return scope | {"input_mtok": "1", "output_mtok": "2", "percent": "5"}


def _given(**fields: str) -> Callable[[Place], Mapping[str, str]]:
    return lambda _: fields


CORRECTION = {"direction": "take", "amount": "1", "reason": "why"}
KEY = {"provider": "groq", "api_key": "sk-0123456789abcdef"}
ACTS: dict[str, Sent] = {
    "/ui/accounts": ("account.create", _given(name="Audited"), "after"),
    "/ui/accounts/{account_id}/grant": ("credit.grant", _given(amount="2", note="why"), "before after"),
    "/ui/accounts/{account_id}/correct": ("credit.correct", _given(**CORRECTION), "before after"),
    "/ui/accounts/{account_id}/refund": (
        "credit.refund", lambda place: CORRECTION | {"top_up": place.top_up}, "after",
    ),
    "/ui/accounts/{account_id}/freeze": ("account.freeze", _given(do="freeze", reason="why"), "before after"),
    "/ui/accounts/{account_id}/link": ("link.create", _given(role="viewer"), "after"),
    "/ui/money/accept": ("finding.accept", lambda place: {**_finding(place), "note": "why"}, "before after"),
    "/ui/money/correct": ("finding.correct", lambda place: {**_finding(place), **CORRECTION}, "before after"),
    "/ui/prices": ("price.set", _price, "after"),
    "/ui/prices/markup": ("markup.set", _price, "after"),
    "/ui/margins": ("report.begin", _given(), ""),
    "/ui/check": ("report.begin", _given(), ""),
    "/ui/provider-keys": ("provider.set", _given(**KEY), "after"),
    "/ui/provider-keys/key": ("provider_key.set", _given(**KEY, name="second", weight="1"), "after"),
    "/ui/provider-keys/key/remove": ("provider_key.remove", _given(provider="groq", name="second"), "before"),
    "/ui/messages": ("message.resend", _notice, "after"),
    "/ui/messages/failed": ("message.resend", _notice, "after"),
    "/ui/system/alarm": ("alarm.resolve", _alarm, "before"),
}  # fmt: skip
"""By the path of the form, in an order in which they can be sent."""
READING = {"/ui/provider-keys/credit"}
"""Forms that change nothing here: they ask others."""


@pytest.fixture(scope="module")
def farebox(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    """A server of its own: its messages and keys are nobody else's."""
    with running_farebox(tmp_path_factory.mktemp("audited")) as served:
        yield served


@pytest.fixture(scope="module")
def place(farebox: Farebox) -> Place:
    farebox.run(membership.add(farebox.services, "", WHO, Role.OPERATOR))
    customer, operator = farebox.funded("5"), Person(farebox, LinkHolder(email=WHO))
    owner = person(farebox, Role.OWNER, customer.account_id)
    owner.submit("/billing/buy", amount="20", card=save_card(customer), request_key="audited" * 3)
    page = operator.get(f"/ui/accounts/{customer.account_id}").text
    top_up = re.search(r'name="top_up" value="([^"]+)"', page)
    assert top_up is not None
    return Place(farebox, customer, operator, top_up[1])


def test_every_form_of_the_operator_s_is_known() -> None:
    assert {form.path for form in FORM_ROWS if form.roles == OPERATOR} == ACTS.keys() | READING


def test_every_form_of_the_operator_s_is_in_the_audit_log(place: Place) -> None:
    for path, (action, fields, states) in ACTS.items():
        earlier = _latest(place.farebox).number
        sent = place.operator.send(path.format(account_id=place.customer.account_id), **fields(place))
        assert sent.status_code in (200, 303), (path, sent.text)
        found = _latest(place.farebox)
        assert found.number > earlier, f"{path} left nothing in the audit log"
        assert (found.act, found.who, found.way) == (action, WHO, "page"), path
        stated = {"before": found.before, "after": found.after}
        assert [name for name, text in stated.items() if text is not None] == states.split(), path
        assert not any("sk-0123456789abcdef" in (text or "") for text in (found.before, found.after)), path
        assert all(text is None or isinstance(json.loads(text), dict) for text in (found.before, found.after))
        assert action in place.operator.get("/ui/audit").text
        _wait_for_reports(place.farebox)


def _latest(farebox: Farebox) -> OperatorAction:
    found = farebox.run(farebox.services.database.scan(lambda connection: list_actions(connection, limit=1)))
    return found[0] if found else OperatorAction(0, 0, "", "", "", "", "", None, None, "")


def _wait_for_reports(farebox: Farebox) -> None:
    """One runs at a time."""
    for kind in ("margins", "check"):
        for pause in pauses(f"the report {kind} ends"):
            row, _ = farebox.run(latest_report(farebox.services, kind))
            if row is None or row.state != "running":
                break
            time.sleep(pause)
