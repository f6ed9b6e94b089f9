"""Policies of a gateway: who may call which models, and for how much. A change is a draft until it is committed."""

from functools import partial
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace as changed

from farebox.calls import logs
from farebox.http.control.bodies import body_of, given
from farebox.http.control.wire import require
from farebox.http.envelope import Response, ok, plain
from farebox.http.request import Request
from farebox.http.validation import Fault, InvalidInput, invalid
from farebox.money import NANOS_PER_USD
from farebox.policies.conditions import InvalidPolicyCondition, compile_condition
from farebox.policies.decide import POLICIES_MAX
from farebox.policies.document import Action, Limit, PolicyDocument, Resource
from farebox.policies.matching import InvalidActor, compile_actor
from farebox.providers.catalogue import provider_of
from farebox.providers.naming import is_custom
from farebox.storage import policies as store
from farebox.storage.policies import PolicyRow
from farebox.storage.sql import Connection

_READ_ONLY = ("id", "created_at", "updated_at", "staging", "uncommitted")
PolicyCreate = body_of(
    "PolicyCreate", PolicyDocument, required=("name", "actor", "resource", "action"), ignored=_READ_ONLY
)
PolicyChange = body_of("PolicyChange", PolicyDocument, ignored=_READ_ONLY)


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Times are Unix seconds."""

    id: str
    name: str
    actor: str
    resource: Literal["*"] | Resource
    condition: str
    action: Action
    created_at: int
    updated_at: int
    staging: bool | UnsetType = UNSET
    """In lists: whether this is a draft."""
    uncommitted: bool | UnsetType = UNSET
    """The same in responses for a single policy."""


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """A policy after a change, and whether it is in force."""

    result: Policy
    committed: bool
    success: bool = True
    errors: list[Any] = []
    messages: list[Any] = []


class PoliciesQuery(msgspec.Struct, frozen=True, kw_only=True):
    include_staging: bool = msgspec.field(name="includeStaging", default=False)
    """Show drafts too."""


class Failed(msgspec.Struct, frozen=True, rename="camel"):
    policy_id: str
    error: str


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    committed: int
    failed: int
    policies: list[Policy]
    """The policies in force from now on."""
    errors: list[Failed] = []


class CommitResult(msgspec.Struct, frozen=True, kw_only=True):
    success: bool
    result: Committed
    errors: list[Any] = []
    messages: list[Any] = []


async def list_all(request: Request, query: PoliciesQuery) -> Response:
    """All policies: there are too few to need pages."""
    shown: list[Policy] = []
    for row in await rows_of(request):
        if row.live is not None:
            shown.append(_policy(row, row.live))
        if row.draft is not None and query.include_staging:
            shown.append(changed(_policy(row, row.draft), staging=True))
    return ok(shown)


async def get(request: Request, query: PoliciesQuery) -> Response:
    row = await request.services.database.get(partial(_find, request=request))
    if row.draft is not None and query.include_staging:
        return ok(changed(_policy(row, row.draft), uncommitted=True))
    return ok(_policy(row, require(row.live)))


async def create(request: Request, body: Any) -> Response:
    await logs.check_gateway(request.services, request.account_id, request.path["gateway_id"])
    text, commit = _checked(PolicyDocument(**given(body, PolicyDocument))), _commits(request)
    account_id, gateway_id = request.account_id, request.path["gateway_id"]
    at = request.services.clock.now_ms()
    live, draft = (text, None) if commit else (None, text)
    row = PolicyRow(account_id, gateway_id, request.services.ids.log_id(), live, draft, at, at)

    def write(connection: Connection) -> PolicyRow:
        if len(store.POLICIES.list(connection, account_id, gateway_id)) >= POLICIES_MAX:
            raise invalid(f"A gateway has at most {POLICIES_MAX} policies", "body", "name")
        store.POLICIES.put(connection, row)
        return row

    await request.services.database.write(write)
    return await _written(request, row, text)


async def change(request: Request, body: Any) -> Response:
    """Change the fields that are sent, in the draft if there is one."""
    changes, commit = given(body, PolicyDocument), _commits(request)
    at = request.services.clock.now_ms()

    def write(connection: Connection) -> tuple[PolicyRow, str]:
        stored = _find(connection, request)
        if stored.live is None:
            raise invalid(
                "The policy is a draft that was never committed: commit it first, or delete it",
                "path",
                "id",
                words="This policy is still a draft: put it into force first, or delete it",
            )
        text = _checked(changed(_document(stored.draft or stored.live), **changes))
        live, draft = (text, None) if commit else (stored.live, text)
        row = PolicyRow(stored.account_id, stored.gateway_id, stored.policy_id, live, draft, stored.created_at, at)
        store.POLICIES.put(connection, row)
        return row, text

    row, text = await request.services.database.write(write)
    return await _written(request, row, text)


async def delete(request: Request, _: None) -> Response:
    def write(connection: Connection) -> PolicyRow:
        row = _find(connection, request)
        store.POLICIES.delete(connection, row.account_id, row.gateway_id, row.policy_id)
        return row

    row = await request.services.database.write(write)
    await request.services.configuration.notice_own_change()
    return ok(_policy(row, row.live or require(row.draft)))


async def commit(request: Request, _: None) -> Response:
    """Put all drafts of the gateway in force."""
    await logs.check_gateway(request.services, request.account_id, request.path["gateway_id"])
    account_id, gateway_id = request.account_id, request.path["gateway_id"]
    at = request.services.clock.now_ms()

    def write(connection: Connection) -> Committed:
        done: list[Policy] = []
        failed: list[Failed] = []
        for row in store.POLICIES.list(connection, account_id, gateway_id):
            if row.draft is None:
                continue
            try:
                _checked(_document(row.draft))
            except InvalidInput as error:  # an earlier release considered it valid
                failed.append(Failed(row.policy_id, error.message))
                continue
            store.POLICIES.put(connection, changed_row := _committed(row, row.draft, at))
            done.append(_policy(changed_row, row.draft))
        return Committed(committed=len(done), failed=len(failed), policies=done, errors=failed)

    found = await request.services.database.write(write)
    await request.services.configuration.notice_own_change()
    return plain(CommitResult(success=not found.failed, result=found))


def _committed(row: PolicyRow, text: str, at: int) -> PolicyRow:
    return PolicyRow(row.account_id, row.gateway_id, row.policy_id, text, None, row.created_at, at)


async def _written(request: Request, row: PolicyRow, text: str) -> Response:
    await request.services.configuration.notice_own_change()
    return plain(Written(result=_policy(row, text), committed=row.draft is None))


async def rows_of(request: Request) -> list[PolicyRow]:
    """Raises Problem (NOT_FOUND)."""
    account_id, gateway_id = request.account_id, request.path["gateway_id"]
    await logs.check_gateway(request.services, account_id, gateway_id)
    return await request.services.database.scan(
        lambda connection: store.POLICIES.list(connection, account_id, gateway_id)
    )


def _find(connection: Connection, request: Request) -> PolicyRow:
    """Raises Problem (NOT_FOUND)."""
    return require(store.POLICIES.find(connection, request.account_id, request.path["gateway_id"], request.path["id"]))


def _commits(request: Request) -> bool:
    """Whether the query has `commit=true`. Raises InvalidInput for anything but `true` and `false`: a draft enforces
    nothing."""
    wanted = dict(request.query_pairs()).get("commit", "false")
    if wanted not in ("true", "false"):
        raise invalid("Expected 'true' | 'false'", "query", "commit")
    return wanted == "true"


def _checked(document: PolicyDocument) -> str:
    """The document in its stored form. Raises InvalidInput."""
    faults: list[Fault] = []
    try:
        compile_actor(document.actor)
    except InvalidActor as error:
        faults.append(Fault(("body", "actor"), f"Invalid actor: {error}"))
    try:
        compile_condition(document.condition)
    except InvalidPolicyCondition as error:
        faults.append(Fault(("body", "condition"), f"Invalid CEL expression: {error}"))
    if isinstance(document.action, Limit) and document.action.amount * NANOS_PER_USD < 1:
        faults.append(Fault(("body", "action", "amount"), "Number must be at least 0.000000001"))
    if isinstance(document.resource, Resource):
        faults += _resource_faults(document.resource)
    if faults:
        raise InvalidInput(faults)
    return msgspec.json.encode(document).decode()


def _resource_faults(resource: Resource) -> list[Fault]:
    path, providers = ("body", "resource"), resource.provider
    if isinstance(providers, UnsetType):
        return [] if resource.model is not UNSET else [Fault(path, "Required: model or provider, or '*' for all")]
    names = (providers,) if isinstance(providers, str) else providers
    unknown = [name for name in names if provider_of(name.lower()) is None and not is_custom(name.lower())]
    return [Fault((*path, "provider"), f"There is no provider '{name[:64]}'") for name in unknown]


def _document(text: str) -> PolicyDocument:
    return msgspec.json.decode(text, type=PolicyDocument)


def _policy(row: PolicyRow, text: str) -> Policy:
    document = _document(text)
    return Policy(
        id=row.policy_id,
        name=document.name,
        actor=document.actor,
        resource=document.resource,
        condition=document.condition,
        action=document.action,
        created_at=row.created_at // 1000,
        updated_at=row.modified_at // 1000,
    )
