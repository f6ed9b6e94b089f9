"""From settings to services: the only place where `Services` is created, and closed in reverse order."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from farebox import lean_imports
from farebox.addresses import networks
from farebox.clock import Clock, Ids
from farebox.helper_processes import BeginHelper, HelperProcess, Pool
from farebox.jobs import Jobs
from farebox.ledger.ledger import Ledger, ledger_of
from farebox.limits.byte_budget import ByteBudget
from farebox.limits.concurrent import CallsInFlight
from farebox.limits.rate import RateLimiter
from farebox.metrics.families import SHARED_CACHE
from farebox.metrics.metrics import Metrics
from farebox.payments.processor import Processor
from farebox.pricing.unseen import UnseenRules, parse_rules
from farebox.providers.capabilities import Candidate, candidates_of
from farebox.providers.catalogue import provider_of
from farebox.providers.http1.opening import Guard
from farebox.providers.http1.pool import PooledUpstream
from farebox.providers.reading import Refusals, parse_refusals
from farebox.quoting import quoted
from farebox.runtime import last_uses, operator_alarms
from farebox.runtime.classifier import Classifier, classifier_of
from farebox.runtime.configuration import Configuration
from farebox.runtime.identity_provider import IdentityProvider, identity_provider_of
from farebox.runtime.instances import present
from farebox.runtime.journal import Journal
from farebox.runtime.scorer import Scorer, scorer_of
from farebox.runtime.services import Services
from farebox.runtime.waiters import CHECK_SECONDS, Waiters
from farebox.settings import Settings, SettingsError, proxies
from farebox.storage.config import installation_id
from farebox.storage.database import Database, open_database
from farebox.struct_types import prepare_struct_types
from farebox.vault import Vault

if TYPE_CHECKING:
    from farebox.storage.shared_responses import SharedResponses


@asynccontextmanager
async def open_services(
    settings: Settings,
    *,
    clock: Clock,
    ids: Ids,
    vault: Vault,
    base_url: str,
    grace_seconds: float,
    serves: bool,
    demo_url: str | None = None,
    metrics: Metrics | None = None,
    begin_helper: BeginHelper = HelperProcess,
) -> AsyncIterator[Services]:
    """The services of one process, until the block ends.

    `serves`: the process serves calls. It has a journal, posts what the journals of dead processes contain, and ends
    the holds that they left open. Otherwise the process is a command, and servers may be running beside it.
    `grace_seconds`: how long tasks in progress may continue at the end.

    Raises SettingsError, storage.sql.DatabaseUnavailable or storage.sql.SchemaMismatch.
    """
    prepare_struct_types()
    async with AsyncExitStack() as stack:
        metrics, jobs = metrics or Metrics(), Jobs()
        database = await open_database(settings, metrics.activity(), failed=jobs.failed)
        stack.push_async_callback(database.close)
        processor = await _processor(stack, settings, database, ids)
        upstream, custom_upstream, exports = _upstreams(stack, settings, jobs)
        helpers = _helpers(stack, settings, begin_helper)
        shared, instance = database.engine == "postgres", ids.log_id()
        ledger = ledger_of(database, instance)
        waiters = Waiters(check_seconds=CHECK_SECONDS if shared else None)
        services = Services(
            settings=settings,
            clock=clock,
            ids=ids,
            vault=vault,
            database=database,
            ledger=ledger,
            configuration=await Configuration.load(database, vault, clock, demo_url=demo_url),
            upstream=upstream,
            custom_upstream=custom_upstream,
            exports=exports,
            processor=processor,
            waiters=waiters,
            base_url=base_url,
            instance=instance,
            unseen_rules=_unseen_rules(settings),
            journal=_journal(settings, instance, database, ledger, waiters) if serves else None,
            helpers=helpers,
            refusals=_refusals(settings),
            zdr=_zdr(settings),
            scorer=_scorer(stack, settings, jobs),
            classifier=_classifier(stack, settings, clock, jobs),
            identity_provider=_identity_provider(stack, settings, clock, jobs),
            auto_models=_auto_models(settings),
            held=ByteBudget(settings.held_bytes_max, settings.account_held_bytes_max),
            calls=CallsInFlight(settings.calls_max, settings.account_calls_max),
            jobs=jobs,
            route_rates=RateLimiter(shared=shared),
            gateway_rates=RateLimiter(shared=shared),
            metrics=metrics,
            shared_cache=_shared_cache(stack, settings, vault, clock, metrics),
        )
        await stack.enter_async_context(_serving(services, grace_seconds))
        yield services


async def _processor(stack: AsyncExitStack, settings: Settings, database: Database, ids: Ids) -> Processor | None:
    named = partial(installation_id, new_id=ids.account_id()[:12])
    processor = open_processor(settings, await database.write(named))
    if processor is not None:
        stack.push_async_callback(processor.close)
    return processor


def _helpers(stack: AsyncExitStack, settings: Settings, begin_helper: BeginHelper) -> Pool:
    helpers = Pool(settings.helper_processes, body_bytes=settings.body_limit_bytes, begin=begin_helper)
    stack.push_async_callback(helpers.close)
    return helpers


def _shared_cache(
    stack: AsyncExitStack, settings: Settings, vault: Vault, clock: Clock, metrics: Metrics
) -> "SharedResponses | None":
    """The Redis or Valkey server for cached responses, if there is one; the client library is loaded only then. Raises
    SettingsError."""
    if not settings.cache_url:
        return None
    from farebox.storage.shared_responses import SharedResponses

    try:
        shared = SharedResponses(settings.cache_url, vault, clock, partial(metrics.count, SHARED_CACHE))
    except (ValueError, TypeError):  # its text may contain the password
        raise SettingsError("FAREBOX_CACHE_URL is not valkey[s]://USER:PASSWORD@HOST:PORT/NUMBER") from None
    stack.push_async_callback(shared.close)
    return shared


def _journal(settings: Settings, instance: str, database: Database, ledger: Ledger, waiters: Waiters) -> Journal:
    return Journal(settings.data_dir, instance, database=database, ledger=ledger, waiters=waiters)


@asynccontextmanager
async def _serving(services: Services, grace_seconds: float) -> AsyncIterator[None]:
    """Everything that must happen before the first call and after the last one."""
    journal = services.journal
    async with AsyncExitStack() as stack:
        if journal is not None:
            await journal.take_over()  # charges in journals are posted before anything is decided about their holds
            await stack.enter_async_context(present(services))
        stack.push_async_callback(services.ledger.close)
        stack.push_async_callback(operator_alarms.keep_last, services)
        stack.push_async_callback(last_uses.write_at_the_end, services)
        if journal is not None:
            stack.push_async_callback(journal.close)
        stack.push_async_callback(services.tasks.drain, grace_seconds)
        yield


def open_processor(settings: Settings, installation: str) -> Processor | None:
    """Stripe, if it is switched on; its client library is large, and is loaded only then. Raises SettingsError."""
    if not settings.stripe_secret_key:
        return None
    with lean_imports.without("requests"):  # an alternative HTTP client, slower to load than all the rest
        from farebox.payments.stripe import StripeProcessor

    return StripeProcessor(
        settings.stripe_secret_key,
        webhook_secret=settings.stripe_webhook_secret,
        api_base=settings.stripe_api_base,
        installation=installation,
        proxy=_proxy_to(settings.stripe_api_base),
    )


def _proxy_to(url: str) -> str | None:
    """Raises SettingsError."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise SettingsError(f"FAREBOX_STRIPE_API_BASE is not a URL: {error}") from error
    return proxies().for_origin(parts.scheme, parts.hostname or "", port)


def _unseen_rules(settings: Settings) -> UnseenRules:
    """Raises SettingsError."""
    try:
        return parse_rules(settings.unseen_input, settings.unseen_prior_tokens)
    except ValueError as error:
        raise SettingsError(f"FAREBOX_UNSEEN_INPUT: {error}") from error


def _upstreams(
    stack: AsyncExitStack, settings: Settings, jobs: Jobs
) -> tuple[PooledUpstream, PooledUpstream, PooledUpstream]:
    """Connections to the operator's providers, to custom ones, and to destinations of call data. Raises
    SettingsError."""
    seconds, failed = settings.connect_timeout_ms / 1000, jobs.failed
    upstream = PooledUpstream(connect_seconds=seconds, proxies=proxies(), failed=failed)
    custom, exports = (
        PooledUpstream(connect_seconds=seconds, proxies=proxies(), failed=failed, guard=_guard(settings))
        for _ in range(2)
    )
    for each in (upstream, custom, exports):
        stack.push_async_callback(each.close)
    return upstream, custom, exports


def _scorer(stack: AsyncExitStack, settings: Settings, jobs: Jobs) -> Scorer | None:
    """The operator's scorer, with connections of its own, so that its failures do not count as a provider's. Raises
    SettingsError."""
    if not settings.guardrails_url:
        return None
    seconds = min(settings.connect_timeout_ms, settings.guardrails_timeout_ms) / 1000
    upstream = PooledUpstream(connect_seconds=seconds, proxies=proxies(), failed=jobs.failed)
    stack.push_async_callback(upstream.close)
    return scorer_of(settings, upstream)


def _classifier(stack: AsyncExitStack, settings: Settings, clock: Clock, jobs: Jobs) -> Classifier | None:
    """The operator's classifier, also with connections of its own. Raises SettingsError."""
    if not settings.classifier_url:
        return None
    seconds = min(settings.connect_timeout_ms, settings.classifier_timeout_ms) / 1000
    upstream = PooledUpstream(connect_seconds=seconds, proxies=proxies(), failed=jobs.failed)
    stack.push_async_callback(upstream.close)
    return classifier_of(settings, upstream, clock)


def _identity_provider(stack: AsyncExitStack, settings: Settings, clock: Clock, jobs: Jobs) -> IdentityProvider | None:
    """The operator's OpenID provider, also with connections of its own. Raises SettingsError."""
    if not settings.oidc_issuer:
        return None
    seconds = settings.connect_timeout_ms / 1000
    upstream = PooledUpstream(connect_seconds=seconds, proxies=proxies(), failed=jobs.failed)
    stack.push_async_callback(upstream.close)
    return identity_provider_of(settings, upstream, clock)


def _guard(settings: Settings) -> Guard:
    """Raises SettingsError."""
    try:
        return Guard(networks(settings.custom_networks))
    except ValueError as error:
        raise SettingsError(f"FAREBOX_CUSTOM_NETWORKS: {error}") from error


def _zdr(settings: Settings) -> frozenset[str]:
    """Raises SettingsError."""
    found: set[str] = set()
    for name in filter(None, (part.strip() for part in settings.zdr_providers.split(","))):
        provider = provider_of(name)
        if provider is None:
            raise SettingsError(f"FAREBOX_ZDR_PROVIDERS: there is no provider {quoted(name)}")
        found.add(provider.slug)
    return frozenset(found)


def _auto_models(settings: Settings) -> tuple[Candidate, ...]:
    """Raises SettingsError."""
    try:
        return candidates_of(settings.auto_models)
    except ValueError as error:
        raise SettingsError(f"FAREBOX_AUTO_MODELS: {error}") from error


def _refusals(settings: Settings) -> Mapping[str, Refusals]:
    """Raises SettingsError."""
    try:
        return parse_refusals(settings.refused_fields, settings.refused_tools)
    except ValueError as error:
        raise SettingsError(f"FAREBOX_REFUSED_FIELDS, FAREBOX_REFUSED_TOOLS: {error}") from error
