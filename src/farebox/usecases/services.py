"""The outside world in one struct: whatever a use-case needs and a test may replace."""

from dataclasses import dataclass

from farebox.clock import Clock, Ids
from farebox.ledger.ledger import Ledger
from farebox.providers.upstream import Upstream
from farebox.settings import Settings
from farebox.storage.database import Database
from farebox.usecases.configuration import Configuration
from farebox.usecases.waiting import Waiters
from farebox.vault import Vault


@dataclass(frozen=True, slots=True)
class Services:
    """Made by farebox.app at start, closed by it at the end."""

    settings: Settings
    clock: Clock
    ids: Ids
    vault: Vault
    database: Database
    ledger: Ledger
    configuration: Configuration
    upstream: Upstream
    waiters: Waiters
    instance: str
    """Name of this run of the process: the owner of the holds it makes."""
