"""The calls that read charges and the balance."""

from collections import Counter

from fake_stripe import payment_intents
from fake_stripe.errors import Json, refused
from fake_stripe.listing import page
from fake_stripe.params import Params, merge_metadata, update_fields
from fake_stripe.search import search
from fake_stripe.world import World


def retrieve(world: World, params: Params, charge_id: str) -> Json:
    return world.store.get("charge", charge_id)


def update(world: World, params: Params, charge_id: str) -> Json:
    charge = world.store.get("charge", charge_id)
    before = world.snapshot(charge)
    merge_metadata(charge, params)
    update_fields(charge, params, "description", "receipt_email", "shipping", "transfer_group", "fraud_details")
    world.emit("charge.updated", charge, before)
    return charge


def capture(world: World, params: Params, charge_id: str) -> Json:
    charge = world.store.get("charge", charge_id)
    if charge["captured"] or charge["status"] != "succeeded":
        raise refused(f"Charge {charge_id} has already been captured, or has failed.", code="charge_already_captured")
    values = {"amount_to_capture": params.text("amount") or str(charge["amount"])}
    payment_intents.capture(world, Params(values), charge["payment_intent"])
    return charge


def list_all(world: World, params: Params) -> Json:
    return page(world.store.newest("charge"), params, "/v1/charges", "customer", "payment_intent")


def search_all(world: World, params: Params) -> Json:
    return search(world.store.newest("charge"), params, "/v1/charges/search")


def balance(world: World, params: Params) -> Json:
    sums: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    now = world.now()
    for transaction in world.store.all("balance_transaction"):
        sums[transaction["available_on"] <= now][transaction["currency"]] += transaction["net"]
    currencies = sorted({"usd", *sums[True], *sums[False]})

    def shown(available: bool) -> list[Json]:
        return [
            {"amount": sums[available][name], "currency": name, "source_types": {"card": sums[available][name]}}
            for name in currencies
        ]

    return {"object": "balance", "available": shown(True), "livemode": False, "pending": shown(False)}


def retrieve_balance_entry(world: World, params: Params, transaction_id: str) -> Json:
    return _aged(world, world.store.get("balance_transaction", transaction_id))


def list_balance_entries(world: World, params: Params) -> Json:
    names = ("source", "type", "currency")
    transactions = (_aged(world, known) for known in world.store.newest("balance_transaction"))
    return page(transactions, params, "/v1/balance_transactions", *names)


def _aged(world: World, transaction: Json) -> Json:
    """The transaction with its current status."""
    if transaction["available_on"] <= world.now():
        transaction["status"] = "available"
    return transaction
