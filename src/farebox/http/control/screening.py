"""Validation of a gateway's `dlp` and `guardrails` beyond their types."""

from collections.abc import Iterator

from farebox.detection.profiles import BUILT_IN
from farebox.gateway import Dlp, GatewayConfig, Guardrails
from farebox.http.validation import Fault, InvalidInput, Path
from farebox.runtime.scorer import Scorer
from farebox.storage.dlp_profiles import PROFILES
from farebox.storage.sql import Connection


def faults(dlp: Dlp | None, guardrails: Guardrails | None, scorer: Scorer | None) -> list[Fault]:
    """Faults in the two, apart from unknown profiles; `scorer`: the operator's."""
    return [*_of_dlp(dlp), *_of_guardrails(guardrails, scorer)]


def check_profiles(connection: Connection, account_id: str, config: GatewayConfig) -> None:
    """Raises InvalidInput if the gateway names a profile that the account does not have."""
    named = [] if config.dlp is None else list(_profiles(config.dlp))
    if all(profile_id in BUILT_IN for _, profile_id in named):
        return
    known = {row.profile_id for row in PROFILES.list(connection, account_id)} | BUILT_IN.keys()
    found = [
        Fault(path, f"There is no DLP profile '{profile_id}': list them at …/farebox/dlp-profiles")
        for path, profile_id in named
        if profile_id not in known
    ]
    if found:
        raise InvalidInput(found)


def _profiles(dlp: Dlp) -> Iterator[tuple[Path, str]]:
    """The profiles that it names, each with its place."""
    for at, profile_id in enumerate(dlp.profiles or ()):
        yield ("body", "dlp", "profiles", at), profile_id
    for place, policy in enumerate(dlp.policies or ()):
        for at, profile_id in enumerate(policy.profiles):
            yield ("body", "dlp", "policies", place, "profiles", at), profile_id


def _of_dlp(dlp: Dlp | None) -> Iterator[Fault]:
    if not dlp:
        return
    if isinstance(dlp.policies, tuple):
        for name in ("action", "profiles"):
            if getattr(dlp, name):
                yield Fault(("body", "dlp", name), "Cannot be combined with 'policies': each policy has its own")
        seen: set[str] = set()
        for at, policy in enumerate(dlp.policies):
            if policy.id in seen:
                yield Fault(("body", "dlp", "policies", at, "id"), f"Another policy has the id '{policy.id}' too")
            seen.add(policy.id)
        return
    if not dlp.action:
        yield Fault(("body", "dlp", "action"), "Required")
    if not isinstance(dlp.profiles, tuple):
        yield Fault(("body", "dlp", "profiles"), "Required")


def _of_guardrails(guardrails: Guardrails | None, scorer: Scorer | None) -> Iterator[Fault]:
    """Faults in the guardrails: a scorer that does not judge a category would let everything through."""
    if not guardrails:
        return
    for side, rules in (("prompt", guardrails.prompt), ("response", guardrails.response)):
        if rules and scorer is None:
            message = (
                "Guardrails need a scorer, and this server has none: the operator can set FAREBOX_GUARDRAILS_URL "
                "(docs/guardrails.md)"
            )
            yield Fault(("body", "guardrails"), message)
            return
        for hazard in rules:
            if scorer is not None and hazard not in scorer.hazards:
                yield Fault(("body", "guardrails", side, hazard), "This server's scorer does not detect this category")
