"""`farebox sign-in`, `billing-link`, `member`: who gets to the pages, and as what."""

from typing import Annotated

import typer

from farebox.cli.output import Row, show, show_rows
from farebox.cli.session import Stopped, session_of
from farebox.cli.values import AccountId, AsJson, moment_text
from farebox.errors import Problem
from farebox.model import Role

member = typer.Typer(no_args_is_help=True, help="Members: people with a role on an account, or operators.")

_OptionalAccount = Annotated[str | None, typer.Option("--account", metavar="ID", help="For the pages of this account.")]
_Operator = Annotated[bool, typer.Option("--operator", help="For the operator's pages.")]
_RoleOption = Annotated[
    Role | None, typer.Option("--role", help="Role on the account: owner, billing, developer or viewer.")
]


def register(app: typer.Typer) -> None:
    app.command("sign-in")(sign_in)
    app.command("billing-link")(billing_link)
    app.add_typer(member, name="member")


def sign_in(
    context: typer.Context,
    account_id: _OptionalAccount = None,
    role: _RoleOption = None,
    operator: _Operator = False,
    email: Annotated[
        str | None, typer.Option("--email", metavar="EMAIL", help="For this member, with the role that they have.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a link that signs a browser in to the pages.

    The link works once, within an hour. The first person to open it is signed in for 12 hours at most, as the owner
    unless another role is given. The link begins with FAREBOX_PUBLIC_URL, or else with the address that the running
    server listens on.

    \b
    Examples:
      farebox sign-in --account acme
      farebox sign-in --account acme --role viewer
      farebox sign-in --account acme --email ada@example.com
      farebox sign-in --operator
    """
    from farebox.identity.sessions import LinkHolder

    if account_id is None and not operator:
        context.fail("Missing option: give --account ID or --operator.")
    if role is Role.OPERATOR or (role is not None and (account_id is None or email is not None)):
        raise typer.BadParameter("it is a role on an account, for a link without --email", param_hint="--role")
    if email is not None:
        _need_member(context, account_id, email, operator=operator)
        holder = LinkHolder(account_id=account_id or "", email=email.strip().lower())
    else:
        holder = LinkHolder(
            account_id=account_id or "", role=(role or Role.OWNER) if account_id else None, operator=operator
        )
    _show_link(context, holder, path=None, as_json=as_json)


def billing_link(context: typer.Context, account_id: AccountId, as_json: AsJson = False) -> None:
    """Create a link to an account's billing page, for its owner.

    The link works once, within an hour. Anyone who opens it can buy credit with the account's cards until signing out,
    12 hours at most: send it only to the owner. It begins with FAREBOX_PUBLIC_URL, or else with the address that the
    running server listens on.

    \b
    Examples:
      farebox billing-link --account acme
    """
    from farebox.identity.sessions import BILLING_PATH, LinkHolder

    _show_link(context, LinkHolder(account_id=account_id, role=Role.OWNER), path=BILLING_PATH, as_json=as_json)


def _show_link(context: typer.Context, holder: object, *, path: str | None, as_json: bool) -> None:
    from farebox.cli.server_file import running_settings
    from farebox.identity import sessions
    from farebox.operator import administer

    assert isinstance(holder, sessions.LinkHolder)
    session = session_of(context)
    at = session.clock.now_ms()
    _, base_url = running_settings(session.settings)
    with session.writing() as connection:
        if holder.account_id:
            administer.require_account(connection, holder.account_id)
        link = sessions.new_link(
            connection,
            session.vault,
            session.ids,
            base_url,
            holder,
            at=at,
            path=path or sessions.OPEN_PATH,
            by=session.operator,
        )
    expires = moment_text(at + holder.lasts_ms)
    show({"account_id": holder.account_id or None, "link": link, "expires_at": expires}, as_json=as_json, text=link)


def _need_member(context: typer.Context, account_id: str | None, email: str, *, operator: bool) -> None:
    from farebox.storage.members import INSTALLATION, role_of

    with session_of(context).reading() as connection:
        for place in {account_id, INSTALLATION if operator else account_id} - {None}:
            if role_of(connection, str(place), email.strip().lower()) is None:
                role = "an operator" if place == INSTALLATION else f"a member of {place}"
                raise Stopped(f"{email} is not {role}: add them with `farebox member set`")


# --- members ----------------------------------------------------------------------------------------------------------


def _place(context: typer.Context, account_id: str | None, *, operator: bool) -> str:
    if account_id is None and not operator:
        context.fail("Missing option: give --account ID or --operator.")
    if account_id is not None and operator:
        context.fail("Give either --account ID or --operator, not both.")
    return account_id or ""


@member.command("set")
def set_member(
    context: typer.Context,
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="Whose role it is.")],
    account_id: _OptionalAccount = None,
    role: _RoleOption = None,
    operator: _Operator = False,
    as_json: AsJson = False,
) -> None:
    """Give a person a role on an account, or make them an operator.

    \b
    Examples:
      farebox member set ada@example.com --account acme --role owner
      farebox member set root@example.com --operator
    """
    from farebox.identity import membership
    from farebox.operator import administer

    place = _place(context, account_id, operator=operator)
    chosen = Role.OPERATOR if operator else role
    if chosen is None:
        context.fail("Missing option: give --role ROLE, the role on the account.")
    session = session_of(context)
    with session.writing() as connection:
        if place:
            administer.require_account(connection, place)
        try:
            made = membership.put(connection, place, email, chosen, session.clock.now_ms(), by=session.operator)
        except Problem as problem:
            raise Stopped(problem.message) from problem
    row: Row = {"account_id": place or None, "email": made.email, "role": made.role}
    show(row, as_json=as_json, text=f"{made.email} is {made.role}{f' of {place}' if place else ''}.")


@member.command("list")
def list_members(
    context: typer.Context, account_id: _OptionalAccount = None, operator: _Operator = False, as_json: AsJson = False
) -> None:
    """List the members of an account, or the operators.

    \b
    Examples:
      farebox member list --account acme
      farebox member list --operator
    """
    from farebox.storage import members

    place = _place(context, account_id, operator=operator)
    with session_of(context).reading() as connection:
        found = members.list_members(connection, place)
    rows: list[Row] = [
        {
            "email": each.email,
            "role": each.role,
            "state": "invited" if each.accepted_at is None else "member",
            "created_at": moment_text(each.created_at),
        }
        for each in found
    ]
    columns = {"email": "EMAIL", "role": "ROLE", "state": "STATE", "created_at": "ADDED"}
    show_rows(rows, as_json=as_json, columns=columns, empty="No members yet: add one with `farebox member set`.")


@member.command("remove")
def remove_member(
    context: typer.Context,
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="Whose role is removed.")],
    account_id: _OptionalAccount = None,
    operator: _Operator = False,
    as_json: AsJson = False,
) -> None:
    """Remove a person's role, and end their sessions there.

    \b
    Examples:
      farebox member remove ada@example.com --account acme
    """
    from farebox.identity import membership

    place, known = _place(context, account_id, operator=operator), email.strip().lower()
    session = session_of(context)
    with session.writing() as connection:
        if not membership.drop(connection, place, known, session.clock.now_ms(), by=session.operator):
            raise Stopped(f"{email} is not a member there")
    show({"account_id": place or None, "email": known}, as_json=as_json, text=f"Removed {known}.")
