"""`farebox fake-stripe`: a local server that speaks Stripe's API, for trials without an account or money."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from farebox.cli.session import Stopped
from farebox.cli.values import AsJson


def register(app: typer.Typer) -> None:
    app.command("fake-stripe")(fake_stripe)


def fake_stripe(
    host: Annotated[str, typer.Option(metavar="HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", help="Port to listen on; 0 picks a free one.")] = 12111,
    webhook: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Receives every event, signed; Farebox expects them at /webhooks/stripe."),
    ] = None,
    webhook_secret: Annotated[
        str | None, typer.Option(metavar="SECRET", help="Secret that signs the events: whsec_…")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to keep customers and payments in; in memory if omitted.")
    ] = None,
    public_url: Annotated[
        str | None, typer.Option(metavar="URL", help="URL at which browsers reach its pages, if different.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve a fake Stripe, to try payments without money.

    It has test cards, hosted payment pages and webhooks. It accepts any key that begins with sk_test_, and rejects live
    ones. packages/fake_stripe/README.md says how to move its clock, make its responses fail and dispute its payments.

    \b
    Examples:
      farebox fake-stripe
      farebox fake-stripe --webhook http://127.0.0.1:8787/webhooks/stripe --webhook-secret whsec_test
      farebox fake-stripe --port 0 --state fake-stripe.jsonl
    """
    if host not in ("127.0.0.1", "::1", "localhost"):
        typer.echo(
            "Anyone who can reach this address controls the fake Stripe: use it only on your own machine.", err=True
        )
    if webhook is not None and webhook_secret is None:
        raise typer.BadParameter("give the secret that the receiver verifies", param_hint="--webhook-secret")
    need_fake_stripe()
    import uvloop

    from fake_stripe import AddressInUse
    from fake_stripe.command import serve_until_stopped

    serving = serve_until_stopped(
        host=host,
        port=port,
        state=state,
        webhook_url=webhook,
        webhook_secret=webhook_secret,
        public_url=public_url,
        on_ready=lambda url: _announce(url, as_json=as_json),
    )
    try:
        uvloop.run(serving)
    except AddressInUse as error:
        raise Stopped(str(error)) from error


def need_fake_stripe() -> None:
    """Raises Stopped if the package is not installed: only the demo and the tests need it."""
    try:
        import fake_stripe  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "fake_stripe":
            raise
        raise Stopped(
            "the fake Stripe is not installed: run `pip install ./packages/fake_stripe` in Farebox's sources"
        ) from error


def _announce(url: str, *, as_json: bool) -> None:
    # One line: a program that reads it waits for its end.
    typer.echo(msgspec.json.encode({"url": url}) if as_json else f"Fake Stripe on {url}")
