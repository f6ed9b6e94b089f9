"""How the ledger's batches reach PostgreSQL: one connection, one call of `ledger_batch` at a time."""

from collections.abc import Callable, Sequence
from typing import Any

import structlog
from asyncpg import exceptions as of

from farebox.storage.postgres.connecting import RECONNECTS_MAX, TRY_AGAIN, Session, connect, has_ended, translate_errors
from farebox.storage.sql import DatabaseFull, DatabaseUnavailable

PARAMETERS = 44
TRIES = 10
"""How often a batch that conflicts with another transaction is sent."""
_STATEMENT_SHARE = 0.9
"""The server's timeout as a fraction of our own: the server times out first, so that the outcome of a batch is rarely
unknown."""


_REGISTER = (
    "INSERT INTO lanes (bucket, instance_id, epoch) VALUES ($1, $2, $3) "
    "ON CONFLICT (bucket, instance_id) DO UPDATE SET epoch = excluded.epoch"
)
"""Waits for a batch that the former connection left in progress: afterwards it has been executed, or creates no
holds."""

log = structlog.get_logger("farebox.storage")


class Lane:
    """Sends batches, one after another, and reconnects if needed."""

    def __init__(self, url: str, *, instance: str, bucket: int, timeout: float) -> None:
        self._url = url
        self._instance = instance
        self._bucket = bucket
        self._epoch = 0
        self._timeout = timeout
        self._session: Session | None = None
        self._call: Callable[..., Any] | None = None

    async def send(self, arguments: Sequence[Any]) -> list[int] | None:
        """The function's result, once it is durable; None if the batch violated a constraint of the schema and was
        rolled back as a whole.

        `arguments` are the function's arguments from p_accounts on. Raises DatabaseUnavailable if the batch could not
        be sent, or was sent again and its outcome is unknown.
        """
        careful, failed = False, 0
        for _ in range(TRIES):
            try:
                with translate_errors():
                    call = self._call or await self._connect()
                    response: list[int] = await call(self._bucket, careful, self._instance, self._epoch, *arguments)
            except TRY_AGAIN as error:
                log.info("batch tried again", why=str(error))
            except DatabaseUnavailable as error:
                terminated = self._session is not None and has_ended(self._session, error)
                self.close()
                failed += 1
                if failed > (RECONNECTS_MAX if terminated else 1) or isinstance(error, DatabaseFull):
                    raise
                careful = True  # it may have been executed
            except of.IntegrityConstraintViolationError:
                if careful:
                    return None
                careful = True
            except of.PostgresError:
                log.exception("batch failed", bucket=self._bucket)
                if self._call is None:  # the connection could not be prepared
                    self.close()
                return None
            except (
                BaseException
            ):  # the statement may still be running, and its response must not be taken for that of the next batch
                self.close()
                raise
            else:
                return response
        return None

    async def _connect(self) -> Callable[..., Any]:
        session = await connect(self._url, timeout=self._timeout, name="farebox lane")
        self._session = session
        await session.execute(f"SET statement_timeout = {int(self._timeout * _STATEMENT_SHARE * 1000)}")
        self._epoch = await session.fetchval("SELECT pg_current_xact_id()::text::bigint")
        await session.execute(_REGISTER, self._bucket, self._instance, self._epoch)
        values = ", ".join(f"${number}" for number in range(1, PARAMETERS + 1))
        statement = await session.prepare(f"SELECT ledger_batch({values})")
        self._call = statement.fetchval
        return self._call

    def close(self) -> None:
        if self._session is not None:
            self._session.terminate()
        self._session = self._call = None
