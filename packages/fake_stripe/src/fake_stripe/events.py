"""The event and webhook endpoint calls."""

from collections.abc import Iterator
from fnmatch import fnmatchcase

from fake_stripe.errors import Json, invalid
from fake_stripe.listing import page
from fake_stripe.object_fields import stripe_object
from fake_stripe.params import Params, merge_metadata, new_metadata, update_fields
from fake_stripe.world import API_VERSION, World, random_text

DEFAULT_ENDPOINT = "we_default"
"""ID of the endpoint that is given when the fake is started."""


def list_all(world: World, params: Params) -> Json:
    world.forget_old_events()
    return page(_chosen(world, params), params, "/v1/events")


def _chosen(world: World, params: Params) -> Iterator[Json]:
    types, kind, delivered = params.texts("types"), params.text("type"), params.flag("delivery_success")
    if types and kind:
        raise invalid("You may not pass both `type` and `types`.", param="types")
    if len(types) > 20:
        raise invalid("You may pass up to 20 types.", param="types")
    for event in world.store.newest("event"):
        if types and event["type"] not in types:
            continue
        if kind is not None and not fnmatchcase(event["type"], kind):
            continue
        if delivered is not None and _delivered(event) is not delivered:
            continue
        yield event


def _delivered(event: Json) -> bool:
    """Whether no endpoint still waits for the event, or failed to accept it."""
    return all(send["state"] == "done" for send in event["_sends"].values())


def retrieve(world: World, params: Params, event_id: str) -> Json:
    return world.store.get("event", event_id)


def create_endpoint(world: World, params: Params) -> Json:
    endpoint = new_endpoint(world, params.need("url"), params.texts("enabled_events"), f"whsec_{random_text(32)}")
    if not endpoint["enabled_events"]:
        raise invalid("Missing required param: enabled_events.", param="enabled_events", code="parameter_missing")
    update_fields(endpoint, params, "description", "api_version")
    endpoint["metadata"] = new_metadata(params)
    world.store.add(endpoint)
    return endpoint | {"secret": endpoint["_secret"]}


def new_endpoint(world: World, url: str, types: list[str], secret: str, endpoint_id: str | None = None) -> Json:
    """An endpoint; not yet stored. Raises StripeError if the URL is invalid."""
    if not url.startswith(("http://", "https://")):
        raise invalid(
            "Invalid URL: An explicit scheme (such as https) must be provided.", param="url", code="url_invalid"
        )
    return stripe_object(
        "webhook_endpoint",
        id=endpoint_id or world.new_id("we"),
        api_version=API_VERSION,
        created=world.now(),
        enabled_events=types,
        metadata={},
        status="enabled",
        url=url,
        _secret=secret,
    )


def retrieve_endpoint(world: World, params: Params, endpoint_id: str) -> Json:
    return world.store.get("webhook_endpoint", endpoint_id)


def update_endpoint(world: World, params: Params, endpoint_id: str) -> Json:
    endpoint = world.store.get("webhook_endpoint", endpoint_id)
    merge_metadata(endpoint, params)
    update_fields(endpoint, params, "description", "url")
    endpoint["enabled_events"] = params.texts("enabled_events") or endpoint["enabled_events"]
    disabled = params.flag("disabled")
    if disabled is not None:
        endpoint["status"] = "disabled" if disabled else "enabled"
    return endpoint


def delete_endpoint(world: World, params: Params, endpoint_id: str) -> Json:
    endpoint = world.store.get("webhook_endpoint", endpoint_id)
    world.store.remove(endpoint)
    return {"id": endpoint_id, "object": "webhook_endpoint", "deleted": True}


def list_endpoints(world: World, params: Params) -> Json:
    return page(world.store.newest("webhook_endpoint"), params, "/v1/webhook_endpoints")
