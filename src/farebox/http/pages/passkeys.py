"""The pages' part of passkeys. The script requests options, has the browser create or use a passkey, and sends a
form."""

from farebox.errors import SIGN_IN_FAILED, VALIDATION_FAILED, Problem
from farebox.http.envelope import JSON, Response
from farebox.http.pages import render
from farebox.http.pages.sign_in_attempts import begin_attempt, browser_of, require_own_form, signed_in, take_attempt
from farebox.http.pages.table import Fields
from farebox.http.pages.visit import Visit, own_path, see_other, session_cookie
from farebox.http.quotas import SIGN_INS, anonymous_client, spend
from farebox.http.request import Request
from farebox.identity import passkeys, sessions
from farebox.identity.passkeys import Asserting, Registering

# --- signing in -------------------------------------------------------------------------------------------------------


async def sign_in_options(request: Request, _: None) -> Response:
    """Options for using any passkey of this site."""
    require_own_form(request)
    options, kept = await passkeys.assertion(request.services)
    return _options(options, await begin_attempt(request, kept))


async def sign_in(request: Request, _: None) -> Response:
    """Begin a session for the person whose passkey the browser has used."""
    await render.ready()
    require_own_form(request)
    spend(request.services, SIGN_INS, anonymous_client(request.client))
    form = request.form()
    kept = await take_attempt(request, Asserting)
    email = await passkeys.prove(request.services, None if kept and kept.email else kept, form.get("credential", ""))
    session = await sessions.begin(request.services, email, "passkey", browser_of(request))
    return await signed_in(request, session, own_path(form.get("next", "")))


# --- proving who is there ---------------------------------------------------------------------------------------------


async def confirm_options(visit: Visit, form: Fields) -> Response:
    """Options for using one of this person's passkeys."""
    options, kept = await passkeys.assertion(visit.services, _person(visit))
    return _options(options, await begin_attempt(visit.request, kept))


async def confirm(visit: Visit, form: Fields) -> Response:
    """Confirm the person's identity by one of their passkeys."""
    kept = await take_attempt(visit.request, Asserting)
    own = kept if kept and kept.email == _person(visit) else None
    await passkeys.prove(visit.services, own, form.get("credential", ""))
    session = await sessions.confirm(visit.services, visit.session)
    if session is None:
        raise Problem(SIGN_IN_FAILED, "Your session has ended: sign in again")
    return see_other(own_path(form.get("next", "")), session_cookie(visit.request, session))


# --- one's own --------------------------------------------------------------------------------------------------------


async def register_options(visit: Visit, form: Fields) -> Response:
    """Options for creating a passkey."""
    options, kept = await passkeys.registration(visit.services, _person(visit))
    return _options(options, await begin_attempt(visit.request, kept))


async def register(visit: Visit, form: Fields) -> str:
    """Add the passkey that the browser has created."""
    kept = await take_attempt(visit.request, Registering)
    added = await passkeys.register(
        visit.services, kept, _person(visit), form.get("credential", ""), form.get("name", "")
    )
    return f"The passkey “{added.name}” was added: you can sign in with it from now on."


async def rename(visit: Visit, form: Fields) -> str:
    await passkeys.rename(visit.services, _person(visit), form.get("passkey", ""), form.get("name", ""))
    return "Renamed the passkey."


async def remove(visit: Visit, form: Fields) -> str:
    await passkeys.remove(visit.services, _person(visit), form.get("passkey", ""))
    return "The passkey was removed: it can no longer be used to sign in."


def _person(visit: Visit) -> str:
    """The person whose session this is. Raises Problem (VALIDATION_FAILED) if that is not known."""
    email = sessions.verified_email(visit.session)
    if email is None:
        raise Problem(
            VALIDATION_FAILED,
            "Passkeys are for members who have signed in as themselves, not with a link without an e-mail address",
        )
    return email


def _options(options: str, cookie: tuple[str, str]) -> Response:
    return Response(options.encode(), 200, JSON, (("cache-control", "no-store"), cookie))
