"""The pages' part of single sign-on: to the operator's OpenID provider, and back."""

from farebox.errors import VALIDATION_FAILED, Problem
from farebox.http.envelope import Response
from farebox.http.pages import render
from farebox.http.pages.sign_in_attempts import begin_attempt, browser_of, require_own_form, signed_in, take_attempt
from farebox.http.pages.table import Fields
from farebox.http.pages.visit import Visit, leave, own_path, see_other
from farebox.http.quotas import SIGN_INS, anonymous_client, spend
from farebox.http.request import Request
from farebox.identity import sessions, single_sign_on
from farebox.identity.single_sign_on import SigningOn


async def begin(request: Request, _: None) -> Response:
    """Lead the browser to the provider."""
    await render.ready()
    require_own_form(request)
    return await _begun(request, own_path(request.form().get("next", "")), "")


async def confirm(visit: Visit, form: Fields) -> Response:
    """Confirm the person's identity at the provider, which is asked to authenticate them again."""
    email = sessions.verified_email(visit.session)
    if email is None:
        raise Problem(VALIDATION_FAILED, "The person behind this session is unknown: confirm in another way")
    return await _begun(visit.request, own_path(form.get("next", "")), email)


async def _begun(request: Request, wanted: str, email: str) -> Response:
    url, kept = await single_sign_on.begin(request.services, wanted, email)
    return leave(url, single_sign_on.provider_of(request.services).name, await begin_attempt(request, kept))


async def done(request: Request, _: None) -> Response:
    """Where the provider sends the browser back to."""
    await render.ready()
    spend(request.services, SIGN_INS, anonymous_client(request.client))
    kept = await take_attempt(request, SigningOn)
    email = await single_sign_on.finish(request.services, kept, dict(request.query_pairs()))
    session = await sessions.begin(request.services, email, "oidc", browser_of(request))
    return await signed_in(request, session, own_path(kept.wanted if kept else ""))


async def sign_out(request: Request, _: None) -> Response:
    """Send a browser that has signed out here to the provider's sign-out page."""
    await render.ready()
    require_own_form(request)
    url = await single_sign_on.sign_out_url(request.services)
    if url is None:
        return see_other(single_sign_on.SIGNED_OUT_PATH)
    return leave(url, single_sign_on.provider_of(request.services).name)
