"""Where messages are sent: the endpoints of accounts and of the operator, each with its own signing secret.

The functions of the first half run inside the caller's transaction (the command line opens one); those of the second
half are for a server.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial

import msgspec

from farebox.addresses import AddressRefused
from farebox.clock import Ids, random_bytes
from farebox.errors import NOT_FOUND, VALIDATION_FAILED, Problem
from farebox.messages.send import WebhookResult, check_url, post
from farebox.messages.sign import KEY_BYTES, secret_from, signed_headers
from farebox.model import Operator
from farebox.operator.administer import ActionRefused, require_account
from farebox.quoting import quoted
from farebox.runtime.services import Services
from farebox.settings import Settings
from farebox.storage import webhook_endpoints
from farebox.storage.deliveries import abandon_target
from farebox.storage.notices import ALARM_KINDS, KINDS
from farebox.storage.operator_actions import State, record_action
from farebox.storage.sql import Connection
from farebox.storage.webhook_endpoints import Endpoint, endpoints_of, find_endpoint
from farebox.vault import Vault

ENDPOINTS_MAX = 10
"""Most endpoints of one account, and of the operator."""
REMOVED = "the endpoint was removed"


class EndpointRefused(ActionRefused):
    """The endpoint is invalid; `field` names the invalid field."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class NewEndpoint:
    """An endpoint with its signing secret, which cannot be shown again."""

    endpoint: Endpoint
    secret: str = field(repr=False)


def add_endpoint(
    connection: Connection,
    vault: Vault,
    ids: Ids,
    settings: Settings,
    *,
    account_id: str | None,
    url: str,
    kinds: Collection[str],
    at: int,
    by: Operator | None = None,
) -> NewEndpoint:
    """Send messages of these kinds (all if none are given) to the URL; without an account, those of every account.
    `by`, as below: the operator who does it, if an operator does."""
    if account_id is not None:
        require_account(connection, account_id)
    known = [kind for kind in KINDS if account_id is None or kind not in ALARM_KINDS]
    unknown = sorted(set(kinds) - set(known))
    if unknown:
        raise EndpointRefused("kinds", f"there is no message kind {quoted(unknown[0])}: use {', '.join(known)}")
    try:
        check_url(url, private=settings.webhook_private == "allow")
    except AddressRefused as error:
        raise EndpointRefused("url", str(error)) from error
    if len(endpoints_of(connection, account_id)) >= ENDPOINTS_MAX:
        raise EndpointRefused("url", f"there are {ENDPOINTS_MAX} endpoints, the maximum: remove one first")
    endpoint_id = f"we_{ids.account_id()}"
    secret = secret_from(random_bytes(KEY_BYTES))
    endpoint = Endpoint(
        endpoint_id=endpoint_id,
        account_id=account_id,
        url=url,
        secret=vault.encrypt(secret, _bound(endpoint_id)),
        kinds=tuple(kind for kind in KINDS if kind in kinds),
        created_at=at,
    )
    webhook_endpoints.add_endpoint(connection, endpoint)
    if by is not None:
        record_action(
            connection,
            by,
            "webhook.add",
            at,
            account_id=account_id or "",
            subject=endpoint_id,
            after=_state(endpoint),
        )
    return NewEndpoint(endpoint, secret)


def _state(endpoint: Endpoint) -> State:
    return {"url": endpoint.url, "kinds": endpoint.kinds}


def remove_endpoint(connection: Connection, endpoint_id: str, *, at: int, by: Operator | None = None) -> None:
    """Stop sending messages there, including pending ones."""
    found = find_endpoint(connection, endpoint_id)
    if found is None:
        raise ActionRefused(f"there is no endpoint {quoted(endpoint_id)}: `farebox webhook list` shows the IDs")
    webhook_endpoints.remove_endpoint(connection, endpoint_id)
    abandon_target(connection, endpoint_id, REMOVED)
    if by is not None:
        account_id = found.account_id or ""
        record_action(
            connection, by, "webhook.remove", at, account_id=account_id, subject=endpoint_id, before=_state(found)
        )


def secret_of(vault: Vault, endpoint: Endpoint) -> str:
    """The endpoint's signing secret. Raises vault.SecretUnreadable."""
    return vault.decrypt(endpoint.secret, _bound(endpoint.endpoint_id))


async def send_test(vault: Vault, settings: Settings, endpoint: Endpoint, *, identifier: str, at: int) -> WebhookResult:
    """Send a signed message of the type `test`, once."""
    body = msgspec.json.encode({"type": "test", "id": identifier, "account_id": endpoint.account_id, "data": {}})
    headers = signed_headers(secret_of(vault, endpoint), identifier, at, body)
    return await post(endpoint.url, headers, body, private=settings.webhook_private == "allow")


def _bound(endpoint_id: str) -> str:
    return f"webhook:{endpoint_id}"


# For a server -----------------------------------------------------------------------------------------------------


async def create(services: Services, account_id: str, *, url: str, kinds: Collection[str]) -> NewEndpoint:
    """A new endpoint of the account. Raises Problem (VALIDATION_FAILED)."""
    at = services.clock.now_ms()

    def job(connection: Connection) -> NewEndpoint:
        return add_endpoint(
            connection,
            services.vault,
            services.ids,
            services.settings,
            account_id=account_id,
            url=url,
            kinds=kinds,
            at=at,
        )

    try:
        return await services.database.write(job)
    except EndpointRefused as error:
        raise Problem(VALIDATION_FAILED, str(error), path=("body", error.field)) from error


async def listed(services: Services, account_id: str) -> list[Endpoint]:
    """The account's endpoints."""
    return await services.database.get(partial(endpoints_of, account_id=account_id))


async def remove(services: Services, account_id: str, endpoint_id: str) -> Endpoint:
    """Stop sending the account's messages there. Raises Problem (NOT_FOUND)."""
    at = services.clock.now_ms()

    def job(connection: Connection) -> Endpoint:
        endpoint = _own(find_endpoint(connection, endpoint_id), account_id)
        remove_endpoint(connection, endpoint_id, at=at)
        return endpoint

    return await services.database.write(job)


async def test(services: Services, account_id: str, endpoint_id: str) -> WebhookResult:
    """Send a test message to the account's endpoint, now. Raises Problem (NOT_FOUND)."""
    endpoint = _own(await services.database.get(partial(find_endpoint, endpoint_id=endpoint_id)), account_id)
    return await send_test(
        services.vault,
        services.settings,
        endpoint,
        identifier=f"msg_{services.ids.account_id()}",
        at=services.clock.now_ms(),
    )


def _own(endpoint: Endpoint | None, account_id: str) -> Endpoint:
    if endpoint is None or endpoint.account_id != account_id:
        raise Problem(NOT_FOUND, "There is no such endpoint")
    return endpoint
