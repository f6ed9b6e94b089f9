"""Access tokens: creating them, changing what they may do, revoking them. Plain functions, as in `administer`.

Times are milliseconds since the Unix epoch.
"""

import dataclasses
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import asdict

from farebox.clock import Ids
from farebox.gateway import GATEWAY_ID
from farebox.model import AccessToken, Operator, Permission, RateLimit
from farebox.operator.administer import ActionRefused, must_be_ahead, require_account
from farebox.providers.formats.base import InvalidRequest
from farebox.providers.naming import compat_model
from farebox.quoting import quoted
from farebox.storage import accounts
from farebox.storage.config import lock_configuration
from farebox.storage.gateways import missing_gateways
from farebox.storage.operator_actions import State, record_action
from farebox.storage.sql import Connection
from farebox.vault import TOKEN_PREFIX, Vault

TOKEN_MODELS_MAX: Final = 100
TOKEN_GATEWAYS_MAX: Final = 100
_GATEWAY_LENGTH: Final = 64
_MODEL = re.compile(r"[a-z0-9._-]{1,64}/[^\s/*][^\s*]{0,199}|[a-z0-9._-]{1,64}/\*")
_is_gateway = re.compile(GATEWAY_ID, re.ASCII).fullmatch


@dataclass(frozen=True, slots=True)
class NewToken:
    """An access token with its secret, which cannot be shown again."""

    token: AccessToken
    secret: str = field(repr=False)


class TokenChanges(msgspec.Struct, frozen=True, kw_only=True):
    """Changes to an access token; fields that are UNSET leave it unchanged."""

    rate: RateLimit | UnsetType | None = UNSET
    """None: no limit."""
    models: Sequence[str] | UnsetType | None = UNSET
    """None: it may call all models."""
    gateways: Sequence[str] | UnsetType | None = UNSET
    """None: it reaches all gateways."""
    expires_at: int | UnsetType | None = UNSET
    """None: it never expires."""


def create_token(
    connection: Connection,
    ids: Ids,
    vault: Vault,
    *,
    account_id: str,
    permissions: Collection[Permission],
    at: int,
    name: str = "",
    expires_at: int | None = None,
    models: Sequence[str] = (),
    gateways: Sequence[str] = (),
    rate: RateLimit | None = None,
    by: Operator | None = None,
) -> NewToken:
    """Create an access token of the account. Only its hash is kept: the secret cannot be shown again. If `models` is
    not empty, it may call only these: `provider/model` or `provider/*`; `gateways` restricts it in the same way. `by`,
    as below: the operator who does it, if an operator does. Raises ActionRefused."""
    lock_configuration(connection)  # a gateway that is being deleted is not named
    require_account(connection, account_id)
    if not permissions:
        raise ActionRefused("a token needs at least one permission: " + ", ".join(Permission))
    allowed = _allowed(models) if models else None
    reached = _reached(connection, account_id, gateways) if gateways else None
    must_be_ahead(expires_at, at)
    secret = TOKEN_PREFIX + ids.secret()
    token_id = ids.account_id()  # the same format as Cloudflare's token IDs: 32 hexadecimal characters
    token = AccessToken(
        token_id, account_id, name, frozenset(permissions), at, expires_at, None, allowed, rate, reached
    )
    accounts.add_token(connection, token, vault.hash_token(secret))
    if by is not None:
        record_action(connection, by, "token.create", at, account_id=account_id, subject=token_id, after=_state(token))
    return NewToken(token, secret)


def _allowed(models: Sequence[str]) -> tuple[str, ...]:
    """The models, each once. Raises ActionRefused."""
    if not 1 <= len(models) <= TOKEN_MODELS_MAX:
        raise ActionRefused(f"a token may call 1 to {TOKEN_MODELS_MAX} models, or all", of="models")
    return tuple(dict.fromkeys(_allowed_model(model) for model in models))


def _allowed_model(model: str) -> str:
    """The model in the form that calls are compared with: the provider's slug, and the provider's name of the model."""
    if not _MODEL.fullmatch(model):
        why = f"{quoted(model)} is not a model: write provider/model, or provider/* for all models of a provider"
        raise ActionRefused(why, of="models")
    try:
        return "/".join(compat_model(model))
    except InvalidRequest as error:
        raise ActionRefused(no_model(model), of="models") from error


def no_model(model: str) -> str:
    """Why a text in the form of a model is none."""
    name, slash, rest = model.partition("/")
    why = f"there is no provider {quoted(name)}" if slash and rest else "write provider/model"
    return f"{quoted(model)} is not a model: {why}"


def _reached(connection: Connection, account_id: str, gateways: Sequence[str]) -> tuple[str, ...]:
    """The gateways, each once. Raises ActionRefused unless the account has all of them."""
    if not 1 <= len(gateways) <= TOKEN_GATEWAYS_MAX:
        raise ActionRefused(f"a token reaches 1 to {TOKEN_GATEWAYS_MAX} gateways, or all", of="gateways")
    named = [each for each in gateways if len(each) <= _GATEWAY_LENGTH and _is_gateway(each)]
    missing = [each for each in gateways if each not in named] or missing_gateways(connection, account_id, named)
    if missing:
        raise ActionRefused(f"the account has no gateway {quoted(missing[0])}: create it first", of="gateways")
    return tuple(dict.fromkeys(named))


def set_token(
    connection: Connection, token_id: str, changes: TokenChanges, *, at: int, by: Operator | None = None
) -> AccessToken:
    """Change what the token may do. Raises ActionRefused."""
    lock_configuration(connection)
    found = _find(connection, token_id)
    changed = change_token(connection, found, changes, at=at)
    if by is not None and changed != found:
        record_action(
            connection,
            by,
            "token.set",
            at,
            account_id=found.account_id,
            subject=token_id,
            before=_state(found),
            after=_state(changed),
        )
    return changed


def _find(connection: Connection, token_id: str) -> AccessToken:
    """Raises ActionRefused."""
    found = accounts.token_by_id(connection, token_id)
    if found is None:
        raise ActionRefused(f"there is no token {quoted(token_id)}: `farebox token list` shows the IDs")
    return found


def _state(token: AccessToken) -> State:
    return {
        "name": token.name,
        "permissions": sorted(token.permissions),
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
        "models": token.models,
        "gateways": token.gateways,
        "rate": None if token.rate is None else dataclasses.asdict(token.rate),
    }


def change_token(connection: Connection, token: AccessToken, changes: TokenChanges, *, at: int) -> AccessToken:
    """Like `set_token`, for a token that was found after `lock_configuration`: a gateway that is being deleted is not
    named, and one that has been taken out of the token does not come back. Raises ActionRefused."""
    given: dict[str, Any] = {name: value for name, value in asdict(changes).items() if value is not UNSET}
    if changes.models is not UNSET and changes.models is not None:
        given["models"] = _allowed(changes.models)
    if changes.gateways is not UNSET and changes.gateways is not None:
        given["gateways"] = _reached(connection, token.account_id, changes.gateways)
    if changes.expires_at is not UNSET:
        if not token.active(at):
            raise ActionRefused("the token is revoked or has expired, which cannot be undone: create a new one")
        must_be_ahead(changes.expires_at, at)
    changed = dataclasses.replace(token, **given)
    accounts.change_token(connection, changed)
    return changed


def revoke_token(connection: Connection, token_id: str, *, at: int, by: Operator) -> None:
    """Revoke the token with immediate effect. Revoking it twice keeps the time of the first revocation. Raises
    ActionRefused."""
    found = _find(connection, token_id)
    accounts.revoke_token(connection, token_id, at)
    if found.revoked_at is None:
        after = _state(dataclasses.replace(found, revoked_at=at))
        record_action(
            connection,
            by,
            "token.revoke",
            at,
            account_id=found.account_id,
            subject=token_id,
            before=_state(found),
            after=after,
        )
