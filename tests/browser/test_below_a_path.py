"""A purchase with Farebox under a path of a larger site, behind nginx."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Owner, Watch
from tests.hostile.test_public_path import below_a_path
from tests.support import Farebox

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[False, True], ids=["passed on", "taken off"])
def below(request: pytest.FixtureRequest, engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    with below_a_path(tmp_path_factory.mktemp("below"), taken_off=request.param) as served:
        yield served


def test_the_owner_walks_through_a_purchase(below: Farebox, page: Page, watch: Watch) -> None:
    owner = Owner(below, page, watch).open()
    owner.save_card()
    owner.sees("The card is saved.")
    owner.buy("20")
    owner.has("20.00")
    owner.switch_on(threshold="10", amount="20")
    expect(page).to_have_url(f"{below.url}/billing")
    owner.call()
    page.get_by_role("link", name="Invoice").first.click()
    page.go_back()
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(f"{below.url}/ui/signed-out")
