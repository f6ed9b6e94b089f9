"""`farebox token`: who may call, and what."""

from typing import Annotated, cast

import typer

from farebox.cli.output import Row, show, show_rows
from farebox.cli.session import session_of
from farebox.cli.values import AccountId, AsJson, Expires, moment_text, optional_moment_text
from farebox.model import RATE_CALLS_MAX, RATE_SECONDS_MAX, AccessToken, Permission, RateLimit
from farebox.quoting import quoted

token = typer.Typer(no_args_is_help=True, help="Access tokens: what callers send.")


def register(app: typer.Typer) -> None:
    app.add_typer(token, name="token")


def _token_row(found: AccessToken, at: int, used_at: int | None = None) -> Row:
    return {
        "token_id": found.token_id,
        "account_id": found.account_id,
        "name": found.name,
        "permissions": sorted(found.permissions),
        "models": None if found.models is None else list(found.models),
        "gateways": None if found.gateways is None else list(found.gateways),
        "active": found.active(at),
        "created_at": moment_text(found.created_at),
        "expires_at": optional_moment_text(found.expires_at),
        "revoked_at": optional_moment_text(found.revoked_at),
        "last_used_at": optional_moment_text(used_at),
        "rate_limit": None if found.rate is None else _rate_text(found.rate),
    }


def _rate_text(rate: RateLimit) -> str:
    return f"{rate.calls} in {rate.seconds} s, {'sliding' if rate.sliding else 'fixed'}"


RateCalls = Annotated[
    int | None,
    typer.Option(
        "--rate-limit", metavar="N", min=0, max=RATE_CALLS_MAX, help="Model calls that it may make in each interval."
    ),
]
RateSeconds = Annotated[
    int,
    typer.Option("--rate-interval", metavar="SECONDS", min=1, max=RATE_SECONDS_MAX, help="Length of the interval."),
]
RateSlides = Annotated[
    bool, typer.Option("--sliding/--fixed", help="In any interval, or in intervals that follow one another.")
]


_PERMISSIONS = "`AI Gateway Read`, `AI Gateway Write`, `AI Gateway Run` or `AI Gateway Billing Write`"


def _permission(text: str) -> Permission:
    for permission in Permission:
        if text.casefold() == permission.casefold():
            return permission
    raise typer.BadParameter(f"{quoted(text)} is not a permission: write {_PERMISSIONS}")


@token.command("create")
def create_token(
    context: typer.Context,
    account_id: AccountId,
    permissions: Annotated[
        list[Permission],
        typer.Option(
            "--permission",
            parser=_permission,
            metavar="PERMISSION",
            help=f"What it may do: {_PERMISSIONS}, in upper or lower case; may be repeated.",
        ),
    ],
    name: Annotated[str, typer.Option(metavar="NAME", help="A label for it.")] = "",
    expires: Expires = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="MODEL",
            help="A model it may call, `provider/model` or `provider/*`; may be repeated. Without it: all.",
        ),
    ] = None,
    gateways: Annotated[
        list[str] | None,
        typer.Option("--gateway", metavar="GATEWAY", help="A gateway it reaches; may be repeated. Without it: all."),
    ] = None,
    rate_calls: RateCalls = None,
    rate_seconds: RateSeconds = 60,
    sliding: RateSlides = False,
    as_json: AsJson = False,
) -> None:
    """Create an access token and print it. This is the only time: only its hash is kept.

    `AI Gateway Run` calls models. `AI Gateway Read` and `AI Gateway Write` view and change gateways, logs and billing
    reports. `AI Gateway Billing Write` changes how the account is paid for.

    \b
    Examples:
      farebox token create --account acme --permission "AI Gateway Run"
      farebox token create --account acme --permission "AI Gateway Run" \\
          --permission "AI Gateway Read" --name "web shop" --expires 2027-01-31
    """
    from farebox.operator import tokens

    session = session_of(context)
    with session.writing() as connection:
        made = tokens.create_token(
            connection,
            session.ids,
            session.vault,
            account_id=account_id,
            permissions=permissions,
            name=name,
            expires_at=expires,
            models=models or (),
            gateways=gateways or (),
            rate=RateLimit(rate_calls, rate_seconds, sliding) if rate_calls else None,
            at=session.clock.now_ms(),
            by=session.operator,
        )
    data = {"token": made.secret, **_token_row(made.token, made.token.created_at)}
    text = f"{made.secret}\n\nToken {made.token.token_id} of account {account_id}. Keep it: it cannot be shown again."
    show(data, as_json=as_json, text=text)


@token.command("list")
def list_tokens(
    context: typer.Context,
    account_id: Annotated[
        str | None, typer.Option("--account", metavar="ID", help="Only this account's tokens.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List access tokens, without their secrets.

    A token's last use is recorded up to a minute late. A token whose gateways have all been deleted reaches `none`.
    """
    from farebox.operator.administer import require_account
    from farebox.storage import accounts, last_uses

    session = session_of(context)
    with session.reading() as connection:
        if account_id is not None:
            require_account(connection, account_id)
        found = accounts.list_tokens(connection, account_id)
        used = (
            last_uses.all_uses(connection, "token")
            if account_id is None
            else last_uses.uses_of(connection, account_id, "token")
        )
    at = session.clock.now_ms()
    columns = {
        "token_id": "TOKEN ID", "account_id": "ACCOUNT", "name": "NAME", "permissions": "PERMISSIONS",
        "models": "MODELS", "gateways": "GATEWAYS", "active": "ACTIVE", "expires_at": "EXPIRES",
        "rate_limit": "RATE LIMIT", "last_used_at": "LAST USED",
    }  # fmt: skip
    empty = "No tokens yet: create one with `farebox token create --account ID --permission …`."
    rows = [_token_row(item, at, used.get(item.token_id)) for item in found]
    if not as_json:
        rows = [{**row, "models": _names_text(row["models"]), "gateways": _names_text(row["gateways"])} for row in rows]
    show_rows(rows, as_json=as_json, columns=columns, empty=empty)


def _names_text(names: object) -> str:
    """What a token is limited to: its models or gateways."""
    return "all" if names is None else ", ".join(cast("list[str]", names)) or "none"


@token.command("set")
def set_token(
    context: typer.Context,
    token_id: Annotated[str, typer.Argument(metavar="TOKEN_ID", help="As shown by `farebox token list`.")],
    rate_calls: RateCalls = None,
    rate_seconds: RateSeconds = 60,
    sliding: RateSlides = False,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="MODEL", help="A model it may call; may be repeated. Replaces the others."),
    ] = None,
    all_models: Annotated[bool, typer.Option("--all-models", help="It may call all models.")] = False,
    gateways: Annotated[
        list[str] | None,
        typer.Option(
            "--gateway", metavar="GATEWAY", help="A gateway it reaches; repeat for more. Replaces the others."
        ),
    ] = None,
    all_gateways: Annotated[bool, typer.Option("--all-gateways", help="It reaches all gateways.")] = False,
    expires: Expires = None,
    never_expires: Annotated[bool, typer.Option("--never-expires", help="It does not expire.")] = False,
    as_json: AsJson = False,
) -> None:
    """Change the limits or the expiry of an access token.

    Limits are the models it may call, the gateways it reaches, and its rate limit. A change takes effect on every
    running server within a second. Whatever you omit stays unchanged.

    \b
    Examples:
      farebox token set 0f6c2a7e5b1d4c3a9e8f7a6b5c4d3e2f --rate-limit 100 --rate-interval 60 --sliding
      farebox token set 0f6c2a7e5b1d4c3a9e8f7a6b5c4d3e2f --rate-limit 0 --model "openai/*"
      farebox token set 0f6c2a7e5b1d4c3a9e8f7a6b5c4d3e2f --gateway web-shop
    """
    from msgspec import UNSET

    from farebox.operator import tokens

    if (models and all_models) or (gateways and all_gateways) or (expires and never_expires):
        pairs = "--model and --all-models, --gateway and --all-gateways, --expires and --never-expires"
        raise typer.BadParameter(f"{pairs} exclude each other")
    rate = UNSET if rate_calls is None else RateLimit(rate_calls, rate_seconds, sliding) if rate_calls else None
    changes = tokens.TokenChanges(
        rate=rate,
        models=None if all_models else models or UNSET,
        gateways=None if all_gateways else gateways or UNSET,
        expires_at=None if never_expires else expires or UNSET,
    )
    if changes == tokens.TokenChanges():
        raise typer.BadParameter("say what to change: --rate-limit, --model, --gateway, --expires")
    session = session_of(context)
    now = session.clock.now_ms()
    with session.writing() as connection:
        changed = tokens.set_token(connection, token_id, changes, at=now, by=session.operator)
    row = {name: value for name, value in _token_row(changed, now).items() if name != "last_used_at"}
    show(row, as_json=as_json, text=f"Token {token_id} has {_terms_text(changed)}.")


def _terms_text(token: AccessToken) -> str:
    rate = "no rate limit" if token.rate is None else f"the rate limit {_rate_text(token.rate)}"
    models = "all models" if token.models is None else ", ".join(token.models)
    gateways = "all gateways" if token.gateways is None else ", ".join(token.gateways) or "no gateway"
    return f"{rate}, reaches {gateways}, calls {models}, expires: {optional_moment_text(token.expires_at) or 'never'}"


@token.command("revoke")
def revoke_token(
    context: typer.Context,
    token_id: Annotated[str, typer.Argument(metavar="TOKEN_ID", help="As shown by `farebox token list`.")],
    as_json: AsJson = False,
) -> None:
    """Revoke an access token.

    This takes effect on every running server within a second. Calls in flight are completed. Revoking a token twice is
    harmless.

    \b
    Example:
      farebox token revoke 0f6c2a7e5b1d4c3a9e8f7a6b5c4d3e2f
    """
    from farebox.operator import tokens

    session = session_of(context)
    with session.writing() as connection:
        tokens.revoke_token(connection, token_id, at=session.clock.now_ms(), by=session.operator)
    show({"token_id": token_id, "active": False}, as_json=as_json, text=f"Revoked token {token_id}.")
