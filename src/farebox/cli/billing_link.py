"""`farebox billing-link`: gives an account's owner access to the billing page."""

import typer

from farebox.cli.output import show
from farebox.cli.session import session_of
from farebox.cli.values import AccountId, AsJson, moment_text


def register(app: typer.Typer) -> None:
    app.command("billing-link")(billing_link)


def billing_link(context: typer.Context, account_id: AccountId, as_json: AsJson = False) -> None:
    """Create a single-use link to an account's billing page for its owner, valid for an hour.

    Anyone who opens it can buy credit with the account's cards until signing out, half a day at most: send it only to
    the owner. It begins with FAREBOX_PUBLIC_URL, or else with the address that the running server listens on.

    \b
    Examples:
      farebox billing-link --account acme
    """
    from farebox.billing import owner_sessions
    from farebox.cli.server_file import running_settings
    from farebox.operator import administer

    session = session_of(context)
    at = session.clock.now_ms()
    _, base_url = running_settings(session.settings)
    with session.writing() as connection:
        administer.require_account(connection, account_id)
        link = owner_sessions.new_link(
            connection, session.vault, session.ids.secret(), base_url, account_id=account_id, at=at
        )
    expires = moment_text(at + owner_sessions.LINK_MS)
    show({"account_id": account_id, "link": link, "expires_at": expires}, as_json=as_json, text=link)
