"""Settings: the only module that reads the environment. docs/settings.md lists each one (a test checks it).

A setting comes from the environment, else from the file that FAREBOX_CONFIG names (TOML; the same names in lower case
without the prefix), else from its default. If a setting is invalid or unknown, the program refuses to start, and says
what to do.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from farebox.dns_txt import servers_of
from farebox.ingress import check_ingress
from farebox.key_file import decoded_key, key_of_file
from farebox.proxies import Proxies, proxies_of
from farebox.setting_checks import check_combinations
from farebox.setting_values import parse_value, values_of_file

PREFIX = "FAREBOX_"


class SettingsError(ValueError):
    """A setting is invalid; the message names it, and says what was found and what is valid."""


def _setting(
    default: Any, help_text: str, low: int | None = None, high: int | None = None, *, secret: bool = False
) -> Any:
    """The dataclass field of one setting. The value of a `secret` setting is never displayed."""
    return field(default=default, repr=not secret, metadata={"help": help_text, "low": low, "high": high})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings. Field `x` is the variable FAREBOX_X."""

    data_dir: str = _setting("./data", "Folder of the database, the secret key and the lock file; created if missing.")
    database_url: str = _setting(
        "",
        "`sqlite:///PATH`, or `postgresql://USER:PASSWORD@HOST:PORT/NAME` (several hosts: the one that accepts writes "
        "is used); by default `farebox.db` in the data folder.",
        secret=True,
    )
    database_timeout_ms: int = _setting(
        5_000, "Longest wait for PostgreSQL; then calls are refused and charges kept until it is back.", 100, 60_000
    )
    standby: Literal["ignore", "require"] = _setting(
        "ignore",
        "`require`: calls are refused while no synchronous standby is streaming from PostgreSQL "
        "(docs/high-availability.md).",
    )
    instance_timeout_ms: int = _setting(
        30_000,
        "On PostgreSQL: time without a sign of life after which a gateway process is declared dead.",
        1_000,
        3_600_000,
    )
    buckets: int = _setting(
        1, "Number of buckets that new accounts are spread over. More than one is for Citus: docs/citus.md.", 1, 1024
    )
    secret_key: str = _setting(
        "", "32 bytes in base64 that protect stored secrets; created in the data folder on first start.", secret=True
    )
    host: str = _setting("127.0.0.1", "Address to listen on.")
    port: int = _setting(8787, "Port to listen on.", 1, 65535)
    public_url: str = _setting(
        "", "Base URL that clients use, for links in responses; it may have a path. By default http://HOST:PORT."
    )
    trusted_proxies: str = _setting(
        "", "Addresses and networks of trusted proxies in front, such as `127.0.0.1,10.0.0.0/8`."
    )
    forwarded_header: Literal["x-forwarded-for", "forwarded"] = _setting(
        "x-forwarded-for", "The header in which trusted proxies report the client's address; the other one is not read."
    )
    proxy_protocol: Literal["off", "on"] = _setting("off", "`on`: trusted proxies use the PROXY protocol (1 or 2).")
    metrics_port: int = _setting(0, "Separate port for `GET /metrics` (docs/metrics.md); 0: none.", 0, 65535)
    metrics_host: str = _setting("127.0.0.1", "Its address. If others can reach it, FAREBOX_METRICS_TOKEN is needed.")
    metrics_token: str = _setting(
        "", "Token for `GET /metrics`, there and on the main port: 16 to 512 characters.", secret=True
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "Minimum level that is logged.")
    log_format: Literal["auto", "json", "text"] = _setting("auto", "`auto`: text on a terminal, JSON elsewhere.")
    body_limit_bytes: int = _setting(32 * 2**20, "Largest request body.", 1024, 2**30)
    header_limit_bytes: int = _setting(64 * 2**10, "Largest request head: all headers together.", 4096, 2**20)
    account_files_max: int = _setting(1_000, "Files that one account may have at providers.", 0, 100_000)
    account_files_bytes_max: int = _setting(2**30, "Their total size, in bytes.", 0, 2**50)
    calls_max: int = _setting(2000, "Model calls in flight at once in each process; others get 503.", 1, 10**6)
    account_calls_max: int = _setting(
        1000,
        "The same for one account, which receives 429; it is also never given more than half of what the others leave.",
        1,
        10**6,
    )
    helper_processes: int = _setting(
        2,
        "Maximum number of helper processes per gateway process, which parse large request bodies and count tokens; "
        "started when there is work, ended after a minute without.",
        1,
        64,
    )
    estimate_max_cents: int = _setting(
        0,
        "Cap on the estimated cost of one call on the operator's key, in US cents: its output is limited accordingly, "
        "or else it is refused (`estimate_capped`); 0: no cap.",
        0,
        10**8,
    )
    output_default: int = _setting(
        0,
        "Output limit, in tokens, of calls on the operator's key whose request has none; it is held instead of all "
        "that the model can produce. 0: no limit.",
        0,
        10**7,
    )
    refused_fields: str = _setting(
        "",
        "Request fields that are refused on the operator's key, as `PROVIDER:FIELD,…`, for example "
        "`openai:service_tier`; `*` for every provider.",
    )
    refused_tools: str = _setting("", "The same for tools, by type or kind, such as `anthropic:web_search,openai:mcp`.")
    held_bytes_max: int = _setting(
        512 * 2**20,
        "Bytes of request bodies and waiting responses that a process keeps in memory for all accounts together; "
        "further ones receive 503.",
        16 * 2**20,
        2**40,
    )
    account_held_bytes_max: int = _setting(
        256 * 2**20,
        "The same for one account, which is also never given more than half of what the others leave.",
        2**20,
        2**40,
    )
    cache_bytes_max: int = _setting(
        256 * 2**20, "Bytes of cached responses of all accounts together; accounts with the most lose some.", 0, 2**40
    )
    account_cache_bytes_max: int = _setting(32 * 2**20, "The same for one account.", 0, 2**40)
    cache_url: str = _setting(
        "", "Valkey or Redis server for the cache, `valkeys://:PASSWORD@HOST:PORT` (docs/operating.md).", secret=True
    )
    hold_wait_ms: int = _setting(250, "How long a call waits for money held by others, before a 429.", 0, 60_000)
    connect_timeout_ms: int = _setting(10_000, "Time to connect to a provider.", 1, 300_000)
    first_byte_timeout_ms: int = _setting(300_000, "Time until a provider begins to respond.", 1, 3_600_000)
    request_timeout_min_ms: int = _setting(
        10_000, "Minimum `cf-aig-request-timeout` on the operator's key; a shorter one is raised to it.", 1, 3_600_000
    )
    retry_timeouts: Literal["deny", "allow"] = _setting(
        "deny", "Whether a request on the operator's key that timed out is sent again, and possibly billed twice."
    )
    read_timeout_ms: int = _setting(120_000, "Longest silence within a provider's response.", 1, 3_600_000)
    stream_comment_ms: int = _setting(
        10_000,
        "Silence in an event stream after which a comment is sent, so that no proxy considers it dead; 0: never. "
        "Formats whose SDKs cannot handle comments get none (docs/proxies.md).",
        0,
        3_600_000,
    )
    call_timeout_ms: int = _setting(1_800_000, "Longest call; its hold expires a minute later.", 1, 86_400_000)
    websocket_message_bytes: int = _setting(16 * 2**20, "Largest message of a WebSocket.", 1024, 2**28)
    websocket_idle_ms: int = _setting(900_000, "Silence after which a WebSocket is closed.", 1_000, 86_400_000)
    websocket_max_ms: int = _setting(3_900_000, "Longest duration of a WebSocket.", 1_000, 86_400_000)
    key_trouble_retry_seconds: int = _setting(
        30,
        "`Retry-After` of the 503 when a provider rejects the operator's key or its account has no credit; 0: clients "
        "are instructed not to retry.",
        0,
        3_600,
    )
    in_doubt: Literal["release", "charge"] = _setting(
        "release",
        "What happens to calls interrupted by a crash: `release` gives the hold back, `charge` charges all of it.",
    )
    cut_stream: Literal["delivered", "hold", "free"] = _setting(
        "delivered",
        "Charge for a stream that ended before its usage arrived: `delivered` counts what was not reported, `hold` "
        "charges the whole hold, `free` nothing.",
    )
    unpaid_hourly_cents: int = _setting(
        1_000,
        "US cents that an account's abandoned calls may leave unpaid per hour and process (docs/operating.md); 0: any.",
        0,
        10**8,
    )
    unseen_input: str = _setting(
        "",
        "What is held for input that requests do not show, as `KIND=RULE,…` overriding the defaults: `window`, "
        "`learned` or `refuse` (docs/operating.md).",
    )
    unseen_percentile: int = _setting(
        99, "Percentile of the input that recent uses of a `learned` tool added: it is held for the next.", 50, 100
    )
    unseen_prior_tokens: int = _setting(
        32_000, "Minimum number of tokens held for each use of a `learned` tool.", 0, 10**6
    )
    overrun_alarm_cents: int = _setting(
        1_000, "US cents written off by one process in a day above which the operator is alerted; 0: never.", 0, 10**8
    )
    no_credit_status: Literal["auto", "402", "429"] = _setting(
        "auto",
        "The status of `no_credit` and `limit_too_low`: `auto` is 429 for Codex, which repeats a 402, else 402.",
    )
    log_days: int = _setting(30, "Days that log rows and bodies are kept. Receipts and transfers stay.", 1, 36_500)
    log_body_limit_bytes: int = _setting(
        1_000_000, "Largest request or response body that is kept with its log row.", 0, 10_000_000
    )
    guardrails_url: str = _setting(
        "", "The scorer that judges texts for gateways with guardrails (docs/guardrails.md); empty: there is none."
    )
    guardrails_key: str = _setting("", "Its key, sent as `Authorization: Bearer`.", secret=True)
    guardrails_model: str = _setting(
        "", "Llama Guard model, if `FAREBOX_GUARDRAILS_URL` is an OpenAI-compatible server's base URL; empty: a hook."
    )
    guardrails_timeout_ms: int = _setting(5_000, "Longest wait for its answer.", 100, 120_000)
    classifier_url: str = _setting("", "The classifier of logs (docs/observability.md); empty: there is none.")
    classifier_key: str = _setting("", "Its key, sent as `Authorization: Bearer`.", secret=True)
    classifier_timeout_ms: int = _setting(30_000, "Longest wait for its answer.", 100, 120_000)
    stripe_secret_key: str = _setting(
        "", "Secret key of the Stripe account that takes payments; empty: no payments.", secret=True
    )
    stripe_webhook_secret: str = _setting(
        "",
        "Signing secret of the webhook endpoint `/webhooks/stripe`. Required if Stripe is switched on.",
        secret=True,
    )
    stripe_api_base: str = _setting("https://api.stripe.com", "Base URL of Stripe's API.")
    topup_min_cents: int = _setting(1_000, "Smallest top-up, in US cents; an account may have its own.", 50, 10**8)
    topup_max_cents: int = _setting(1_000_000, "Largest top-up, in cents; an account may have its own.", 50, 99_999_999)
    fee_percent: str = _setting("0", "Fee on top of each purchase of credit, in percent with at most four decimals.")
    fee_fixed_cents: int = _setting(0, "Fixed fee on top of each purchase of credit, in US cents.", 0, 10**6)
    credit_days: int = _setting(0, "Days until bought credit expires; 0: never.", 0, 36_500)
    auto_topup: Literal["on", "dry_run", "off"] = _setting(
        "on", "`off` stops every auto top-up, `dry_run` only logs what it would charge."
    )
    token_topup_config: Literal["allow", "deny"] = _setting(
        "allow", "Whether access tokens may change auto top-up settings; `deny` restricts that to the billing page."
    )
    spending_limit_post: Literal["allow", "deny"] = _setting(
        "allow", "Whether an account's spending limit can be set; `deny` returns Cloudflare's 403."
    )
    low_balance_cents: int = _setting(
        200,
        "Notify the owner when the balance falls below this, in US cents; 0: never. An account may have its own.",
        0,
        10**8,
    )
    openrouter_prompt_usd: int = _setting(
        5,
        "Maximum USD per million prompt tokens for an OpenRouter model without a list price, unless the request's "
        "`provider.max_price` says otherwise. It is sent with the request.",
        0,
        10_000,
    )
    openrouter_completion_usd: int = _setting(25, "The same, per million completion tokens.", 0, 10_000)
    stated_cost_percent: int = _setting(
        10,
        "Operator alarm if a provider's stated cost differs by more than this percentage from the cost at our prices.",
        1,
        1_000,
    )
    seller_name: str = _setting("", "Name of the seller, for invoices.")
    seller_address: str = _setting("", "Address of the seller, for invoices; `|` separates its lines.")
    seller_country: str = _setting("", "Country of the seller, two letters.")
    seller_tax_id: str = _setting("", "Tax ID of the seller, for invoices.")
    seller_email: str = _setting("", "E-mail address of the seller, for invoices and messages.")
    invoice_prefix: str = _setting("FB-", "Prefix of invoice numbers; credit notes add `CN-`.")
    smtp_url: str = _setting(
        "", "`smtp://USER:PASSWORD@HOST:PORT` (STARTTLS) or `smtps://…`; empty: no e-mail.", secret=True
    )
    smtp_from: str = _setting("", "Sender of e-mail; required with FAREBOX_SMTP_URL.")
    oidc_issuer: str = _setting(
        "", "Issuer URL of the OpenID provider that members sign in at (docs/pages.md); empty: there is none."
    )
    oidc_client_id: str = _setting("", "Client ID that Farebox has there.")
    oidc_client_secret: str = _setting(
        "", "Its secret; empty, with no file either: a public client, which PKCE alone protects.", secret=True
    )
    oidc_client_secret_file: str = _setting("", "A file that has the secret instead; it is read at startup.")
    oidc_name: str = _setting("Single sign-on", "Name of the provider on its button, such as `Acme ID`.")
    oidc_domains: str = _setting(
        "", "Domains of the e-mail addresses that may sign in there, as `example.com,example.org`; empty: any."
    )
    oidc_email: Literal["verified", "any"] = _setting(
        "verified",
        "`any`: addresses that the provider does not mark as verified are accepted too. Only if people cannot choose "
        "their own addresses there.",
    )
    webhook_private: Literal["deny", "allow"] = _setting(
        "deny", "Whether messages may be sent to private and loopback addresses."
    )
    custom_networks: str = _setting(
        "",
        "Private networks in which custom providers and the destinations of exports may be, also without TLS, such as "
        "`10.1.0.0/16`.",
    )
    auto_models: str = _setting(
        "",
        "Models that `cloudflare/auto` chooses from, as `openai/gpt-5-mini,anthropic/claude-*,demo/gold=tools+json`: "
        "`*` stands for a part of a name. What a model can do (`tools`, `images`, `json`, `reasoning`) follows after "
        "`=` if Farebox does not know it.",
    )
    dns_servers: str = _setting(
        "",
        "Name servers to query for the TXT records of custom domains, such as `192.0.2.53,192.0.2.54:5353`; by default "
        "the system's.",
    )
    zdr_providers: str = _setting(
        "", "Providers that retain nothing of calls on the operator's key, by agreement, such as `openai,anthropic`."
    )

    @property
    def engine(self) -> Literal["sqlite", "postgres"]:
        """Which database engine is configured."""
        return "postgres" if self.database_url.startswith(("postgresql://", "postgres://")) else "sqlite"

    @property
    def database_shown(self) -> str:
        """The database for display: without a password."""
        if self.engine == "sqlite":
            return str(self.database_path)
        scheme, _, rest = self.database_url.partition("://")
        credentials, at, place = rest.rpartition("@")  # only a plain user name before the last `@` is shown
        name = re.match(r"[^:/?#@]*", credentials)
        return f"{scheme}://{name[0] if name else ''}{at}{place.partition('?')[0]}"

    @property
    def database_path(self) -> Path:
        """The SQLite file."""
        if not self.database_url:
            return Path(self.data_dir) / "farebox.db"
        return Path(self.database_url.removeprefix("sqlite:///"))

    @property
    def fee_ppm(self) -> int:
        """The percent fee in parts per million."""
        whole, _, decimals = self.fee_percent.partition(".")
        return int(whole) * 10_000 + int(decimals.ljust(4, "0"))

    @property
    def base_url(self) -> str:
        """URL at which clients reach the server, without a trailing slash."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.public_url.rstrip("/") or f"http://{host}:{self.port}"


def load(environment: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """Read the settings. `overrides` (command-line options that were given) take precedence over both sources.

    Raises SettingsError.
    """
    environment = os.environ if environment is None else environment
    try:
        return _loaded(environment, overrides)
    except SettingsError:
        raise
    except ValueError as error:
        raise SettingsError(str(error)) from error


def _loaded(environment: Mapping[str, str], overrides: Mapping[str, object]) -> Settings:
    """Raises ValueError."""
    values = values_of_file(environment.get(PREFIX + "CONFIG", ""))
    known = {item.name: item for item in fields(Settings)}
    for name, text in environment.items():
        if name.startswith(PREFIX) and name != PREFIX + "CONFIG" and not name.startswith(PREFIX + "TEST_"):
            values[name.removeprefix(PREFIX).lower()] = text
    values |= {name: value for name, value in overrides.items() if value is not None}
    parsed: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise SettingsError(f"{PREFIX}{name.upper()} is not a setting of Farebox; docs/settings.md lists them all")
        parsed[name] = parse_value(PREFIX + name.upper(), value, known[name].type, known[name].metadata)
    settings = Settings(**parsed)
    check_ingress(settings.public_url, settings.trusted_proxies, settings.proxy_protocol)
    check_combinations(settings)
    servers_of(settings.dns_servers)
    return settings


def proxies(environment: Mapping[str, str] | None = None) -> Proxies:
    """The proxies that the usual variables name. Raises SettingsError if one cannot be used."""
    try:
        return proxies_of(os.environ if environment is None else environment)
    except ValueError as error:
        raise SettingsError(str(error)) from error


def secret_key(settings: Settings) -> bytes:
    """The secret key: from the setting, else from the data folder, where it is created on first use (mode 0600).

    Raises SettingsError if it is not 32 bytes of base64, or others may read the file.
    """
    try:
        if settings.secret_key:
            return decoded_key(settings.secret_key, "FAREBOX_SECRET_KEY")
        return key_of_file(Path(settings.data_dir) / "secret.key")
    except ValueError as error:
        raise SettingsError(str(error)) from error
