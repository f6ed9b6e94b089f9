"""Encrypted secrets are bound to their row, and a token revoked while it is read is not cached."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from farebox.clock import RandomIds, SystemClock
from farebox.gateway import DEFAULT_GATEWAY, GatewayConfig
from farebox.model import AccessToken, Permission
from farebox.operator.administer import set_provider
from farebox.operator.endpoints import add_endpoint, secret_of
from farebox.runtime.configuration import Configuration
from farebox.storage.accounts import add_account, add_token, revoke_token
from farebox.storage.database import Database, open_database
from farebox.storage.gateways import GatewayRow, put_gateway
from farebox.storage.sql import Connection
from farebox.storage.webhook_endpoints import endpoints_of
from farebox.vault import SecretUnreadable, Vault
from tests.engines import ON_BOTH_ENGINES, TESTER, settings_for

pytestmark = ON_BOTH_ENGINES

T = TypeVar("T")
ACCOUNT = "acme"
CLOCK = SystemClock()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await open_database(settings_for(tmp_path))
    await opened.write(lambda c: add_account(c, ACCOUNT, "Acme", 1))
    yield opened
    await opened.close()


@pytest.fixture
def vault() -> Vault:
    return Vault(bytes(32))


# --- a secret is bound to its row -------------------------------------------------------------------------------------


def test_ciphertext_of_one_row_does_not_decrypt_for_another(vault: Vault) -> None:
    sealed = vault.encrypt("sk-secret", "provider:openai")
    assert vault.decrypt(sealed, "provider:openai") == "sk-secret"
    for other in ("provider:anthropic", "provider:openai ", "endpoint:openai", ""):
        with pytest.raises(SecretUnreadable):
            vault.decrypt(sealed, other)


async def test_swapped_provider_keys_are_not_used(database: Database, vault: Vault) -> None:
    """An attacker who can write to the database, but does not know the secret key, must not be able to have one
    provider's key sent to another."""

    def keys(connection: Connection) -> None:
        for name in ("openai", "anthropic"):
            set_provider(connection, vault, by=TESTER, name=name, at=1, api_key=f"sk-{name}")

    await database.write(keys)
    assert (await Configuration.load(database, vault, CLOCK)).provider("openai").api_key == "sk-openai"  # type: ignore[union-attr]
    await database.write(
        lambda c: c.execute(
            "UPDATE providers SET api_key = (SELECT p.api_key FROM providers p WHERE p.name = "
            "CASE providers.name WHEN 'openai' THEN 'anthropic' ELSE 'openai' END)"
        )
    )
    with pytest.raises(SecretUnreadable, match="provider:"):
        await Configuration.load(database, vault, CLOCK)


async def test_swapped_signing_secrets_of_endpoints_are_not_used(
    database: Database, vault: Vault, tmp_path: Path
) -> None:
    def two(connection: Connection) -> None:
        for n in (1, 2):
            add_endpoint(
                connection,
                vault,
                RandomIds(CLOCK),
                settings_for(tmp_path),
                account_id=ACCOUNT,
                url=f"https://{n}.example/",
                kinds=(),
                at=n,
            )

    await database.write(two)
    first, second = await database.get(lambda c: endpoints_of(c, ACCOUNT))
    assert secret_of(vault, first) != secret_of(vault, second)
    await database.write(
        lambda c: c.execute(
            "UPDATE webhook_endpoints SET secret = ? WHERE endpoint_id = ?", (first.secret, second.endpoint_id)
        )
    )
    (moved,) = [one for one in await database.get(lambda c: endpoints_of(c, ACCOUNT)) if one.url == second.url]
    with pytest.raises(SecretUnreadable):
        secret_of(vault, moved)


def test_a_signature_is_valid_only_for_its_purpose_and_text(vault: Vault) -> None:
    signature = vault.sign("document", "invoice-1")
    assert vault.verify("document", "invoice-1", signature)
    assert not vault.verify("session", "invoice-1", signature)
    assert not vault.verify("document", "invoice-2", signature)
    assert not vault.verify("document", "invoice-1", signature[:-1])


# --- revoked while it is read -----------------------------------------------------------------------------------------


class _Interrupted:
    """A database on which something happens between a read and the use of its result."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.after_read: Callable[[], Any] | None = None

    async def get(self, read: Callable[[Connection], T]) -> T:
        found = await self._database.get(read)
        meanwhile, self.after_read = self.after_read, None
        if meanwhile is not None:
            await meanwhile()
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


async def test_a_token_revoked_while_it_is_read_is_not_cached(database: Database, vault: Vault) -> None:
    token = AccessToken("t1", ACCOUNT, "test", frozenset(Permission), 1, None, None)
    await database.write(lambda c: add_token(c, token, vault.hash_token("fbx_secret")))
    interrupted = _Interrupted(database)
    configuration = await Configuration.load(interrupted, vault, CLOCK)

    async def revoke() -> None:
        await database.write(lambda c: revoke_token(c, "t1", 2))
        await configuration.notice_changes()

    interrupted.after_read = revoke
    assert await configuration.token("fbx_secret") is not None  # it was read before the change
    assert await configuration.token("fbx_secret") is None


async def test_a_gateway_changed_while_it_is_read_is_read_again(database: Database, vault: Vault) -> None:
    interrupted = _Interrupted(database)
    configuration = await Configuration.load(interrupted, vault, CLOCK)

    def put(*, authentication: bool) -> Callable[[Connection], None]:
        config = msgspec.json.encode(GatewayConfig(authentication=authentication))
        return lambda c: put_gateway(c, GatewayRow(ACCOUNT, DEFAULT_GATEWAY, config, 1, 1))

    await database.write(put(authentication=False))
    await configuration.notice_changes()

    async def close() -> None:
        await database.write(put(authentication=True))
        await configuration.notice_changes()

    interrupted.after_read = close
    await configuration.gateway(ACCOUNT, DEFAULT_GATEWAY)
    after = await configuration.gateway(ACCOUNT, DEFAULT_GATEWAY)
    assert after is not None
    assert after.authentication
