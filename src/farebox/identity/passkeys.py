"""Passkeys (WebAuthn): signing in by a key that never leaves a person's device or password manager.

A passkey belongs to a person, identified by an e-mail address, and to the host of the public URL. A challenge is
created on the server, kept there for the browser that asked (`attempts`), and valid for one response. The device must
have verified its owner, by a PIN or a fingerprint, because the passkey is the only proof.
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
import structlog

from farebox.addresses import literal
from farebox.clock import random_bytes
from farebox.errors import NOT_FOUND, SIGN_IN_FAILED, VALIDATION_FAILED, Problem
from farebox.identity import mailing
from farebox.messages.people_mail import passkey_mail
from farebox.runtime.services import Services
from farebox.storage import passkeys as store
from farebox.storage.passkeys import Passkey
from farebox.storage.sql import Connection
from farebox.vault import Vault, same

if TYPE_CHECKING:
    from webauthn.authentication.verify_authentication_response import VerifiedAuthentication

PASSKEYS_MAX = 20
"""Most passkeys of one person."""
NAME_MAX = 60
_CHALLENGE_BYTES = 32
_HANDLE_BYTES = 32
"""Length of a person's ID at authenticators: a keyed hash of their e-mail address."""

log = structlog.get_logger("farebox.identity")


@dataclass(frozen=True, slots=True)
class RelyingParty:
    """The relying party: where passkeys are valid."""

    host: str
    """The relying party's ID."""
    origin: str


class Registering(msgspec.Struct, frozen=True):
    """An attempt to add a passkey."""

    challenge: bytes
    email: str


class Asserting(msgspec.Struct, frozen=True):
    """An attempt to sign in, or to confirm one's identity."""

    challenge: bytes
    email: str = ""
    """Whose passkey is requested; empty: anyone's."""


def relying_party(base_url: str) -> RelyingParty | None:
    """Where passkeys are valid, according to the public URL. None: nowhere, because browsers require a host name, and
    TLS unless it is localhost."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    local = host == "localhost" or host.endswith(".localhost")
    if literal(host) is not None or not (parts.scheme == "https" or (parts.scheme == "http" and local)):
        return None
    return RelyingParty(host, f"{parts.scheme}://{parts.netloc}")


async def ready() -> None:
    """Load the library; the first time on a thread, because it takes a fifth of a second, which would delay calls."""
    if "webauthn" not in sys.modules:
        await asyncio.to_thread(__import__, "webauthn")


def _here(services: Services) -> RelyingParty:
    place = relying_party(services.base_url)
    if place is None:
        raise Problem(
            SIGN_IN_FAILED,
            "Browsers allow passkeys only if this server is reached by name over HTTPS: its operator has to set "
            "FAREBOX_PUBLIC_URL",
        )
    return place


def _handle(vault: Vault, email: str) -> bytes:
    return vault.hash_token(f"passkey\0{email}")[:_HANDLE_BYTES]


# --- adding -----------------------------------------------------------------------------------------------------------


async def registration(services: Services, email: str) -> tuple[str, Registering]:
    """The options with which the browser creates a passkey, as JSON, and what the server keeps. Raises Problem."""
    place = _here(services)
    await ready()
    from webauthn import generate_registration_options, options_to_json
    from webauthn.helpers.structs import (
        AuthenticatorSelectionCriteria,
        PublicKeyCredentialDescriptor,
        ResidentKeyRequirement,
        UserVerificationRequirement,
    )

    own = await of_person(services, email)
    _require_room(own)
    kept = Registering(random_bytes(_CHALLENGE_BYTES), email)
    options = generate_registration_options(
        rp_id=place.host,
        rp_name="Farebox",
        user_id=_handle(services.vault, email),
        user_name=email,
        challenge=kept.challenge,
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.REQUIRED, user_verification=UserVerificationRequirement.REQUIRED
        ),
        exclude_credentials=[PublicKeyCredentialDescriptor(id=each.credential_id) for each in own],
    )
    return options_to_json(options), kept


async def register(services: Services, kept: Registering | None, email: str, credential: str, name: str) -> Passkey:
    """Add the passkey that the browser has created, and notify its owner by e-mail, who may not be the person at that
    browser. Raises Problem (SIGN_IN_FAILED, VALIDATION_FAILED)."""
    place = _here(services)
    if kept is None or kept.email != email:
        raise _over()
    await ready()
    from webauthn import verify_registration_response
    from webauthn.helpers.exceptions import WebAuthnException

    try:
        verified = verify_registration_response(
            credential=credential,
            expected_challenge=kept.challenge,
            expected_rp_id=place.host,
            expected_origin=place.origin,
            require_user_verification=True,
        )
    except (WebAuthnException, *_MALFORMED) as error:
        log.info("passkey not added", why=str(error), email=email)
        raise Problem(SIGN_IN_FAILED, "Your browser’s response could not be verified: try again") from error
    passkey = Passkey(
        credential_id=verified.credential_id,
        passkey_id=services.ids.log_id(),
        email=email,
        name=name_of(name),
        public_key=verified.credential_public_key,
        sign_count=verified.sign_count,
        created_at=services.clock.now_ms(),
    )

    def job(connection: Connection) -> bool:
        _require_room(store.list_of(connection, email))
        return store.add(connection, passkey)

    if not await services.database.write(job):
        raise Problem(VALIDATION_FAILED, "This passkey has already been added")
    log.info("passkey added", email=email, passkey=passkey.passkey_id)
    if mailing.available(services):
        link = f"{services.base_url}/ui/sessions"
        message = passkey_mail(mailing.post_to(services, email), link, passkey.name)
        services.tasks.begin(("passkey mail", passkey.passkey_id), lambda: mailing.deliver(services, message))
    return passkey


_MALFORMED = (ValueError, TypeError, AttributeError, KeyError, IndexError, EOFError, RecursionError)
"""What the library raises in addition to its own exceptions if the input is not a credential at all."""


def _require_room(own: Sequence[Passkey]) -> None:
    if len(own) >= PASSKEYS_MAX:
        raise Problem(VALIDATION_FAILED, f"You have {PASSKEYS_MAX} passkeys: remove one first")


def _over() -> Problem:
    return Problem(SIGN_IN_FAILED, "This took too long, or was started in another browser or tab: try again")


def name_of(text: str) -> str:
    """A passkey's name as it is stored. Raises Problem (VALIDATION_FAILED)."""
    name = " ".join(text.split()) or "Passkey"
    if len(name) > NAME_MAX or not name.isprintable():
        raise Problem(VALIDATION_FAILED, f"Enter a name of at most {NAME_MAX} characters", path=("body", "name"))
    return name


# --- using ------------------------------------------------------------------------------------------------------------


async def assertion(services: Services, email: str = "") -> tuple[str, Asserting]:
    """The options with which the browser asks for a passkey, as JSON, and what the server keeps. `email`: only that
    person's passkeys. Raises Problem."""
    place = _here(services)
    await ready()
    from webauthn import generate_authentication_options, options_to_json
    from webauthn.helpers.structs import PublicKeyCredentialDescriptor, UserVerificationRequirement

    own = await of_person(services, email) if email else []
    if email and not own:
        raise Problem(VALIDATION_FAILED, "You have no passkeys yet")
    kept = Asserting(random_bytes(_CHALLENGE_BYTES), email)
    options = generate_authentication_options(
        rp_id=place.host,
        challenge=kept.challenge,
        allow_credentials=[PublicKeyCredentialDescriptor(id=each.credential_id) for each in own],
        user_verification=UserVerificationRequirement.REQUIRED,
    )
    return options_to_json(options), kept


async def prove(services: Services, kept: Asserting | None, credential: str) -> str:
    """The e-mail address of the person whose passkey the browser has used. Raises Problem (SIGN_IN_FAILED)."""
    place = _here(services)
    if kept is None:
        raise _over()
    await ready()
    from webauthn.helpers import parse_authentication_credential_json
    from webauthn.helpers.exceptions import WebAuthnException

    try:
        given = parse_authentication_credential_json(credential)
    except (WebAuthnException, *_MALFORMED) as error:
        raise _unproved("malformed") from error
    found = await services.database.get(partial(store.find, credential_id=given.raw_id))
    if found is None:
        raise Problem(SIGN_IN_FAILED, "This passkey is unknown here or has been removed")
    if kept.email and found.email != kept.email:
        raise _unproved("another person's")
    handle = given.response.user_handle
    if handle is not None and not same(handle, _handle(services.vault, found.email)):
        raise _unproved("another handle")
    verified = _verified(credential, kept.challenge, place, found)
    at = services.clock.now_ms()
    if not await services.database.write(
        lambda connection: store.note_use(connection, found, verified.new_sign_count, at)
    ):
        raise _unproved("used at the same time")
    return found.email


def _verified(credential: str, challenge: bytes, place: RelyingParty, found: Passkey) -> "VerifiedAuthentication":
    from webauthn import verify_authentication_response
    from webauthn.helpers.exceptions import WebAuthnException

    try:
        return verify_authentication_response(
            credential=credential,
            expected_challenge=challenge,
            expected_rp_id=place.host,
            expected_origin=place.origin,
            credential_public_key=found.public_key,
            credential_current_sign_count=found.sign_count,
            require_user_verification=True,
        )
    except (WebAuthnException, *_MALFORMED) as error:
        raise _unproved(str(error), found) from error


def _unproved(why: str, found: Passkey | None = None) -> Problem:
    """The problem to raise. The log says why: a count that decreases may mean that the key was copied."""
    log.warning("passkey refused", why=why, passkey=None if found is None else found.passkey_id)
    return Problem(SIGN_IN_FAILED, "This passkey does not prove who you are: try again, or sign in another way")


# --- one's own --------------------------------------------------------------------------------------------------------


async def of_person(services: Services, email: str) -> list[Passkey]:
    """A person's passkeys, oldest first."""
    return await services.database.get(partial(store.list_of, email=email))


async def rename(services: Services, email: str, passkey_id: str, name: str) -> None:
    """Rename a passkey. Raises Problem (VALIDATION_FAILED, NOT_FOUND)."""
    known = name_of(name)
    if not await services.database.write(lambda connection: store.rename(connection, email, passkey_id, known)):
        raise Problem(NOT_FOUND, "You do not have this passkey")


async def remove(services: Services, email: str, passkey_id: str) -> None:
    """Remove a passkey. Raises Problem (NOT_FOUND)."""
    if not await services.database.write(lambda connection: store.remove(connection, email, passkey_id)):
        raise Problem(NOT_FOUND, "You do not have this passkey")
    log.info("passkey removed", email=email, passkey=passkey_id)
