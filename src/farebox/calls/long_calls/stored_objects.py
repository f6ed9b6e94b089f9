"""Calls about objects that a provider keeps under the operator's key: files, conversations, responses, batches.

Whether an object belongs to the account is looked up before the provider is called (calls.ownership). Lists are made
from what is recorded here about the account's own objects: the provider's lists would contain those of all accounts.
"""

from typing import Final
from urllib.parse import parse_qsl

import msgspec
from msgspec.structs import replace

from farebox.calls import operator_key
from farebox.calls.endings import FREE
from farebox.calls.long_calls.long_calls import LONG, check_ended, check_soon, long_call_of, process_description
from farebox.calls.long_calls.object_lists import list_page, page_of
from farebox.calls.long_calls.uploads import NOT_PASSED, URL_HEADER, upload_url
from farebox.calls.model import Call
from farebox.calls.ownership import (
    LISTED,
    as_shown,
    checked_references,
    created_object,
    description,
    find_owned,
    objects_of,
    with_key,
)
from farebox.calls.relaying.headers import passed_headers
from farebox.calls.relaying.relay import relay_response
from farebox.calls.relaying.whole import send_whole
from farebox.calls.settle import end_without_response
from farebox.calls.stages import Admitted, CallContext, Responded
from farebox.decoding import UnknownCoding
from farebox.errors import OBJECT_BUSY, OBJECTS_FULL, UPSTREAM_INVALID, Problem
from farebox.providers.batch_forms import may_be_output
from farebox.providers.decoding import decoded
from farebox.providers.descriptions import GOOGLE, facts_of
from farebox.providers.formats.base import Observed, Reference
from farebox.providers.objects import Kind, ObjectCall
from farebox.providers.predictions import is_large, settles_where_read
from farebox.providers.upstream import UpstreamFailed
from farebox.quoting import quoted
from farebox.runtime.services import Services
from farebox.storage.long_calls import open_long_calls
from farebox.storage.stored_objects import StoredObject, count_objects, forget_object, list_objects

DOCUMENT_MAX: Final = 16 * 2**20
"""Maximum bytes of an object's description."""
MOST: Final = {"conversation": 10_000, "video": 5_000, "cached_content": 1_000}
"""Maximum number of objects of a kind per account. All of an account's videos and caches are in its lists."""
_STEP: Final = 64 * 2**10


async def checked_objects(context: CallContext) -> CallContext:
    """As `checked_references`. Also raises Problem (OBJECTS_FULL) if the call creates a video or a cache and the
    account has the maximum."""
    call = context.call
    kept: tuple[Kind, ...] = ("video", "cached_content")
    for kind in kept:
        if getattr(call.format, "long_kind", "") == kind and call.method == "POST" and not call.own_key:
            await check_room(context.services, call, ObjectCall(kind, "create"))
    return await checked_references(context)


async def prepare_object(stage: Admitted, call: ObjectCall) -> Admitted | None:
    """The call as it goes to the provider; None if it has been answered already. Raises Problem,
    DatabaseUnavailable."""
    context = stage.context
    if call.does == "list":
        await _answer_list(stage, call)
        return None
    if call.does == "create":
        await check_room(context.services, context.call, call)
        return stage
    if call.does == "upload":
        begun = created_object(context.call, call.key_id, call.kind, "", 0)
        return replace(stage, context=replace(context, call=with_key(context.call, begun)))
    kept = await find_owned(context.services, context.call, Reference(call.kind, call.object_id))
    if call.does == "delete" and call.kind in LONG:
        await check_ended(context.services, kept.account_id, kept.provider, kept.object_id)
    if call.does == "delete" and call.kind == "file":
        await _check_read(context.services, kept)
    return replace(stage, context=replace(context, call=with_key(context.call, kept)))


async def pass_object(stage: Responded, call: ObjectCall) -> None:
    """Pass the response on, and record the objects that it describes. Raises Problem, DatabaseUnavailable."""
    status = stage.response.status
    if call.form == GOOGLE and call.kind == "file" and call.does in ("create", "upload") and status < 400:
        await _pass_upload(stage, call)
        return
    if status == 404 and call.does == "delete":
        await _forget(stage, call)
    large = is_large(stage.context.call.provider, call.kind)
    if status >= 400 or large or call.does == "content" or call.sub or _streams(stage.context.call):
        await relay_response(stage)
        await _look(stage, call, None)
        return
    headers, body = await document(stage)
    if call.does == "delete":
        await _forget(stage, call)
    else:
        await note(stage, call, body)
        await _look(stage, call, body)
    body = as_shown(stage.context.services, stage.context.call, body)
    await send_whole(stage, Observed(complete=True), headers, body)


async def _pass_upload(stage: Responded, call: ObjectCall) -> None:
    """Pass on Google's response to an upload; for the last piece, after recording who owns the file. Raises Problem,
    DatabaseUnavailable."""
    services, mine = stage.context.services, stage.context.call
    headers, body = await document(stage)
    passed = [(name, value) for name, value in headers if name not in NOT_PASSED]
    if call.does == "upload":
        await note(stage, call, body)
    else:
        url = next((value for name, value in headers if name == URL_HEADER), "")
        passed.append((URL_HEADER, upload_url(services, mine, stage.key_id, call.size, url)))
    await send_whole(stage, Observed(complete=True), passed, body)


async def _check_read(services: Services, kept: StoredObject) -> None:
    """The output of a batch must not be deleted before it is paid for. Raises Problem (OBJECT_BUSY)."""
    if not may_be_output(kept.provider, description(kept.content or b"{}")):
        return
    if await services.database.get(lambda connection: open_long_calls(connection, kept.account_id, "batch")):
        raise Problem(OBJECT_BUSY, f"{quoted(kept.object_id)} may belong to a batch that has not been paid for.")


async def _look(stage: Responded, call: ObjectCall, body: bytes | None) -> None:
    """If the object belongs to a long call: settle that if the body says that it has ended; if the response was a
    stream, schedule a look at it soon."""
    if call.kind not in LONG or call.sub or call.does not in ("read", "cancel") or stage.response.status >= 400:
        return
    services, mine = stage.context.services, stage.context.call
    long = await long_call_of(services, mine.account_id, mine.provider, call.object_id)
    if long is not None and body is not None and settles_where_read(mine.provider, call.kind):
        await process_description(services, long, body)
    elif long is not None:
        await check_soon(services, long)


async def check_room(services: Services, call: Call, about: ObjectCall) -> None:
    """Raises Problem (OBJECTS_FULL) if the account may have no more objects of this kind."""
    settings, now = services.settings, services.clock.now_ms()
    number, size = await services.database.get(
        lambda connection: count_objects(connection, call.account_id, about.kind, now)
    )
    most = settings.account_files_max if about.kind == "file" else MOST[about.kind]
    if number >= most:
        raise Problem(OBJECTS_FULL, f"The account has {number:,} objects of the kind `{about.kind}`, the maximum.")
    room = settings.account_files_bytes_max
    if about.kind == "file" and size + about.size > room:
        raise Problem(
            OBJECTS_FULL,
            f"The account's files have {size:,} bytes: this one's {about.size:,} would exceed the maximum of {room:,}.",
        )


async def note(stage: Responded, call: ObjectCall, body: bytes) -> None:
    """Record that the object belongs to the account, with the objects that it refers to. Raises Problem
    (UPSTREAM_INVALID) if its description cannot be read, because nobody could use the object then;
    DatabaseUnavailable."""
    context = stage.context
    described = description(body)
    facts = facts_of(context.call.provider, call.kind, described, body)
    if facts is None:
        if call.does != "create":
            return
        raise Problem(UPSTREAM_INVALID, f"{context.call.provider} did not return the ID of the object that it keeps.")
    objects = objects_of(context.services, context.call, stage.key_id, call.kind, described, facts, size=call.size)
    if call.does != "create" and call.kind not in LISTED:
        objects = objects[1:]
    if objects:
        await context.services.stored_objects.keep(objects)


async def document(stage: Responded) -> tuple[list[tuple[str, str]], bytes]:
    """Headers and body of a complete response, as they may be passed on. Raises Problem (UPSTREAM_INVALID)."""
    context = stage.context
    try:
        response = operator_key.without_key(context, decoded(stage.response))
    except UnknownCoding as coding:
        raise Problem(UPSTREAM_INVALID, f"The response is encoded as {quoted(str(coding))}.") from coding
    headers, _, content_type = passed_headers(response.headers, own_key=False)
    stage.logged.response_type = content_type
    chunks, size = [], 0
    try:
        with context.watch.waiting(context.services.settings.read_timeout_ms / 1000):
            while (chunk := await response.chunk()) is not None:
                context.watch.progress()
                size += len(chunk)
                if size > DOCUMENT_MAX or (size > _STEP and not context.sink.keep(len(chunk))):
                    raise Problem(UPSTREAM_INVALID, "The response is too large to be read.")
                chunks.append(chunk)
                stage.logged.keep(chunk)
    except UpstreamFailed as failure:
        raise Problem(UPSTREAM_INVALID, f"The response of {context.call.provider} broke off.") from failure
    finally:
        await response.close()
    return headers, b"".join(chunks)


def _streams(call: Call) -> bool:
    return dict(parse_qsl(call.url.partition("?")[2])).get("stream", "").lower() == "true"


async def _forget(stage: Responded, call: ObjectCall) -> None:
    context = stage.context
    kept = created_object(context.call, "", call.kind, call.object_id, 0)
    await context.services.database.write(lambda connection: forget_object(connection, kept))


async def _answer_list(stage: Admitted, call: ObjectCall) -> None:
    """Answer from what is recorded here. Raises Problem (INVALID_REQUEST, OBJECT_NOT_FOUND)."""
    context, stage.attempts.status = stage.context, 200
    services, mine = context.services, context.call
    found = await services.database.scan(
        lambda connection: list_objects(
            connection, mine.account_id, mine.gateway_id, mine.provider, call.kind, services.clock.now_ms()
        )
    )
    page = page_of(found, call, parse_qsl(mine.url.partition("?")[2]))
    body = list_page(page, call, [msgspec.Raw(as_shown(services, mine, kept.content or b"{}")) for kept in page.of])
    await end_without_response(stage, FREE)
    context.sink.respond(200, [("content-type", "application/json")], body)
