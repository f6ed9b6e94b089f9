"""The owners of IDs that providers hand out under the operator's keys.

All accounts share the operator's key, and to a provider everything made with it belongs to the same customer. So an ID
in a request must have been handed out to the same account, through the same gateway. Any other ID is reported as not
found, before the provider is called and without a hold. With a key of the account's own, nothing is checked.
"""

from collections.abc import Iterable
from typing import Any, Final

import msgspec
import structlog
from msgspec.structs import replace

from farebox.calendar import DAY_MS
from farebox.calls.model import Call
from farebox.calls.stages import CallContext
from farebox.errors import NOT_METERED, OBJECT_NOT_FOUND, Problem
from farebox.gateway import gateway_path
from farebox.providers.batch_forms import RESULTS_URL
from farebox.providers.descriptions import Facts
from farebox.providers.formats import lenient
from farebox.providers.formats.base import InvalidRequest, Reference
from farebox.providers.formats.google_cache import SOUND, GoogleCache, GoogleCacheExtension, may_hold
from farebox.providers.formats.videos import OpenAIRemix
from farebox.providers.objects import handed_out
from farebox.providers.predictions import FORMS as PREDICTIONS
from farebox.providers.predictions import KINDS as POLLED
from farebox.providers.predictions import with_our_urls
from farebox.runtime.observers import best_effort
from farebox.runtime.services import Services
from farebox.storage.long_calls import LongCall
from farebox.storage.sql import DatabaseUnavailable
from farebox.storage.stored_objects import StoredObject

KEPT_DAYS: Final = 30
"""How long IDs of responses and their parts are remembered: as long as OpenAI keeps responses."""
LISTED: Final = ("file", "batch", "video", "cached_content")
"""Kinds of objects that have lists."""
CONTENT_MAX: Final = 16 * 2**10
"""Maximum bytes of an object's content that are stored for lists."""
REFERENCES_MAX: Final = 1_000
"""Maximum number of IDs in one request."""
_NAMES: Final = {
    "response": "Response with id {!r} not found.",
    "conversation": "Conversation with id {!r} not found.",
    "message": "Message with id {!r} not found.",
    "item": "Item with id {!r} not found.",
    "file": "No such File object: {}.",
    "batch": "No batch found with id {!r}.",
    "container": "Container with id {!r} not found.",
    "vector_store": "Vector store with id {!r} not found.",
    "cached_content": "Cached content {!r} not found.",
    "voice": "Voice with id {!r} not found.",
    "audio": "Audio with id {!r} not found.",
    "prediction": "Prediction with id {!r} not found.",
    "video": "Video with id {!r} not found.",
}
"""Worded like the provider's own error, so that it does not reveal whether another account has the object."""

log = structlog.get_logger("farebox.calls")


def not_found(kind: str, object_id: str) -> Problem:
    """The error for an ID that does not belong to the caller."""
    return Problem(OBJECT_NOT_FOUND, _NAMES[kind].format(object_id[:200]))


async def checked_references(context: CallContext) -> CallContext:
    """The call, with the key under which the objects that it refers to are kept. Raises Problem (OBJECT_NOT_FOUND),
    DatabaseUnavailable."""
    call = context.call
    references = call.object.references if call.object is not None else ()
    if call.parsed is not None:
        references = call.parsed.references
    if call.own_key or not references:
        return context
    if len(references) > REFERENCES_MAX:
        raise Problem(OBJECT_NOT_FOUND, f"The request refers to more than {REFERENCES_MAX} stored objects.")
    for reference in references:
        kept = await find_owned(context.services, call, reference)
        call = _like(with_key(call, kept), kept)
    return replace(context, call=call)


def _like(call: Call, kept: StoredObject) -> Call:
    """The call with the properties of a stored provider object that its price depends on. Raises Problem
    (OBJECT_NOT_FOUND, NOT_METERED)."""
    wire, parsed = call.format, call.parsed
    if isinstance(wire, GoogleCache) and kept.kind == "file" and not may_hold(description(kept.content or b"{}")):
        raise Problem(NOT_METERED, f"Not on the operator's key: {SOUND}.")
    if not isinstance(wire, OpenAIRemix | GoogleCacheExtension) or parsed is None or kept.kind != wire.long_kind:
        return call
    try:
        return replace(call, parsed=wire.of_source(parsed, kept.content or b"{}"))
    except InvalidRequest as unknown:  # the object is older than the recording of its properties
        raise not_found(kept.kind, kept.object_id) from unknown


async def find_owned(services: Services, call: Call, reference: Reference) -> StoredObject:
    """The object that the call refers to. Raises Problem (OBJECT_NOT_FOUND), DatabaseUnavailable."""
    kind, object_id = reference
    kept = await services.stored_objects.find(
        call.account_id, call.gateway_id, call.provider, kind, object_id, services.clock.now_ms()
    )
    if kept is None:
        raise not_found(kind, object_id)
    return kept


def with_key(call: Call, kept: StoredObject) -> Call:
    """The call with the key that created the object, if the operator has several: the object is unknown under any other
    key."""
    for key in call.keys:
        if key.key_id == kept.key_id:
            return replace(
                call,
                keys=(),
                key_id=key.key_id,
                headers=key.headers,
                sent_head=key.sent_head,
                signing=key.signing,
            )
    return call


async def keep_handed_out(services: Services, call: Call, key_id: str, handed_out: Iterable[Reference]) -> None:
    """Record that these objects belong to the account. If the database is unavailable, they will not be found later,
    but the response, which has been paid for, is still passed on."""
    now = services.clock.now_ms()
    objects = [created_object(call, key_id, kind, object_id, now, KEPT_DAYS * DAY_MS) for kind, object_id in handed_out]
    try:
        await services.stored_objects.keep(objects)
    except DatabaseUnavailable as error:
        services.database.report_failure(error)
        with best_effort("the log"):
            log.warning("ids not recorded", log_id=call.log_id, provider=call.provider, why=str(error))


def created_object(
    call: Call | LongCall,
    key_id: str,
    kind: str,
    object_id: str,
    at: int,
    keep_ms: int | None = None,
    *,
    size: int = 0,
    content: bytes | None = None,
) -> StoredObject:
    """An object created by the call."""
    expires_at = None if keep_ms is None else at + keep_ms
    return StoredObject(
        call.account_id, call.gateway_id, call.provider, kind, object_id, key_id, at, expires_at, size, content
    )


def objects_of(
    services: Services,
    call: Call | LongCall,
    key_id: str,
    kind: str,
    described: dict[str, Any],
    facts: Facts,
    *,
    size: int = 0,
) -> list[StoredObject]:
    """The object with this description, and the objects that it refers to."""
    now = services.clock.now_ms()
    listed = kind in LISTED and 0 < len(facts.shown) <= CONTENT_MAX
    keep_ms = None if facts.expires_at is None else max(facts.expires_at - now, 0)
    if keep_ms is None and kind in ("batch", "response", *POLLED):
        keep_ms = KEPT_DAYS * DAY_MS
    size, content = size if facts.size is None else facts.size, facts.shown if listed else None
    own = created_object(call, key_id, kind, facts.object_id, now, keep_ms, size=size, content=content)
    return [
        own,
        *(created_object(call, key_id, other, other_id, now) for other, other_id in handed_out(kind, described)),
    ]


def as_shown(services: Services, call: Call, described: bytes) -> bytes:
    """A description as it is passed on: the URLs at which a batch of Anthropic's has its results, and a prediction its
    state, are replaced by ours."""
    base = f"{services.base_url}{gateway_path(call.account_id, call.gateway_id)}/{call.provider}"
    if (call.provider, "prediction") in PREDICTIONS:
        return with_our_urls(call.provider, base, call.path, described)
    if call.object is None or (call.object.kind, call.object.form) != ("batch", "anthropic"):
        return described
    found = description(described)
    if not isinstance(found.get(RESULTS_URL), str):
        return described
    path = f"v1/messages/batches/{found.get('id')}/results"
    found[RESULTS_URL] = f"{base}/{path}"
    return msgspec.json.encode(found)


def description(body: bytes) -> dict[str, Any]:
    """The JSON object in the body; empty if there is none."""
    try:
        found = msgspec.json.decode(body)
    except (ValueError, RecursionError):  # `NaN` or a huge number must not hide that the work has ended
        found = _leniently(body)
    return found if isinstance(found, dict) else {}


def _leniently(body: bytes) -> object:
    try:
        return lenient.parsed(body) if len(body) <= lenient.LENIENT_BYTES_MAX else {}
    except (ValueError, RecursionError):
        return {}
