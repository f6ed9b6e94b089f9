"""`farebox webhook`, `farebox messages`: where messages are sent, and the state of their deliveries."""

from typing import TYPE_CHECKING, Annotated

import typer

from farebox.cli.output import Row, show, show_rows
from farebox.cli.session import Stopped, session_of
from farebox.cli.values import AsJson, moment_text, optional_moment_text
from farebox.quoting import quoted
from farebox.storage.sql import NodeUnavailable

if TYPE_CHECKING:
    from farebox.storage.deliveries import Delivery
    from farebox.storage.webhook_endpoints import Endpoint

webhook = typer.Typer(no_args_is_help=True, help="Webhooks: the URLs that messages are sent to.")
messages = typer.Typer(no_args_is_help=True, help="Messages to account owners and to you, and their deliveries.")

EndpointId = Annotated[str, typer.Argument(metavar="ENDPOINT", help="Its ID, from `farebox webhook list`.")]
_OPERATOR = "(every account)"
_YOURS = "(you)"
_INCOMPLETE = f"Messages are missing, because a node of the database is unavailable: {NodeUnavailable.remedy}."


def register(app: typer.Typer) -> None:
    app.add_typer(webhook, name="webhook")
    app.add_typer(messages, name="messages")


@webhook.command("add")
def add_webhook(
    context: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="URL to POST to, https.")],
    account_id: Annotated[
        str | None, typer.Option("--account", metavar="ID", help="Only this account's messages; all if omitted.")
    ] = None,
    kinds: Annotated[
        list[str] | None,
        typer.Option("--kind", metavar="KIND", help="Only this kind; may be repeated; all if omitted."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send messages to a URL, and print the secret that signs them. This is the only time.

    docs/messages.md lists the kinds, and shows how to verify the signature.

    \b
    Examples:
      farebox webhook add https://ops.example.com/farebox
      farebox webhook add https://example.com/hook --account acme --kind low_balance --kind top_up_failed
    """
    from farebox.operator import endpoints

    session = session_of(context)
    with session.writing() as connection:
        made = endpoints.add_endpoint(
            connection,
            session.vault,
            session.ids,
            session.settings,
            account_id=account_id,
            url=url,
            kinds=kinds or (),
            at=session.clock.now_ms(),
            by=session.operator,
        )
    text = f"{made.secret}\n\nEndpoint {made.endpoint.endpoint_id}. Keep the secret: it cannot be shown again."
    show({**_endpoint_row(made.endpoint), "secret": made.secret}, as_json=as_json, text=text)


@webhook.command("list")
def list_webhooks(context: typer.Context, as_json: AsJson = False) -> None:
    """List the URLs that messages are sent to, including the accounts' own."""
    from farebox.storage.webhook_endpoints import all_endpoints

    with session_of(context).reading() as connection:
        rows = [_endpoint_row(endpoint) for endpoint in all_endpoints(connection)]
    if not as_json:
        rows = [{**row, "account_id": row["account_id"] or _OPERATOR, "kinds": row["kinds"] or "all"} for row in rows]
    columns = {"endpoint_id": "ENDPOINT", "account_id": "ACCOUNT", "url": "URL", "kinds": "KINDS"}
    show_rows(
        rows,
        as_json=as_json,
        columns=columns,
        empty="No endpoints: messages are sent only by e-mail, if it is switched on.",
    )


@webhook.command("remove")
def remove_webhook(context: typer.Context, endpoint_id: EndpointId, as_json: AsJson = False) -> None:
    """Stop sending messages to an endpoint. Its pending deliveries are given up.

    \b
    Example:
      farebox webhook remove we_0123456789abcdef0123456789abcdef
    """
    from farebox.operator import endpoints

    session = session_of(context)
    with session.writing() as connection:
        endpoints.remove_endpoint(connection, endpoint_id, at=session.clock.now_ms(), by=session.operator)
    show(
        {"endpoint_id": endpoint_id, "removed": True}, as_json=as_json, text=f"Endpoint {endpoint_id} has been removed."
    )


@webhook.command("test")
def try_webhook(context: typer.Context, endpoint_id: EndpointId, as_json: AsJson = False) -> None:
    """Send a signed message of the type `test` to an endpoint, now, without retries.

    \b
    Example:
      farebox webhook test we_0123456789abcdef0123456789abcdef
    """
    import asyncio

    from farebox.operator import endpoints
    from farebox.storage.webhook_endpoints import find_endpoint

    session = session_of(context)
    with session.reading() as connection:
        endpoint = find_endpoint(connection, endpoint_id)
    if endpoint is None:
        raise Stopped(f"there is no endpoint {quoted(endpoint_id)}: `farebox webhook list` shows the IDs")
    test = endpoints.send_test(
        session.vault,
        session.settings,
        endpoint,
        identifier=f"msg_{session.ids.account_id()}",
        at=session.clock.now_ms(),
    )
    sent = asyncio.run(test)
    if not sent.ok:
        raise Stopped(f"{endpoint.url} did not accept the message: {sent.error}")
    data = {"endpoint_id": endpoint_id, "delivered": True, "status": sent.status}
    show(data, as_json=as_json, text=f"{endpoint.url} accepted the message ({sent.status}).")


@messages.command("list")
def list_messages(
    context: typer.Context,
    account_id: Annotated[
        str | None, typer.Option("--account", metavar="ID", help="Only this account's; all if omitted.")
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="Maximum number.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List messages, newest first, with the state of each delivery.

    \b
    Examples:
      farebox messages list
      farebox messages list --account acme --limit 200 --json
    """
    from farebox.operator.messages import with_deliveries
    from farebox.storage.notices import latest_notices, list_notices

    with session_of(context).reading() as connection:
        if account_id is None:
            notices, complete = latest_notices(connection, limit)
        else:
            notices, complete = list_notices(connection, account_id, 0, limit)[0], True
        found = [with_deliveries(connection, notice) for notice in notices]
    rows: list[Row] = [
        {
            "message_id": entry.notice.notice_id,
            "account_id": entry.notice.account_id or (None if as_json else _YOURS),
            "kind": entry.notice.kind,
            "created_at": moment_text(entry.notice.created_at),
            "content": entry.notice.content,
            "deliveries": [_delivery_row(item) if as_json else _delivery_text(item) for item in entry.deliveries],
        }
        for entry in found
    ]
    columns = {
        "created_at": "TIME", "account_id": "ACCOUNT", "message_id": "MESSAGE", "deliveries": "DELIVERIES",
    }  # fmt: skip
    show_rows(rows, as_json=as_json, columns=columns, empty="No message.")
    if not complete:
        typer.echo(_INCOMPLETE, err=True)


@messages.command("replay")
def replay_message(
    context: typer.Context,
    message_id: Annotated[str | None, typer.Argument(metavar="MESSAGE", help="From `farebox messages list`.")] = None,
    account_id: Annotated[
        str | None, typer.Option("--account", metavar="ID", help="Whose message it is; your own if omitted.")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All deliveries that were given up.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send a message again, to its current recipients; or all that could not be delivered.

    A running server sends them. A repeat keeps its `webhook-id`.

    \b
    Examples:
      farebox messages replay top_up_paid:auto-3 --account acme
      farebox messages replay provider_key_trouble:openai:20786
      farebox messages replay --failed
      farebox messages replay --failed --account acme
    """
    from farebox.operator.messages import AGAIN_AT_ONCE, replay_given_up, replay_notice, some_given_up
    from farebox.storage.buckets import OPERATOR
    from farebox.storage.sql import DatabaseUnavailable

    if (message_id is None) == (not failed):
        raise typer.BadParameter("name a message, or give --failed", param_hint="MESSAGE / --failed")
    session = session_of(context)
    at, count = session.clock.now_ms(), 0
    if message_id is None:
        found = AGAIN_AT_ONCE
        while found == AGAIN_AT_ONCE:
            try:
                with session.reading() as connection:
                    items = some_given_up(connection, account_id)
                with session.writing() as connection:
                    again = replay_given_up(connection, items, at, account_id, by=session.operator)
            except DatabaseUnavailable as error:
                if not count:
                    raise
                raise Stopped(f"{count} deliveries are due again, the rest was not done: {error}") from error
            count += again
            found = len(items) if again else 0
    else:
        with session.writing() as connection:
            entry = replay_notice(
                connection, session.settings, account_id or OPERATOR, message_id, at, by=session.operator
            )
        if entry is None:
            raise Stopped(f"{_account_prefix(account_id)} no message {quoted(message_id)}: see `farebox messages list`")
        count = entry
    show({"deliveries": count}, as_json=as_json, text=f"{count} deliveries are due again.")


def _account_prefix(account_id: str | None) -> str:
    return f"account {quoted(account_id)} has" if account_id else "you (no --account was named) have"


def _endpoint_row(endpoint: "Endpoint") -> Row:
    return {
        "endpoint_id": endpoint.endpoint_id,
        "account_id": endpoint.account_id,
        "url": endpoint.url,
        "kinds": list(endpoint.kinds),
        "created_at": moment_text(endpoint.created_at),
    }


def _delivery_row(item: "Delivery") -> Row:
    return {
        "target": item.target,
        "attempts": item.attempts,
        "delivered_at": optional_moment_text(item.delivered_at),
        "next_attempt_at": optional_moment_text(item.next_at),
        "error": item.last_error,
    }


def _delivery_text(item: "Delivery") -> str:
    target = item.target.removeprefix("mailto:")
    if item.delivered_at is not None:
        return f"{target}: delivered"
    if item.next_at is None:
        return f"{target}: given up ({item.last_error})"
    return f"{target}: waiting" + (f" ({item.last_error})" if item.last_error else "")
