"""Objects kept under the operator's key belong to the account and gateway that created them. To all others they do not
exist, in paths or as input, and the provider is not even called."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from farebox.operator.shared_keys import remove_key, set_key
from farebox.periodic_jobs import _forget_objects
from farebox.providers.formats.openai_chat import OpenAIChat
from farebox.providers.formats.references import references_in
from farebox.storage.sql import Connection, rows
from tests.calls.kit import differences, forget, set_gateway
from tests.clouds.kit import charged, free
from tests.engines import ON_BOTH_ENGINES, TESTER, looking
from tests.long_calls.openai_objects import COST, OpenAIObjects
from tests.sdks import openai
from tests.support import Customer, Farebox

pytestmark = ON_BOTH_ENGINES

MODEL = "gpt-4o-mini"
TEXT = "Hello there " * 500


class Case(NamedTuple):
    """An operation on a stored provider object."""

    kind: str
    name: str
    does: Callable[[openai.OpenAI, str], Any]


def _ask(client: openai.OpenAI, **more: Any) -> Any:
    return client.responses.create(model=MODEL, **{"input": TEXT, "max_output_tokens": 200, **more})


def _chat(client: openai.OpenAI, *parts: Any) -> Any:
    messages: Any = [{"role": "user", "content": [{"type": "text", "text": TEXT}, *parts]}]
    return client.chat.completions.create(model=MODEL, messages=messages, max_tokens=20)


def _parts(*parts: Any) -> Any:
    return [{"role": "user", "content": [{"type": "input_text", "text": TEXT}, *parts]}]


CASES = (
    Case("response", "retrieve", lambda client, id: client.responses.retrieve(id)),
    Case("response", "input_items", lambda client, id: list(client.responses.input_items.list(id))),
    Case("response", "cancel", lambda client, id: client.responses.cancel(id)),
    Case("response", "delete", lambda client, id: client.responses.delete(id)),
    Case("response", "previous", lambda client, id: _ask(client, previous_response_id=id)),
    Case("response", "compact", lambda client, id: client.responses.compact(model=MODEL, previous_response_id=id)),
    Case(
        "response",
        "count",
        lambda client, id: client.responses.input_tokens.count(model=MODEL, previous_response_id=id),
    ),
    Case("conversation", "retrieve", lambda client, id: client.conversations.retrieve(id)),
    Case("conversation", "update", lambda client, id: client.conversations.update(id, metadata={"a": "b"})),
    Case("conversation", "items", lambda client, id: list(client.conversations.items.list(id))),
    Case("conversation", "add", lambda client, id: client.conversations.items.create(id, items=_parts())),
    Case("conversation", "input", lambda client, id: _ask(client, conversation=id)),
    Case("conversation", "input_object", lambda client, id: _ask(client, conversation={"id": id})),
    Case("conversation", "delete", lambda client, id: client.conversations.delete(id)),
    Case("file", "retrieve", lambda client, id: client.files.retrieve(id)),
    Case("file", "content", lambda client, id: client.files.content(id).read()),
    Case("file", "input_file", lambda client, id: _ask(client, input=_parts({"type": "input_file", "file_id": id}))),
    Case("file", "input_image", lambda client, id: _ask(client, input=_parts({"type": "input_image", "file_id": id}))),
    Case("file", "chat", lambda client, id: _chat(client, {"type": "file", "file": {"file_id": id}})),
    Case(
        "file",
        "prompt",
        lambda client, id: _ask(client, prompt={"id": "p", "variables": {"x": {"type": "input_file", "file_id": id}}}),
    ),
    Case(
        "file",
        "conversation",
        lambda client, id: client.conversations.create(items=_parts({"type": "input_file", "file_id": id})),
    ),
    Case("file", "delete", lambda client, id: client.files.delete(id)),
    Case("item", "reference", lambda client, id: _ask(client, input=[*_parts(), {"type": "item_reference", "id": id}])),
    Case("item", "only_named", lambda client, id: _ask(client, input=[*_parts(), {"type": "message", "id": id}])),
    Case(
        "item",
        "reasoning",
        lambda client, id: _ask(client, input=[{"type": "reasoning", "id": id, "summary": []}, *_parts()]),
    ),
)
ENDS = ("compact", "chat", "count")
"""Operations that the scripted provider does not support: a foreign ID is refused before that matters."""


@pytest.fixture
def clients(farebox: Farebox) -> Iterator[Callable[[Customer, str], openai.OpenAI]]:
    """OpenAI's SDK as a customer, through a gateway."""
    opened: list[openai.OpenAI] = []

    def make(customer: Customer, gateway: str = "default") -> openai.OpenAI:
        base_url = f"{farebox.url}/v1/{customer.account_id}/{gateway}/openai"
        opened.append(openai.OpenAI(base_url=base_url, api_key=customer.token, max_retries=0))
        return opened[-1]

    yield make
    for client in opened:
        client.close()


def _made(client: openai.OpenAI, kind: str) -> str:
    """The ID of an object of this kind that the client has created."""
    if kind == "response":
        return str(_ask(client).id)
    if kind == "item":
        return str(_ask(client).output[0].id)
    if kind == "conversation":
        return str(client.conversations.create().id)
    return str(client.files.create(file=("f.jsonl", b"{}\n"), purpose="user_data").id)


@pytest.mark.parametrize("case", CASES, ids=[f"{case.kind}-{case.name}" for case in CASES])
def test_only_the_creator_can_access_an_object(
    farebox: Farebox, customer: Customer, provider: OpenAIObjects, clients: Any, case: Case
) -> None:
    set_gateway(customer, "second")
    other = farebox.funded("5")
    mine, elsewhere, foreign = clients(customer), clients(customer, "second"), clients(other)
    object_id = _made(mine, case.kind)
    held = len(provider.upstream.sent)
    for client, named in ((foreign, object_id), (elsewhere, object_id), (mine, "resp_0000unknown")):
        with pytest.raises(openai.NotFoundError) as refused:
            case.does(client, named)
        assert refused.value.code == "object_not_found"
        assert named in refused.value.message
    assert len(provider.upstream.sent) == held, "the provider was asked"
    assert other.balance.posted == 5_000_000_000
    assert customer.balance.held == other.balance.held == 0
    if case.name not in ENDS:
        case.does(mine, object_id)
        assert len(provider.upstream.sent) > held
    assert customer.balance.held == 0
    assert differences(farebox) == []


def test_a_deleted_object_is_gone(customer: Customer, provider: OpenAIObjects, clients: Any) -> None:
    client = clients(customer)
    response = _ask(client).id
    client.responses.delete(response)
    sent = len(provider.upstream.sent)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response)
    assert len(provider.upstream.sent) == sent


def test_a_response_is_charged_once_and_read_for_nothing(
    customer: Customer, provider: OpenAIObjects, clients: Any
) -> None:
    client = clients(customer)
    with charged(customer) as cost:
        response = _ask(client)
    assert cost.nanos == COST
    with free(customer):
        assert client.responses.retrieve(response.id).output_text == "Good day."
    assert provider.upstream.sent[-1].headers["authorization"] == "Bearer key-of-the-operator"


def test_a_response_that_is_not_stored_belongs_to_nobody(
    customer: Customer, provider: OpenAIObjects, clients: Any
) -> None:
    client = clients(customer)
    response = _ask(client, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_what_tools_were_called_with_refers_to_nothing(
    customer: Customer, provider: OpenAIObjects, clients: Any
) -> None:
    """Arguments and schemas are the caller's own text; an escaped name is still a name."""
    client = clients(customer)
    schema = {"type": "object", "properties": {"file_id": {"type": "string", "enum": ["file-x"]}}}
    tool = {"type": "function", "name": "f", "parameters": {**schema, "file_id": "file-x"}, "strict": False}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"file_id": "file-x"}'}
    _ask(
        client, input=[*_parts(), call, {"type": "function_call_output", "call_id": "c", "output": "{}"}], tools=[tool]
    )
    part = rb'{"type": "input_file", "file\u005fid": "x"}'
    body = b'{"model": "gpt-4o-mini", "input": [{"role": "user", "content": [%b]}]}' % part
    response = httpx.post(
        f"{customer.gateway_url}/openai/responses",
        content=body,
        headers={**customer.headers, "content-type": "application/json"},
    )
    assert response.status_code == 404, response.text


def test_lists_contain_only_the_accounts_objects(
    farebox: Farebox, customer: Customer, provider: OpenAIObjects, clients: Any
) -> None:
    mine, foreign = clients(customer), clients(farebox.funded("1"))
    made = [mine.files.create(file=("f", b"x" * size), purpose="user_data").id for size in range(1, 6)]
    foreign.files.create(file=("f", b"x"), purpose="batch")
    assert [file.id for file in mine.files.list(limit=2)] == made[::-1], "page after page"
    page = mine.files.list(limit=2, after=made[2], order="asc")
    assert ([file.id for file in page.data], page.has_more) == (made[3:], False)
    assert [file.purpose for file in foreign.files.list()] == ["batch"]
    assert not list(mine.files.list(purpose="batch"))
    with pytest.raises(openai.NotFoundError):
        foreign.files.list(after=made[0])
    for limit in ("0", "-1", "²", "0" * 5 + "1" * 5_000):
        page = httpx.get(f"{customer.gateway_url}/openai/files", params={"limit": limit}, headers=customer.headers)
        assert page.status_code == 400, page.text
    mine.files.delete(made[4])
    assert [file.id for file in mine.files.list()] == made[3::-1]


def test_files_are_bounded(farebox: Farebox, customer: Customer, provider: OpenAIObjects, clients: Any) -> None:
    client = clients(customer)
    settings = farebox.services.settings
    most = settings.account_files_bytes_max
    object.__setattr__(settings, "account_files_bytes_max", 100)
    try:
        client.files.create(file=("f", b"x" * 90), purpose="user_data")
        sent = len(provider.upstream.sent)
        with pytest.raises(openai.BadRequestError) as full:
            client.files.create(file=("f", b"x" * 11), purpose="user_data")
        assert "the maximum of 100" in full.value.message
        with pytest.raises(openai.BadRequestError) as refused:
            client.files.create(file=("f", b"x"), purpose="fine-tune")
        assert "purpose" in refused.value.message
        assert len(provider.upstream.sent) == sent
    finally:
        object.__setattr__(settings, "account_files_bytes_max", most)


def test_with_its_own_key_an_account_has_all_objects_of_that_key(
    customer: Customer, provider: OpenAIObjects, clients: Any, farebox: Farebox
) -> None:
    """Nothing is looked up, and lists are those of the provider."""
    mine = clients(customer)
    response = _ask(mine).id
    own = openai.OpenAI(
        base_url=f"{customer.gateway_url}/openai",
        api_key="sk-of-the-caller",
        default_headers={"cf-aig-authorization": f"Bearer {customer.token}"},
        max_retries=0,
    )
    with own:
        assert own.responses.retrieve(response).id == response
    assert provider.upstream.sent[-1].headers["authorization"] == "Bearer sk-of-the-caller"


def test_several_keys_of_the_operator(
    farebox: Farebox, customer: Customer, provider: OpenAIObjects, clients: Any
) -> None:
    """An object is requested with the key that created it."""
    services = farebox.services

    def add(connection: Connection) -> None:
        set_key(
            connection, services.vault, by=TESTER, provider="openai", name="2", at=1, api_key="second-key", weight=1
        )

    farebox.run(services.database.write(add))
    forget(farebox)
    try:
        client = clients(customer)
        for _ in range(8):
            response = _ask(client).id
            key = provider.upstream.sent[-1].headers["authorization"]
            _ask(client, previous_response_id=response)
            assert provider.upstream.sent[-1].headers["authorization"] == key
            client.responses.retrieve(response)
            assert provider.upstream.sent[-1].headers["authorization"] == key
    finally:
        farebox.run(
            services.database.write(
                lambda connection: remove_key(connection, by=TESTER, at=1, provider="openai", name="2")
            )
        )
        forget(farebox)


def test_expired_objects_are_forgotten(
    farebox: Farebox, customer: Customer, provider: OpenAIObjects, clients: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By age, and if an account has more than the bound; the oldest first."""
    client, services = clients(customer), farebox.services
    made = [_made(client, "response") for _ in range(4)]

    def known() -> list[str]:
        sql = "SELECT object_id FROM kept_objects WHERE bucket = 0 AND account_id = ? AND kind = 'response'"
        with looking(services.settings) as connection:
            return sorted(str(found) for (found,) in rows(connection, sql, (customer.account_id,)))

    def expire(connection: Connection) -> None:
        for number, response in enumerate(made):
            connection.execute(
                "UPDATE kept_objects SET expires_at = ? WHERE bucket = 0 AND account_id = ? AND object_id = ?",
                (1 if number == 0 else 2**52 + number, customer.account_id, response),
            )

    farebox.run(services.database.write(expire))
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made[0])
    assert known() == sorted(made)
    monkeypatch.setattr("farebox.periodic_jobs.KEPT_MAX", 2)
    farebox.run(_forget_objects(services))
    assert known() == sorted(made[2:])


_FOREIGN = '{"type": "input_file", "file_id": "x_foreign"}'
_ITEM = f'{{"role": "user", "content": [{_FOREIGN}]}}'
_ASKED = '{"model": "gpt-4o-mini", "max_output_tokens": 20, "input": [%s]}'
SPELLINGS = {
    "a number that is none": ("conversations", f'{{"items": [{_ITEM}], "x": NaN}}', 400),
    "half a character": ("conversations", f'{{"items": [{_ITEM}], "metadata": {{"a": "\\ud800"}}}}', 400),
    "a byte order mark": ("conversations", f'\ufeff{{"items": [{_ITEM}]}}', 400),
    "a list": ("conversations", f'[{{"items": [{_ITEM}]}}]', 400),
    "a count": ("responses/input_tokens", '{"previous_response_id": "x_foreign", "x": NaN}', 400),
    "an escaped name": ("responses", '{"model": "gpt-4o-mini", "previous_\\u0072esponse_id": "x_foreign"}', 404),
    "a variable": (
        "responses",
        f'{{"model": "gpt-4o-mini", "prompt": {{"id": "p", "variables": {{"metadata": {_FOREIGN}}}}}}}',
        404,
    ),
    "an empty result": (
        "responses",
        _ASKED % '{"type": "image_generation_call", "id": "x_foreign", "result": null}',
        404,
    ),
    "an empty content": ("responses", _ASKED % '{"id": "x_foreign", "role": "assistant", "content": []}', 404),
    "an escaped path": ("responses/x_%66oreign/cancel", "", 404),
    "a path with two slashes": ("responses//x_foreign/cancel", "", 404),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_other_spellings_are_references_too(customer: Customer, provider: OpenAIObjects, name: str) -> None:
    path, body, status = SPELLINGS[name]
    headers = {**customer.headers, "content-type": "application/json"}
    response = httpx.post(f"{customer.gateway_url}/openai/{path}", content=body.encode(), headers=headers)
    assert response.status_code == status, response.text
    assert not provider.upstream.sent, "the provider was asked"


GOOGLE = "https://generativelanguage.googleapis.com/v1beta/files/abc"


@pytest.mark.parametrize(
    ("uri", "files"),
    [
        (GOOGLE, ["abc"]),
        (f"{GOOGLE}?alt=media", [f"{GOOGLE}?alt=media"]),
        (f"{GOOGLE}/", [f"{GOOGLE}/"]),
        ("files/abc#x", ["files/abc#x"]),
        ("https://www.youtube.com/watch?v=x", []),
    ],
)
def test_addresses_of_google_s_files(uri: str, files: list[str]) -> None:
    found = references_in({"fileData": {"fileUri": uri}})
    assert [(one.kind, one.object_id) for one in found] == [("file", file) for file in files]


def test_a_cache_of_google_s_in_openai_s_form() -> None:
    wire = OpenAIChat()
    for extra in ({"extra_body": {"google": {"cached_content": "c"}}}, {"google": {"cachedContent": "c"}}):
        body = {"model": "gemini-2.5-flash", "messages": [{"role": "user", "content": "Hi"}], **extra}
        parsed = wire.parse("", "application/json", json.dumps(body).encode())
        assert parsed.references == (("cached_content", "c"),)
