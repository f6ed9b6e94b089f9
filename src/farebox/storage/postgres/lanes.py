"""How the ledger's batches reach PostgreSQL: one connection, one call of `ledger_batch` at a time."""

from collections.abc import Callable, Sequence
from typing import Any

import structlog
from asyncpg import exceptions as of

from farebox.storage.postgres.connecting import CUTS_MAX, TRY_AGAIN, Session, connect, has_ended, named
from farebox.storage.sql import DatabaseFull, DatabaseUnavailable

PARAMETERS = 33
TRIES = 10
"""How often a batch is sent that another transaction made impossible."""
_STATEMENT_SHARE = 0.9
"""Fraction of our own timeout: the server gives up first, so that we rarely leave a batch in doubt."""


_REGISTER = (
    "INSERT INTO lanes (bucket, instance_id, epoch) VALUES ($1, $2, $3) "
    "ON CONFLICT (bucket, instance_id) DO UPDATE SET epoch = excluded.epoch"
)
"""Waits for a batch that the former connection has left in progress. From here on it has been done, or creates no
holds."""

log = structlog.get_logger("farebox.storage")


class Lane:
    """Sends batches, one after another, and connects again where that is needed."""

    def __init__(self, url: str, *, instance: str, bucket: int, timeout: float) -> None:
        self._url = url
        self._instance = instance
        self._bucket = bucket
        self._epoch = 0
        self._timeout = timeout
        self._session: Session | None = None
        self._call: Callable[..., Any] | None = None

    async def send(self, arguments: Sequence[Any]) -> list[int] | None:
        """What the function answers, once that is durable; None where the batch broke a rule of the schema as a whole,
        and nothing of it was done.

        `arguments` are those from p_accounts on. Raises DatabaseUnavailable where the batch could not be sent, or was
        sent again and its end is unknown.
        """
        careful, failed = False, 0
        for _ in range(TRIES):
            try:
                with named():
                    call = self._call or await self._connect()
                    response: list[int] = await call(self._bucket, careful, self._instance, self._epoch, *arguments)
            except TRY_AGAIN as error:
                log.info("batch tried again", why=str(error))
            except DatabaseUnavailable as error:
                cut = self._session is not None and has_ended(self._session, error)
                self.close()
                failed += 1
                if failed > (CUTS_MAX if cut else 1) or isinstance(error, DatabaseFull):
                    raise
                careful = True  # it may have been done
            except of.IntegrityConstraintViolationError:
                if careful:
                    return None
                careful = True
            except of.PostgresError:
                log.exception("batch failed", bucket=self._bucket)
                if self._call is None:  # it was the way that could not be made ready
                    self.close()
                return None
            except BaseException:  # whatever the statement is doing, its response is not for the next batch
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
