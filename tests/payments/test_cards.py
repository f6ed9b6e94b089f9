"""Saved cards: their order, one default, separate by account; and the billing profile."""

import dataclasses
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from farebox.billing import cards, processor_events
from farebox.errors import NOT_FOUND, PAYMENTS_OFF, PROCESSOR_REFUSED, PROCESSOR_UNAVAILABLE, VALIDATION_FAILED, Problem
from farebox.money import NANOS_PER_CENT
from farebox.payments.model import Card
from farebox.payments.stripe import StripeProcessor
from farebox.storage import customers as store
from farebox.storage.customers import CustomerProfile, default_card, find_card
from farebox.storage.sql import row
from tests.payments.kit import WAIT_SECONDS, Shop, open_shop
from tests.payments.stripe_kit import FORM, local_client

BACK = {"success_url": "http://shop.example/ok", "cancel_url": "http://shop.example/no"}


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with open_shop(tmp_path) as opened:
        await opened.open_account(card=None)
        yield opened


async def save(shop: Shop, number: str = "4242424242424242") -> str:
    """Save a card like the owner, on the hosted page, from which the browser returns; the checkout."""
    shop.clock.advance(1_000)
    page = await cards.open_setup(shop.services, shop.account, **BACK)
    assert page.url is not None
    done = await shop.http.post(page.url, data={**FORM, "card-number": number})
    assert done.status_code == 303, done.text
    await processor_events.note_checkout(shop.services, page.checkout_id, account_id=shop.account)
    return page.checkout_id


def last4(found: list[Card]) -> list[str]:
    """The last digits of the cards; the default is first and has a star."""
    return [card.last4 + ("*" if card.is_default else "") for card in found]


async def at_stripe(shop: Shop) -> list[str]:
    customer = await cards.customer_of(shop.services, shop.account)
    assert shop.services.processor is not None
    found = await shop.services.processor.cards(customer)
    return last4(sorted(found, key=lambda card: not card.is_default))


async def test_the_first_card_is_the_default(shop: Shop) -> None:
    assert await cards.cards(shop.services, shop.account) == []
    assert shop.read(partial(default_card, account_id=shop.account)) is None
    await save(shop)
    card = shop.read(partial(default_card, account_id=shop.account))
    assert card is not None
    assert (card.brand, card.last4, card.exp_month, card.exp_year) == ("visa", "4242", 12, 2034)
    assert await at_stripe(shop) == ["4242*"]


async def test_a_card_saved_later_becomes_the_default_once(shop: Shop) -> None:
    await save(shop)
    first = shop.read(partial(default_card, account_id=shop.account))
    assert first is not None
    checkout_id = await save(shop, "5555555555554444")
    assert last4(await cards.cards(shop.services, shop.account)) == ["4444*", "4242"]
    await cards.set_default(shop.services, shop.account, first.card_id)
    await processor_events.note_checkout(shop.services, checkout_id)  # a late event does not undo the owner's choice
    assert last4(await cards.cards(shop.services, shop.account)) == ["4242*", "4444"]
    assert await at_stripe(shop) == ["4242*", "4444"]


async def test_the_only_card_becomes_the_default(shop: Shop) -> None:
    customer = await cards.customer_of(shop.services, shop.account)
    await shop.stripe("payment_methods/pm_card_visa/attach", customer=customer)
    assert last4(await cards.refresh(shop.services, shop.account)) == ["4242*"]
    assert await at_stripe(shop) == ["4242*"]


async def test_with_two_cards_none_is_chosen_as_default(shop: Shop) -> None:
    customer = await cards.customer_of(shop.services, shop.account)
    for token in ("pm_card_visa", "pm_card_mastercard"):
        await shop.stripe(f"payment_methods/{token}/attach", customer=customer)
    assert shop.read(partial(default_card, account_id=shop.account)) is None
    assert "*" not in "".join(last4(await cards.refresh(shop.services, shop.account)))


async def test_the_same_card_saved_again_replaces_the_older_one(shop: Shop) -> None:
    await save(shop)
    old = shop.read(partial(default_card, account_id=shop.account))
    await save(shop)
    new = shop.read(partial(default_card, account_id=shop.account))
    assert old is not None
    assert new is not None
    assert old.card_id != new.card_id
    assert old.fingerprint == new.fingerprint
    assert last4(await cards.cards(shop.services, shop.account)) == ["4242*"]
    assert await at_stripe(shop) == ["4242*"]


async def test_a_copy_that_is_about_to_be_charged_stays_until_then(shop: Shop) -> None:
    await shop.save_card("pm_card_visa", behave="authentication_required")
    waiting = await shop.buy(5_000)
    assert waiting.state == "action_required"
    await save(shop)
    assert len(await cards.cards(shop.services, shop.account)) == 2
    await shop.change(lambda c: c.execute("UPDATE top_ups SET state = 'canceled', next_at = NULL"))
    assert last4(await cards.refresh(shop.services, shop.account)) == ["4242*"]


async def test_a_copy_is_removed_only_once_no_purchase_can_choose_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await save(shop)
    processor: Any = shop.services.processor
    remove, chosen = processor.remove_card, list[Card | None]()

    async def look_and_remove(card_id: str) -> None:
        chosen.append(shop.read(partial(find_card, account_id=shop.account, card_id=card_id)))
        await remove(card_id)

    monkeypatch.setattr(processor, "remove_card", look_and_remove)
    await save(shop)
    assert (chosen, await at_stripe(shop)) == ([None], ["4242*"])


async def test_removing_the_default_chooses_another_or_none(shop: Shop) -> None:
    await save(shop)
    await save(shop, "5555555555554444")
    first, second = await cards.cards(shop.services, shop.account)
    assert last4(await cards.remove(shop.services, shop.account, first.card_id)) == ["4242*"]
    assert await at_stripe(shop) == ["4242*"]
    assert await cards.remove(shop.services, shop.account, second.card_id) == []
    assert shop.read(partial(default_card, account_id=shop.account)) is None
    assert await at_stripe(shop) == []


async def test_removing_another_card_leaves_the_default(shop: Shop) -> None:
    await save(shop)
    await save(shop, "5555555555554444")
    other = (await cards.cards(shop.services, shop.account))[1]
    assert last4(await cards.remove(shop.services, shop.account, other.card_id)) == ["4444*"]


async def test_cards_of_other_accounts_are_not_found(shop: Shop) -> None:
    await save(shop)
    theirs = shop.read(partial(default_card, account_id=shop.account))
    owner = shop.account
    assert theirs is not None
    await shop.open_account(card=None)
    await save(shop, "5555555555554444")
    await shop.http.delete("/_fake/requests")
    for act in (cards.set_default, cards.remove):
        with pytest.raises(Problem) as problem:
            await act(shop.services, shop.account, theirs.card_id)
        assert problem.value.kind is NOT_FOUND
    requests = (await shop.http.get("/_fake/requests")).json()["requests"]
    assert [item for item in requests if item["method"] == "POST"] == []
    assert last4(await cards.cards(shop.services, shop.account)) == ["4444*"]
    assert last4(await cards.cards(shop.services, owner)) == ["4242*"]


async def test_a_page_of_another_account_is_not_found(shop: Shop) -> None:
    checkout_id = await save(shop)
    await shop.open_account(card=None)
    for name in (checkout_id, "cs_nothing"):
        with pytest.raises(Problem) as problem:
            await processor_events.note_checkout(shop.services, name, account_id=shop.account)
        assert problem.value.kind is NOT_FOUND


async def test_a_page_that_cannot_be_fetched_is_not_called_missing(shop: Shop) -> None:
    checkout_id = await save(shop)
    base = shop.services.settings.stripe_api_base
    wrong = StripeProcessor("no key", webhook_secret="", api_base=base, http_client=local_client(WAIT_SECONDS))
    services = dataclasses.replace(shop.services, processor=wrong)
    with pytest.raises(Problem) as problem:
        await processor_events.note_checkout(services, checkout_id, account_id=shop.account)
    assert problem.value.kind is PROCESSOR_REFUSED
    await wrong.close()


async def test_an_account_has_one_customer_despite_repeats(shop: Shop) -> None:
    await shop.fault("POST /v1/customers", "timeout_after_commit")
    with pytest.raises(Problem) as problem:
        await cards.customer_of(shop.services, shop.account)
    assert problem.value.kind is PROCESSOR_UNAVAILABLE
    assert problem.value.retry_after
    first = await cards.customer_of(shop.services, shop.account)
    assert await cards.customer_of(shop.services, shop.account) == first
    await shop.change(lambda c: c.execute("DELETE FROM customers WHERE account_id = ?", (shop.account,)))
    assert await cards.customer_of(shop.services, shop.account) == first  # as after a crash before it was stored


async def test_a_stale_response_changes_nothing(shop: Shop) -> None:
    await save(shop)
    now = shop.clock.at
    before = await cards.cards(shop.services, shop.account)
    account = shop.account
    assert not await shop.change(lambda c: store.replace_cards(c, account, [], requested_at=now - 60_000))
    assert await cards.cards(shop.services, shop.account) == before
    assert await shop.change(lambda c: store.replace_cards(c, account, [], requested_at=now))
    assert await cards.cards(shop.services, shop.account) == []


async def test_another_card_lifts_a_suspension_in_the_same_commit(shop: Shop) -> None:
    await shop.save_card("pm_card_visa", behave="lost_card")
    await shop.grant(100)
    await shop.set_rule(amount=1_000, threshold=500)
    await shop.work(3)
    assert shop.rule.state == "suspended"
    await cards.refresh(shop.services, shop.account)
    assert shop.rule.state == "suspended"
    await save(shop, "5555555555554444")
    assert shop.rule.state == "active"


async def test_without_payments_there_are_no_cards_to_save(shop: Shop) -> None:
    import dataclasses

    off = dataclasses.replace(shop.services, processor=None)
    assert await cards.cards(off, shop.account) == []
    for requested in (
        cards.customer_of(off, shop.account),
        cards.refresh(off, shop.account),
        cards.open_setup(off, shop.account, **BACK),
        cards.set_default(off, shop.account, "pm_1"),
        cards.remove(off, shop.account, "pm_1"),
    ):
        with pytest.raises(Problem) as problem:
            await requested
        assert problem.value.kind is PAYMENTS_OFF


# --- profile ----------------------------------------------------------------------------------------------------------


def low(shop: Shop) -> tuple[int | None, int]:
    found = shop.read(
        lambda c: row(c, "SELECT low_below, low_told FROM balances WHERE account_id = ?", (shop.account,))
    )
    assert found is not None
    return found[0], found[1]


async def test_a_profile_is_stored_completely(shop: Shop) -> None:
    assert await cards.profile(shop.services, shop.account) == CustomerProfile()
    wanted = CustomerProfile(
        name=" Acme GmbH ",
        email="bills@acme.example",
        address="Street 1\n12345 Town",
        country="de",
        tax_id="DE123456789",
        top_up_min_cents=2_000,
        top_up_max_cents=50_000,
        low_balance_cents=1_000,
    )
    kept = msgspec.structs.replace(wanted, name="Acme GmbH", country="DE")
    assert await cards.set_profile(shop.services, shop.account, wanted) == kept
    assert await cards.profile(shop.services, shop.account) == kept


async def test_the_low_balance_notice_repeats_only_if_the_threshold_changes(shop: Shop) -> None:
    await cards.set_profile(shop.services, shop.account, CustomerProfile(low_balance_cents=300))
    assert low(shop) == (300 * NANOS_PER_CENT, 0)
    await shop.change(lambda c: c.execute("UPDATE balances SET low_told = 1"))
    await cards.set_profile(shop.services, shop.account, CustomerProfile(name="Acme", low_balance_cents=300))
    assert low(shop) == (300 * NANOS_PER_CENT, 1)
    await cards.set_profile(shop.services, shop.account, CustomerProfile(low_balance_cents=400))
    assert low(shop) == (400 * NANOS_PER_CENT, 0)


async def test_a_paying_account_has_the_operators_threshold_unless_it_sets_its_own(tmp_path: Path) -> None:
    async with open_shop(tmp_path, low_balance_cents=250) as shop:
        assert low(shop) == (250 * NANOS_PER_CENT, 0)
        await shop.open_account(card=None)
        await cards.set_profile(shop.services, shop.account, CustomerProfile(low_balance_cents=0))
        await cards.customer_of(shop.services, shop.account)
        assert low(shop) == (0, 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("email", "nobody"),
        ("country", "Germany"),
        ("country", "D1"),
        ("name", "a\nb"),
        ("name", "x" * 1001),
        ("top_up_min_cents", 49),
        ("top_up_max_cents", 100_000_000),
        ("top_up_max_cents", 500),  # below the minimum
        ("low_balance_cents", -1),
    ],
)
async def test_a_wrong_field_is_named(shop: Shop, field: str, value: object) -> None:
    with pytest.raises(Problem) as problem:
        await cards.set_profile(
            shop.services, shop.account, msgspec.structs.replace(CustomerProfile(), **{field: value})
        )
    assert problem.value.kind is VALIDATION_FAILED
    assert problem.value.path is not None
    assert problem.value.path[0] == "body"
    if value != 500:
        assert problem.value.path == ("body", field)
    assert await cards.profile(shop.services, shop.account) == CustomerProfile()
