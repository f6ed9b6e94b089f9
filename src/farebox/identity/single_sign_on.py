"""Signing in at the operator's OpenID provider. Members are identified by e-mail address, so the provider's address
decides.

Times are milliseconds since the Unix epoch.
"""

import msgspec
import structlog

from farebox.errors import SIGN_IN_FAILED, Problem
from farebox.identity import membership
from farebox.quoting import quoted
from farebox.runtime.identity_provider import IdentityProvider, ProviderFailed, SignInAttempt, UntrustedIdentity
from farebox.runtime.services import Services
from farebox.settings import Settings
from farebox.vault import same

RETURN_PATH = "/ui/sign-in/oidc/done"
SIGNED_OUT_PATH = "/ui/signed-out"

log = structlog.get_logger("farebox.identity")


class SigningOn(msgspec.Struct, frozen=True):
    """An attempt to sign in, or to confirm one's identity."""

    begun: SignInAttempt
    wanted: str
    """The page to show afterwards."""
    at: int
    email: str = ""
    """The person who must confirm their identity; empty: anyone may sign in."""


def provider_of(services: Services) -> IdentityProvider:
    """The configured provider. Raises Problem (SIGN_IN_FAILED) if there is none."""
    if services.identity_provider is None:
        raise Problem(SIGN_IN_FAILED, "Single sign-on is not set up here: the operator can set FAREBOX_OIDC_ISSUER")
    return services.identity_provider


async def begin(services: Services, wanted: str, email: str = "") -> tuple[str, SigningOn]:
    """Where to send the browser, and what the server keeps. `email`: the person who must confirm their identity.
    Raises Problem (SIGN_IN_FAILED)."""
    provider = provider_of(services)
    begun = SignInAttempt(services.ids.secret(), services.ids.secret(), services.ids.secret())
    try:
        url = await provider.sign_in_url(begun, services.base_url + RETURN_PATH, again=bool(email))
    except ProviderFailed as error:
        raise _unavailable(provider, error) from error
    return url, SigningOn(begun, wanted, services.clock.now_ms(), email)


async def finish(services: Services, kept: SigningOn | None, given: dict[str, str]) -> str:
    """The e-mail address of the person who came back from the provider. `given`: the query they came back with. Raises
    Problem (SIGN_IN_FAILED)."""
    provider = provider_of(services)
    if kept is None or not same(kept.begun.state.encode(), given.get("state", "").encode()):
        raise Problem(SIGN_IN_FAILED, "This took too long, or was started in another browser or tab: sign in again")
    try:
        await _require_same_issuer(provider, given)
        if "error" in given or "code" not in given:
            log.info("single sign-on refused", error=given.get("error", "")[:100])
            raise Problem(SIGN_IN_FAILED, f"You did not sign in at {provider.name}, or it does not let you in here")
        since = kept.at if kept.email else None
        found = await provider.identity(kept.begun, services.base_url + RETURN_PATH, given["code"], since=since)
    except ProviderFailed as error:
        raise _unavailable(provider, error) from error
    except UntrustedIdentity as error:
        log.warning("single sign-on not trusted", why=str(error))
        raise Problem(
            SIGN_IN_FAILED, f"The response of {provider.name} could not be verified: sign in again"
        ) from error
    email = _accepted(services.settings, provider, found.email, verified=found.verified)
    if kept.email and email != kept.email:
        raise Problem(SIGN_IN_FAILED, f"{provider.name} says that you are {email}, not {kept.email}")
    return email


async def _require_same_issuer(provider: IdentityProvider, given: dict[str, str]) -> None:
    """RFC 9207: a response from another provider is not accepted. Raises Untrusted, ProviderFailed."""
    issuer = given.get("iss")
    metadata = await provider.metadata()
    if issuer is None and metadata.authorization_response_iss_parameter_supported:
        raise UntrustedIdentity("its answer does not say whose it is")
    if issuer is not None and issuer != provider.issuer:
        raise UntrustedIdentity(f"the answer is of another issuer: {quoted(issuer, 200)}")


def _accepted(settings: Settings, provider: IdentityProvider, text: str, *, verified: bool) -> str:
    """The e-mail address as stored for members. Raises Problem (SIGN_IN_FAILED) if it cannot be accepted."""
    try:
        email = membership.email_of(text if text.isascii() else "")  # others may lower to ASCII letters: K
    except Problem as problem:
        raise Problem(SIGN_IN_FAILED, f"{provider.name} did not say what your e-mail address is") from problem
    if not verified and settings.oidc_email == "verified":
        raise Problem(
            SIGN_IN_FAILED, f"{provider.name} has not verified that {email} is yours: do that there, then sign in again"
        )
    domains = domains_of(settings.oidc_domains)
    if domains and email.rpartition("@")[2] not in domains:
        raise Problem(
            SIGN_IN_FAILED, f"{email} may not sign in this way here: use an address of {' or '.join(domains)}"
        )
    return email


def domains_of(text: str) -> list[str]:
    """The domains that FAREBOX_OIDC_DOMAINS lists."""
    return [part.strip().lower() for part in text.split(",") if part.strip()]


async def sign_out_url(services: Services) -> str | None:
    """The URL for signing out of the provider as well; None: there is none. Raises Problem (SIGN_IN_FAILED)."""
    provider = provider_of(services)
    try:
        return await provider.sign_out_url(services.base_url + SIGNED_OUT_PATH)
    except ProviderFailed as error:
        raise _unavailable(provider, error) from error


def _unavailable(provider: IdentityProvider, error: ProviderFailed) -> Problem:
    log.warning("single sign-on not available", why=str(error))
    return Problem(
        SIGN_IN_FAILED, f"{provider.name} cannot be reached at the moment: try again, or sign in another way"
    )
