"""The table of the pages and forms, and the routes that come of it. `table` says what a row means.

Who may see a page or send a form is said here and nowhere else; tests/pages/test_matrix.py tries every row as each of
them.
"""

from farebox.http.pages import assets, billing, billing_forms, house, overview, signing
from farebox.http.pages.table import (
    ANYBODY,
    MONEY,
    OPERATOR,
    Form,
    Page,
    form_route,
    page_route,
    routes_of,
)
from farebox.http.quotas import PAGES as PROCESSOR_PAGES
from farebox.http.quotas import PROCESSOR_REQUESTS, PROOFS
from farebox.http.router import Access, Route, Shape

# fmt: off
PAGE_ROWS: tuple[Page, ...] = (
    Page(path="/ui/overview", title="Overview", label="Overview", icon="home", roles=ANYBODY,
         query=overview.overview, template="overview.html"),
    Page(path="/billing", title="Billing", label="Billing", icon="card", roles=MONEY,
         query=billing.billing, template="billing.html"),
    Page(path="/billing/buy", title="Buy credit", section="/billing", roles=MONEY,
         query=billing.quote, template="quote.html"),
    Page(path="/billing/top-up", title="Payment", section="/billing", roles=MONEY,
         query=billing.one_top_up, template="under_way.html"),
    Page(path="/ui/house", title="Accounts", label="Accounts", icon="house", roles=OPERATOR,
         query=house.accounts, template="house.html"),
    Page(path="/ui/styles", title="Styles", label="Styles", icon="style", roles=OPERATOR, demo=True,
         query=house.styles, template="styles.html"),
    Page(path="/ui/sessions", title="Sign-ins", label="Sign-ins", icon="door", roles=ANYBODY,
         query=signing.session_list, template="sessions.html"),
    Page(path="/ui/confirm", title="Confirm that it is you", section="/ui/sessions", roles=ANYBODY,
         query=signing.confirm, template="confirm.html"),
)

FORM_ROWS: tuple[Form, ...] = (
    Form(path="/billing/buy", does="Buy credit", roles=MONEY, proved=True, budget=PROCESSOR_REQUESTS,
         act=billing_forms.buy, back="/billing"),
    Form(path="/billing/cards", does="Save a card on the processor's page", roles=MONEY, proved=True,
         budget=PROCESSOR_PAGES, act=billing_forms.save_card, back="/billing"),
    Form(path="/billing/cards/default", does="Make a card the default", roles=MONEY, proved=True,
         budget=PROCESSOR_REQUESTS, act=billing_forms.make_default, back="/billing"),
    Form(path="/billing/cards/remove", does="Remove a card", roles=MONEY, proved=True,
         budget=PROCESSOR_REQUESTS, act=billing_forms.remove_card, back="/billing"),
    Form(path="/billing/details", does="Change the invoice details", roles=MONEY,
         act=billing_forms.save_details, back="/billing"),
    Form(path="/billing/auto", does="Switch auto top-up on, or change it", roles=MONEY, proved=True,
         act=billing_forms.set_auto, back="/billing"),
    Form(path="/billing/auto/off", does="Switch auto top-up off", roles=MONEY,
         act=billing_forms.end_auto, back="/billing"),
    Form(path="/billing/limit", does="Set the spending limit", roles=MONEY,
         act=billing_forms.set_limit, back="/billing"),
    Form(path="/billing/limit/off", does="Remove the spending limit", roles=MONEY, proved=True,
         act=billing_forms.end_limit, back="/billing"),
    Form(path="/ui/confirm", does="Prove who is there by an access token", roles=ANYBODY, budget=PROOFS,
         act=signing.confirm_by_token, back="/ui/confirm"),
    Form(path="/ui/sessions/end", does="End a session", roles=ANYBODY, act=signing.end_session, back="/ui/sessions"),
    Form(path="/ui/account", does="Show another account of one's own", roles=ANYBODY,
         act=signing.turn_to, back="/ui/sessions"),
    Form(path="/ui/sign-out", does="Sign out", roles=ANYBODY, act=signing.sign_out, back="/ui/sessions"),
)
"""`proved` is what touches money or keys."""

OPEN: tuple[Route, ...] = (
    Route(method="GET", path="/", handler=signing.root, summary="Leads browsers to the pages", result=None,
          access=Access.PUBLIC, shape=Shape.RAW, status=303, content_type="text/html"),
    page_route("/ui/sign-in", signing.sign_in, "The ways to sign in"),
    page_route("/ui/open", signing.link, "What a sign-in link opens"),
    form_route("/ui/open", signing.open_link, "Use a sign-in link, once"),
    page_route("/ui/signed-out", signing.signed_out, "After signing out"),
    page_route("/billing/open", signing.billing_link, "Which account's billing page a link opens"),
    form_route("/billing/open", signing.open_billing_link, "Use a link to the billing page, once"),
    page_route("/billing/done", billing.done, "Return from the processor's page"),
    page_route("/ui/assets/{name}", assets.asset, "Style sheet, scripts and icon", "text/css"),
)
"""What is there for people who are not signed in."""
# fmt: on

PAGES: tuple[Route, ...] = (*OPEN, *routes_of(PAGE_ROWS, FORM_ROWS))
