"""The table of the pages and forms, and the routes that come of it. `table` says what a row means.

Who may see a page or send a form is said here and nowhere else; tests/pages/test_matrix.py tries every row as each of
them.
"""

from farebox.http.pages import (
    assets,
    billing,
    billing_forms,
    calls,
    installation,
    limits,
    members,
    overview,
    signing,
    tokens,
    try_call,
    usage,
)
from farebox.http.pages.table import (
    ANYBODY,
    BUILD,
    MEMBERS,
    MONEY,
    OPERATOR,
    OWNER,
    Form,
    Page,
    form_route,
    page_route,
    routes_of,
)
from farebox.http.quotas import CHANGES, PROCESSOR_REQUESTS, PROOFS, TEST_CALLS, WHAT_IFS
from farebox.http.quotas import PAGES as PROCESSOR_PAGES
from farebox.http.router import Access, Route, Shape

# fmt: off
PAGE_ROWS: tuple[Page, ...] = (
    Page(path="/ui/overview", title="Overview", label="Overview", icon="home", roles=ANYBODY,
         query=overview.overview, template="overview.html"),
    Page(path="/ui/calls", title="Calls", label="Calls", icon="calls", roles=MEMBERS,
         query=calls.call_list, template="calls.html"),
    Page(path="/ui/try", title="Make a call", section="/ui/calls", roles=BUILD,
         query=try_call.form, template="try_call.html"),
    Page(path="/ui/calls/{log_id}", title="Call", section="/ui/calls", roles=MEMBERS,
         query=calls.one_call, template="call.html"),
    Page(path="/ui/usage", title="Usage", label="Usage", icon="usage", roles=MEMBERS,
         query=usage.usage, template="usage.html"),
    Page(path="/ui/usage.csv", title="Usage as CSV", roles=MEMBERS, query=usage.as_csv, content_type="text/csv"),
    Page(path="/ui/usage.json", title="Usage as JSON", roles=MEMBERS, query=usage.as_json,
         content_type="application/json"),
    Page(path="/ui/limits", title="Limits", label="Limits", icon="limits", roles=MEMBERS,
         query=limits.limits, template="limits.html"),
    Page(path="/ui/limits/try", title="Tried on past calls", section="/ui/limits", roles=MEMBERS,
         query=limits.tried, template="tried.html"),
    Page(path="/ui/tokens", title="Tokens", label="Tokens", icon="key", roles=BUILD,
         query=tokens.token_list, template="tokens.html"),
    Page(path="/billing", title="Billing", label="Billing", icon="card", roles=MONEY,
         query=billing.billing, template="billing.html"),
    Page(path="/billing/buy", title="Buy credit", section="/billing", roles=MONEY,
         query=billing.quote, template="quote.html"),
    Page(path="/billing/top-up", title="Payment", section="/billing", roles=MONEY,
         query=billing.one_top_up, template="under_way.html"),
    Page(path="/ui/members", title="Members", label="Members", icon="people", roles=OWNER,
         query=members.member_list, template="members.html"),
    Page(path="/ui/accounts", title="Accounts", label="Accounts", icon="building", roles=OPERATOR,
         query=installation.accounts, template="accounts.html"),
    Page(path="/ui/styles", title="Styles", label="Styles", icon="style", roles=OPERATOR, demo=True,
         query=installation.styles, template="styles.html"),
    Page(path="/ui/sessions", title="Sign-ins", label="Sign-ins", icon="door", roles=ANYBODY,
         query=signing.session_list, template="sessions.html"),
    Page(path="/ui/confirm", title="Confirm that it is you", section="/ui/sessions", roles=ANYBODY,
         query=signing.confirm, template="confirm.html"),
)

FORM_ROWS: tuple[Form, ...] = (
    Form(path="/ui/try", does="Make a call", roles=BUILD, budget=TEST_CALLS, act=try_call.send, back="/ui/try"),
    Form(path="/ui/limits", does="Set a limit on a gateway", roles=BUILD, budget=CHANGES,
         act=limits.add, back="/ui/limits"),
    Form(path="/ui/limits/remove", does="Remove a limit from a gateway", roles=BUILD, budget=CHANGES,
         act=limits.remove, back="/ui/limits"),
    Form(path="/ui/limits/try", does="Try a limit on past calls", roles=BUILD, budget=WHAT_IFS,
         act=limits.try_first, back="/ui/limits"),
    Form(path="/ui/tokens", does="Create an access token", roles=BUILD, proved=True, budget=CHANGES,
         act=tokens.create, back="/ui/tokens"),
    Form(path="/ui/tokens/revoke", does="Revoke an access token", roles=BUILD, budget=CHANGES,
         act=tokens.revoke, back="/ui/tokens"),
    Form(path="/ui/members", does="Add a member, or change a role", roles=OWNER, proved=True, budget=CHANGES,
         act=members.put, back="/ui/members"),
    Form(path="/ui/members/remove", does="Remove a member", roles=OWNER, budget=CHANGES,
         act=members.remove, back="/ui/members"),
    Form(path="/ui/members/link", does="Make a sign-in link for a member", roles=OWNER, proved=True, budget=CHANGES,
         act=members.link, back="/ui/members"),
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
