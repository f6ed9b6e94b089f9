"""The outside world in one struct: everything that a use case needs and a test may replace."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from farebox.clock import Clock, Ids
from farebox.errors import PAYMENTS_OFF, Problem
from farebox.helper_processes import Pool
from farebox.jobs import Jobs
from farebox.ledger.ledger import Ledger
from farebox.limits.byte_budget import ByteBudget
from farebox.limits.concurrent import CallsInFlight
from farebox.limits.known_credit import KnownCredit
from farebox.limits.last_uses import LastUses
from farebox.limits.live_pages import LivePages
from farebox.limits.log_room import LogRoom
from farebox.limits.logged_bytes import LoggedBytes
from farebox.limits.paused_keys import PausedKeys
from farebox.limits.pending_writes import PendingWrites
from farebox.limits.rate import RateLimiter
from farebox.limits.spend_watch import SpendWatch
from farebox.limits.turn_models import TurnModels
from farebox.limits.unpaid import UnpaidWork
from farebox.metrics.metrics import Metrics
from farebox.payments.processor import Processor
from farebox.pricing.learned import LearnedSizes
from farebox.pricing.unseen import UnseenRules
from farebox.providers.capabilities import Candidate
from farebox.providers.cloud_tokens import Tokens
from farebox.providers.reading import Refusals
from farebox.providers.upstream import Upstream
from farebox.runtime.classifier import Classifier
from farebox.runtime.configuration import Configuration
from farebox.runtime.identity_provider import IdentityProvider
from farebox.runtime.journal import Journal
from farebox.runtime.pending_alarms import Alarms
from farebox.runtime.queue_search import QueueSearch
from farebox.runtime.readiness import Readiness
from farebox.runtime.response_cache import ResponseCache, ResponseStore
from farebox.runtime.scorer import Scorer
from farebox.runtime.settle_times import SettleTimes
from farebox.runtime.span_queue import SpanQueue
from farebox.runtime.stored_objects import StoredObjects
from farebox.runtime.tasks import Tasks
from farebox.runtime.waiters import Waiters
from farebox.settings import Settings
from farebox.storage.database import Database
from farebox.vault import Vault


@dataclass(frozen=True, slots=True)
class Services:
    """Created, and closed at the end, by runtime.opening."""

    settings: Settings
    clock: Clock
    ids: Ids
    vault: Vault
    database: Database
    ledger: Ledger
    configuration: Configuration
    upstream: Upstream
    custom_upstream: Upstream
    """For custom providers: it connects to checked addresses only."""
    exports: Upstream
    """For what gateways send elsewhere about their calls; it connects to checked addresses only, too."""
    processor: Processor | None
    """None if payments are switched off."""
    waiters: Waiters
    base_url: str
    """URL at which clients and browsers reach this server, without a trailing slash."""
    instance: str
    """Name of this run of the process: the owner of the holds it creates."""
    readiness: Readiness = field(init=False)
    """Whether calls can be served."""
    tokens: Tokens = field(init=False)
    """Access tokens for cloud providers."""
    stored_objects: StoredObjects = field(init=False)
    """The owners of IDs that providers hand out under the operator's keys."""
    response_cache: ResponseCache = field(init=False)
    """Cached responses of gateways."""
    shared_cache: ResponseStore | None = None
    """Where cached responses are stored, if not in the database."""
    tasks: Tasks = field(default_factory=Tasks)
    """Charges that continue after their caller has disconnected."""
    learned: LearnedSizes = field(default_factory=LearnedSizes)
    """Sizes of unseen input, learned from responses."""
    unseen_rules: UnseenRules = field(default_factory=UnseenRules)
    """What is held for unseen input, by kind."""
    spans: SpanQueue = field(default_factory=SpanQueue)
    """Spans of calls that wait to be sent to their gateways' destinations."""
    journal: Journal | None = None
    """Where the ends of calls are stored during a database outage; None if the process serves no calls."""
    alarms: Alarms = field(default_factory=Alarms)
    """Operator alarms that are not durable yet."""
    helpers: Pool = field(default_factory=Pool)
    """Helper processes for work that would block the event loop."""
    scorer: Scorer | None = None
    """Judges texts for gateways with guardrails; None if the operator has configured none."""
    classifier: Classifier | None = None
    """Classifies calls for gateways with log_classification; None if the operator has configured none."""
    identity_provider: IdentityProvider | None = None
    """The OpenID provider at which members sign in; None if the operator has configured none."""
    zdr: frozenset[str] = frozenset()
    """Providers that promise zero data retention on the operator's key."""
    auto_models: tuple[Candidate, ...] = ()
    """The models that the auto router chooses from, unless the request or the account lists others."""
    last_uses: LastUses = field(default_factory=LastUses)
    """When keys were used, until it is written."""
    paused_keys: PausedKeys = field(default_factory=PausedKeys)
    """Keys that a provider has refused or rate limited."""
    turn_models: TurnModels = field(default_factory=TurnModels)
    """Which model answered the current turn of a conversation."""
    refusals: Mapping[str, Refusals] = field(default_factory=dict)
    """Request fields and tools that the operator refuses, by provider."""
    held: ByteBudget = field(default_factory=ByteBudget)
    """Counts the bytes of bodies and responses that are kept in memory, by account."""
    credit: KnownCredit = field(default_factory=KnownCredit)
    """What accounts had available after their latest holds."""
    calls: CallsInFlight = field(default_factory=CallsInFlight)
    """Counts the calls in flight of each account."""
    logged_bytes: LoggedBytes = field(default_factory=LoggedBytes)
    """Counts the bytes of large bodies that the log keeps, by account."""
    log_room: LogRoom = field(default_factory=LogRoom)
    """Counts the calls in logs that accept no more once they are full."""
    settle_times: SettleTimes = field(default_factory=SettleTimes)
    """How long it took to settle the latest calls."""
    spend_watch: SpendWatch = field(default_factory=SpendWatch)
    """Accounts for which spend alerts may be due."""
    live_pages: LivePages = field(default_factory=LivePages)
    """Counts the pages that receive live updates."""
    jobs: Jobs = field(default_factory=Jobs)
    """Background jobs: how often each was restarted, and which of them hang."""
    queue_search: QueueSearch = field(init=False)
    """The search for background work that is due."""
    rates: RateLimiter = field(default_factory=RateLimiter)
    """Counts operations that are rate-limited because they are expensive (http.quotas)."""
    route_rates: RateLimiter = field(default_factory=RateLimiter)
    """Counts the requests at the rate limits of dynamic routes; on PostgreSQL together with the other processes."""
    gateway_rates: RateLimiter = field(default_factory=RateLimiter)
    """Counts the calls of gateways that have a rate limit; on PostgreSQL together with the other processes."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", Tokens(self.upstream, self.clock))
        object.__setattr__(self, "stored_objects", StoredObjects(self.database))
        object.__setattr__(self, "queue_search", QueueSearch(self.database, self.clock))
        object.__setattr__(self, "readiness", Readiness(self.database, self.journal))
        object.__setattr__(
            self,
            "response_cache",
            ResponseCache(self.database, self.tasks, self.settings, self.clock, self.shared_cache),
        )

    metrics: Metrics = field(default_factory=Metrics)
    """The process's metrics."""
    pending_writes: PendingWrites = field(default_factory=PendingWrites)
    """Records of calls answered from the cache that wait to be written."""
    unpaid: UnpaidWork = field(default_factory=UnpaidWork)
    """What calls abandoned before their response may cost the operator, by account."""


def processor_of(services: Services) -> Processor:
    """The payment processor. Raises Problem(PAYMENTS_OFF) if there is none."""
    if services.processor is None:
        raise Problem(PAYMENTS_OFF, "Payments are switched off on this server.")
    return services.processor
