"""Choosing the key of a call if several share the calls: at random by weight, without those that a provider has
recently refused or rate limited. Also the rate limit of a stored key.
"""

import math
from typing import Final

import structlog
from msgspec.structs import replace

from farebox.calendar import seconds_until
from farebox.calls.model import Call, KeyChoice, KeyLimit
from farebox.errors import KEY_RATE_LIMITED, Problem
from farebox.http_date import http_date
from farebox.quoting import quoted
from farebox.runtime.services import Services
from farebox.storage.buckets import OPERATOR
from farebox.weighted_choice import weighted_index

REFUSED: Final = (401, 402, 403, 429)
"""Statuses that concern the key or what it may do, so that another key may succeed."""
_OF_THE_KEY: Final = (401, 402)
"""Those that concern the key whatever it is used for. The others may concern the model."""
PAUSE_SECONDS: Final = 60
LIMITED_SECONDS: Final = 10
"""How long a rate limited key is paused if the provider does not say."""
PAUSE_MAX_SECONDS: Final = 3_600

log = structlog.get_logger("farebox.calls")


def choose_key(services: Services, call: Call) -> Call:
    """The call with the key that it is made with, counted against that key's rate limit, if it has one. If all keys
    that share the calls are paused, the one whose pause ends first is chosen. Raises Problem (KEY_RATE_LIMITED)."""
    if not call.keys:
        limit = call.key_limit
        at = _count(services, call, limit)
        if limit is not None and at is not None:
            words = f"takes {limit.limit} calls in {limit.seconds} seconds"
            raise _limited(services, f"the stored key {quoted(call.key_alias)} for {call.provider} {words}", at)
        return call
    until = {key.key_id: _until(services, call, key) for key in call.keys}
    now, opens = services.clock.now_ms(), list[int]()
    key = _choose(services, call, [key for key in call.keys if until[key.key_id] <= now], opens)
    paused = sorted((key for key in call.keys if until[key.key_id] > now), key=lambda key: until[key.key_id])
    while key is None and paused:
        key = _choose(services, call, [paused.pop(0)], opens)
    if key is None:
        words = f"all stored keys for {call.provider} have reached their rate limits"
        raise _limited(services, words, min(opens))
    return replace(
        call,
        key_id=key.key_id,
        key_alias=key.alias,
        key_limit=key.limit,
        headers=key.headers,
        sent_head=key.sent_head,
        signing=key.signing,
    )


def another_key(services: Services, call: Call, tried: tuple[str, ...]) -> KeyChoice | None:
    """A key that has not been tried for the call and is not paused, counted against its rate limit; None if there is
    none."""
    now = services.clock.now_ms()
    left = [key for key in call.keys if key.key_id not in tried]
    return _choose(services, call, [key for key in left if _until(services, call, key) <= now], [])


def pause_key(services: Services, call: Call, key_id: str, status: int, headers: list[tuple[str, str]]) -> None:
    """Pause the key that got this response, for as long as the provider asks."""
    now = services.clock.now_ms()
    seconds = retry_after_seconds(headers, now) or (LIMITED_SECONDS if status == 429 else PAUSE_SECONDS)
    seconds = min(max(seconds, 1), PAUSE_MAX_SECONDS)
    model = "" if status in _OF_THE_KEY else call.model
    services.paused_keys.pause(_owner(call), key_id, model, now + round(seconds * 1000))
    log.info("key paused", provider=call.provider, key=key_id, model=model, status=status, seconds=seconds)


def note_use(services: Services, call: Call, key_id: str, at: int) -> None:
    """Note that the provider was called with this key, unless it is the caller's own."""
    if not call.own_key:
        services.last_uses.note((OPERATOR, "provider", key_id or call.provider), at)
    elif key_id:
        services.last_uses.note((call.account_id, "provider_config", key_id), at)


def retry_after_seconds(headers: list[tuple[str, str]], now: int) -> float:
    """The seconds that a response asks to wait (`Retry-After` in seconds or as a date, or OpenAI's `retry-after-ms`); 0
    if it does not say."""
    found = {name.lower(): value.strip() for name, value in headers}
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(found.get(name, "")) * unit
        except ValueError:
            continue
        return seconds if math.isfinite(seconds) and seconds > 0 else 0.0
    until = http_date(found.get("retry-after", ""))
    return 0.0 if until is None else max(0.0, until - now / 1000)


def _owner(call: Call) -> str:
    """The owner of the keys that the call may use."""
    return call.account_id if call.own_key else OPERATOR


def _until(services: Services, call: Call, key: KeyChoice) -> int:
    """When the key may be used for the call (Unix milliseconds); a time in the past means now."""
    return services.paused_keys.until(_owner(call), key.key_id, call.model)


def _choose(services: Services, call: Call, keys: list[KeyChoice], opens: list[int]) -> KeyChoice | None:
    """One of these keys, chosen at random by weight, whose rate limit admits the call. For each key whose limit does
    not, the time when it admits a call again is added to `opens`."""
    while keys:
        key = keys.pop(weighted_index([key.weight for key in keys], services.ids.chance()))
        at = _count(services, call, key.limit)
        if at is None:
            return key
        opens.append(at)
    return None


def _count(services: Services, call: Call, limit: KeyLimit | None) -> int | None:
    """Count the call against the limit. Returns None, or if the limit is exceeded, when a call is admitted again (Unix
    milliseconds)."""
    if limit is None:
        return None
    return services.gateway_rates.admit(
        (call.account_id, f"key/{limit.config_id}"),
        limit.limit,
        limit.seconds,
        sliding=False,
        now_ms=services.clock.now_ms(),
    )


def _limited(services: Services, why: str, at: int) -> Problem:
    wait = seconds_until(at, services.clock.now_ms())
    return Problem(KEY_RATE_LIMITED, f"Rate limited: {why}.", retry_after=wait, resets_at=at)
