"""Every metric, in one table. A new one is an entry here, a place that counts it, and a row in docs/metrics.md.

A label has few values, all of them known here: nothing that a caller chooses (accounts, models, paths) is a label. So
the number of series is fixed, each exists from the start, and nothing about a tenant is exposed.
"""

from typing import Final, get_args

from farebox import errors
from farebox.counts import MICROS, OTHER, Family, Label, Layout
from farebox.ledger.books import TRANSFERS
from farebox.money import NANOS_PER_USD
from farebox.payments.states import OPEN_TOP_UPS, TOP_UP_STATES
from farebox.providers.catalogue import PROVIDERS
from farebox.providers.upstream import Cause
from farebox.storage.notices import ALARM_KINDS

RESULTS: Final = ("charged", "free", "own_key", "released", "refused")
KINDS: Final = (
    *sorted({kind.name for kind in vars(errors).values() if isinstance(kind, errors.ErrorKind)}),
    OTHER,
)
CAUSES: Final = (
    "client_gone",
    "connection_failed",
    "provider_4xx",
    "provider_5xx",
    "provider_failed",
    "provider_silent",
    "server_stopped",
    "too_long",
    *KINDS,
)
"""Why calls fail: what happened to their responses, or the kind of error returned instead."""

JOBS: Final = (
    "auto_top_up", "budgets", "cache", "configuration", "custom_domains", "expiring_cards", "evaluations", "expiry",
    "http_sweeper", "instances", "jobs_late", "journal", "journals_left", "kept_objects", "last_uses",
    "log_classification", "log_push", "logs", "long_calls", "messages", "meter_events", "operator_alarms",
    "processor_events", "queues", "rate_windows", "rates", "reconcile", "refunds", "spans", "spend_alerts",
    "spend_alerts_sweep", "sqlite_writer", "top_ups", "trouble", "undelivered", "upstream_sweeper", "usage_values",
    OTHER,
)  # fmt: skip
"""Background work: the jobs of farebox.periodic_jobs, and other tasks supervised by farebox.jobs."""

_provider = Label("provider", (*(provider.slug for provider in PROVIDERS), OTHER))
_SECONDS: Final = tuple(
    int(seconds * MICROS)
    for seconds in (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
)
_CALL_MS: Final = (50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000)

# Calls.
CALLS = Family(
    name="farebox_calls_total",
    help="Model calls that ended, by provider and outcome.",
    labels=(_provider, Label("result", RESULTS)),
)
CALL_ERRORS = Family(
    name="farebox_call_errors_total",
    help="Model calls that ended with an error, by its cause.",
    labels=(Label("cause", CAUSES),),
)
REFUSED = Family(
    name="farebox_refused_total",
    help="Requests to the data plane that were refused before they became a call, by error.",
    labels=(Label("error", KINDS),),
)
CLIENTS_GONE = Family(name="farebox_clients_gone_total", help="Clients that disconnected before their call had ended.")
CACHE_LOOKUPS = Family(
    name="farebox_cache_lookups_total",
    help="Calls that might be answered from their gateway's cache, by whether they were.",
    labels=(Label("result", ("hit", "miss")),),
)
SCREENED = Family(
    name="farebox_screened_total",
    help="Requests and responses that were screened by the rules of their gateway, by result.",
    labels=(Label("check", ("request", "response")), Label("result", ("passed", "flagged", "blocked", "unscreened"))),
)
SCORER_ASKED = Family(
    name="farebox_scorer_asked_total",
    help="Texts that were sent to the scorer of guardrails, by result.",
    labels=(Label("result", ("answered", "failed")),),
)
SCORER_SECONDS = Family(
    name="farebox_scorer_seconds",
    help="Time until the scorer of guardrails answered.",
    kind="histogram",
    per_unit=MICROS,
    bounds=_SECONDS,
)
CLASSIFIED = Family(
    name="farebox_classified_total",
    help="Requests to the classifier of logs, by result.",
    labels=(Label("result", ("classified", "unknown", "failed")),),
)
SHARED_CACHE = Family(
    name="farebox_shared_cache_requests_total",
    help="Requests to the shared cache (FAREBOX_CACHE_URL), by result.",
    labels=(Label("result", ("hit", "miss", "kept", "failed", "skipped")),),
)
SOCKETS_ENDED = Family(
    name="farebox_websockets_ended_total",
    help="WebSockets that have ended, by who or what ended them.",
    labels=(Label("how", ("client", "provider", "error", "time", "stopped")),),
)
SOCKET_MESSAGES = Family(
    name="farebox_websocket_messages_total",
    help="Messages of WebSockets, by whether they came from clients (out) or from providers (in).",
    labels=(Label("direction", ("out", "in")),),
)
CALLS_IN_FLIGHT = Family(name="farebox_calls_in_flight", help="Model calls in flight.", kind="gauge")
HELD_BYTES = Family(
    name="farebox_held_bytes",
    help="Bytes of bodies and responses that exchanges in progress keep in memory.",
    kind="gauge",
)
HELD_REFUSED = Family(
    name="farebox_held_bytes_refused_total",
    help="Times that there was no room for more bytes, by whose limit was reached.",
    labels=(Label("budget", ("account", "process")),),
)
CALL_SECONDS = Family(
    name="farebox_call_seconds",
    help="Duration of model calls, from the complete request to the end of the response.",
    kind="histogram",
    per_unit=1000,
    bounds=_CALL_MS,
)
FIRST_BYTE_SECONDS = Family(
    name="farebox_first_byte_seconds",
    help="Time until the provider began to respond, for calls that it responded to.",
    kind="histogram",
    per_unit=1000,
    bounds=_CALL_MS,
)
HOLD_SECONDS = Family(
    name="farebox_hold_seconds",
    help="Time until the ledger's verdict on a hold was durable.",
    kind="histogram",
    per_unit=MICROS,
    bounds=_SECONDS,
)
SETTLE_SECONDS = Family(
    name="farebox_settle_seconds",
    help="Time until the end of a call, with its charge, was durable in the database or in the journal.",
    kind="histogram",
    per_unit=MICROS,
    bounds=_SECONDS,
)
IMPLAUSIBLE_USAGE = Family(
    name="farebox_usage_disbelieved_total",
    help="Responses with impossible usage, so that the whole hold was charged.",
    labels=(_provider,),
)
KEY_TROUBLE = Family(
    name="farebox_provider_key_trouble_total",
    help="Responses by which a provider rejected the operator's key, or said that its account has no credit.",
    labels=(_provider, Label("reason", ("key_refused", "no_credit"))),
)
UPSTREAM_FAILURES = Family(
    name="farebox_upstream_failures_total",
    help="Requests to providers that failed, or responses that broke off, by cause.",
    labels=(Label("cause", get_args(Cause)),),
)
UPSTREAM_RESENT = Family(
    name="farebox_upstream_resent_total",
    help="Requests sent again because the connection had been closed before anything of them was read.",
)

# Money.
MONEY = Family(
    name="farebox_money_usd_total",
    help="US dollars that this server's commits moved between books, by kind of transfer.",
    labels=(Label("kind", tuple(TRANSFERS)),),
    per_unit=NANOS_PER_USD,
)
TOP_UPS = Family(
    name="farebox_top_ups_total",
    help="Transitions of purchases of credit into a state.",
    labels=(Label("state", tuple(TOP_UP_STATES)),),
)

# Writes.
BATCH_SIZE = Family(
    name="farebox_batch_size",
    help="Commands and jobs in one commit of the ledger's batches.",
    kind="histogram",
    bounds=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
COMMIT_SECONDS = Family(
    name="farebox_commit_seconds",
    help="Duration of commits: of batches, and on PostgreSQL of single jobs.",
    kind="histogram",
    labels=(Label("of", ("batch", "job")),),
    per_unit=MICROS,
    bounds=_SECONDS,
)
SLOW_COMMANDS = Family(
    name="farebox_ledger_slow_commands_total",
    help="Holds and ends of holds that were carried out one by one, not with the others of their batch.",
)
WRITE_QUEUE = Family(name="farebox_write_queue_length", help="Commands and jobs waiting to be written.", kind="gauge")
JOURNALED = Family(
    name="farebox_journaled_total",
    help="Ends of calls that were kept in the journal because the database was unavailable.",
)
JOURNAL_ENTRIES = Family(
    name="farebox_journal_entries", help="Lines of the journal that are still to be posted.", kind="gauge"
)
JOURNAL_BYTES = Family(
    name="farebox_journal_bytes", help="Bytes of the journal that are still to be posted.", kind="gauge"
)
JOURNAL_AGE = Family(
    name="farebox_journal_oldest_age_seconds",
    help="Age of the oldest journal file that is still to be posted; 0 if there is none.",
    kind="gauge",
    per_unit=1000,
    combine="max",
)
JOURNAL_REFUSED = Family(
    name="farebox_journal_refused_bytes",
    help="Bytes of journal lines that were set aside because they cannot be posted.",
    kind="gauge",
    combine="max",
)

# The process, and the services that it exchanges messages with.
WEBHOOKS = Family(
    name="farebox_processor_webhooks_total",
    help="Webhooks received from the payment processor.",
    labels=(Label("result", ("stored", "refused")),),
)
DELIVERIES = Family(
    name="farebox_deliveries_total",
    help="Attempts to deliver messages by webhook or e-mail, by result.",
    labels=(Label("by", ("webhook", "mail")), Label("result", ("delivered", "failed", "given_up"))),
)
SPANS = Family(
    name="farebox_spans_total",
    help="Spans of calls for the destinations of their gateways, by result.",
    labels=(Label("result", ("delivered", "rejected", "dropped")),),
)
SPANS_WAITING = Family(name="farebox_spans_waiting", help="Spans still to be sent or sent again.", kind="gauge")
LOG_FILES = Family(
    name="farebox_log_files_total",
    help="Files of logs that were sent to the destinations of accounts, by result.",
    labels=(Label("result", ("pushed", "failed")),),
)
LOGS_PUSHED = Family(name="farebox_logs_pushed_total", help="Logs in files that their destinations accepted.")
METER_EVENTS = Family(
    name="farebox_meter_events_total",
    help="Events for Stripe meters of accounts: accepted by Stripe, rejected, or skipped because a value was missing.",
    labels=(Label("result", ("sent", "rejected", "skipped")),),
)
ALARMS = Family(
    name="farebox_operator_alarms_total",
    help="Operator alarms raised.",
    labels=(Label("kind", ALARM_KINDS),),
)
JOB_RESTARTS = Family(
    name="farebox_job_restarts_total",
    help="Times that a background job ended and was restarted.",
    labels=(Label("job", JOBS),),
)
JOBS_LATE = Family(name="farebox_jobs_late", help="Jobs whose current round takes too long: they hang.", kind="gauge")
ALARMS_DROPPED = Family(name="farebox_operator_alarms_dropped_total", help="Operator alarms that were dropped.")
LOG_DROPPED = Family(name="farebox_log_lines_dropped_total", help="Log lines that could not be written.")
RELOADS = Family(
    name="farebox_configuration_loads_total",
    help="Times that a process read all of the configuration: at startup, and after changes that concern all.",
)
LAG = Family(
    name="farebox_event_loop_lag_seconds",
    help="How late the event loop was for a timer that fires four times a second.",
    kind="histogram",
    per_unit=MICROS,
    bounds=_SECONDS,
)
WORKER_DEATHS = Family(
    name="farebox_worker_deaths_total", help="Gateway processes of `--workers` that ended and were started again."
)

COUNTED: Final = (
    CALLS, CALL_ERRORS, REFUSED, CLIENTS_GONE, SOCKETS_ENDED, SOCKET_MESSAGES, CACHE_LOOKUPS, SHARED_CACHE, SCREENED,
    SCORER_ASKED, SCORER_SECONDS,
    CALLS_IN_FLIGHT, HELD_BYTES, HELD_REFUSED, CALL_SECONDS, FIRST_BYTE_SECONDS, HOLD_SECONDS, SETTLE_SECONDS,
    IMPLAUSIBLE_USAGE, KEY_TROUBLE, UPSTREAM_FAILURES, UPSTREAM_RESENT, MONEY, TOP_UPS, BATCH_SIZE, COMMIT_SECONDS,
    SLOW_COMMANDS, WRITE_QUEUE, JOURNALED, JOURNAL_ENTRIES, JOURNAL_BYTES, JOURNAL_AGE, JOURNAL_REFUSED, WEBHOOKS,
    DELIVERIES, SPANS, SPANS_WAITING, LOG_FILES, LOGS_PUSHED, METER_EVENTS, CLASSIFIED, ALARMS, JOB_RESTARTS, JOBS_LATE,
    ALARMS_DROPPED, LOG_DROPPED, RELOADS, LAG, WORKER_DEATHS,
)  # fmt: skip
"""What processes count, each in its row of the sheet."""

# Read when scraped; from the database at most every few seconds.
DATABASE_UP = Family(
    name="farebox_database_up",
    help="1 if the database answers; 0 if not, and then its other figures are absent.",
    kind="gauge",
)
OPEN_HOLDS = Family(name="farebox_open_holds", help="Open holds, over all processes.", kind="gauge")
OPEN_HOLDS_USD = Family(
    name="farebox_open_holds_usd", help="US dollars reserved by open holds.", kind="gauge", per_unit=NANOS_PER_USD
)
OPEN_HOLDS_AGE = Family(
    name="farebox_open_holds_oldest_age_seconds",
    help="Age of the oldest open hold; 0 if there is none.",
    kind="gauge",
    per_unit=1000,
)
OPEN_TOP_UPS_NOW = Family(
    name="farebox_open_top_ups",
    help="Purchases of credit in progress, by state.",
    kind="gauge",
    labels=(Label("state", OPEN_TOP_UPS),),
)
EVENTS_WAITING = Family(
    name="farebox_processor_events_waiting", help="Events of the payment processor still to be processed.", kind="gauge"
)
DELIVERIES_WAITING = Family(
    name="farebox_deliveries_waiting", help="Messages still to be delivered or retried.", kind="gauge"
)
INSTANCES = Family(
    name="farebox_instances", help="Gateway processes known to the database, on all machines.", kind="gauge"
)
IN_DATABASE: Final = (
    OPEN_HOLDS, OPEN_HOLDS_USD, OPEN_HOLDS_AGE, OPEN_TOP_UPS_NOW, EVENTS_WAITING, DELIVERIES_WAITING, INSTANCES,
)  # fmt: skip
WORKERS = Family(name="farebox_workers", help="Gateway processes that serve this port.", kind="gauge")

FAMILIES: Final = (*COUNTED, DATABASE_UP, *IN_DATABASE, WORKERS)
LAYOUT: Final = Layout(COUNTED)
