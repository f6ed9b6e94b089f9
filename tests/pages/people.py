"""A user of the pages: a headless browser that is signed in."""

import weakref
from dataclasses import dataclass, field

import httpx

from farebox.identity import sessions
from farebox.identity.sessions import LinkHolder, SignInSession
from farebox.model import Role
from tests.support import Farebox


@dataclass
class Person:
    """A user signed in by a link, with a role on an account or as the operator."""

    farebox: Farebox
    holder: LinkHolder
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=self.farebox.url)
        weakref.finalize(self, self.http.close)
        self.sign_in()

    def sign_in(self) -> httpx.Response:
        """Sign in with a new link."""
        link = self.farebox.run(sessions.make_link(self.farebox.services, self.holder))
        response = self.http.post("/ui/open", data={"link": httpx.URL(link).params["link"]})
        assert (response.status_code, response.headers["location"]) == (303, "/ui/overview")
        return response

    @property
    def secret(self) -> str:
        return self.http.cookies.get("farebox_sid") or ""

    @property
    def session(self) -> SignInSession | None:
        return self.farebox.run(sessions.session(self.farebox.services, self.secret))

    @property
    def session_as_it_is(self) -> SignInSession | None:
        """The session, read without resetting its idle timeout."""
        return self.farebox.run(sessions.session(self.farebox.services, self.secret, touches=False))

    @property
    def csrf(self) -> str:
        session = self.session
        assert session is not None
        return sessions.seal(self.farebox.services, session, "form")

    def get(self, path: str, **query: str) -> httpx.Response:
        return self.http.get(path, params=query or None)

    def send(self, path: str, **fields: str) -> httpx.Response:
        """Send a form of the site."""
        return self.http.post(path, data={"csrf": self.csrf, **fields})

    def submit(self, path: str, **fields: str) -> str:
        """Send a form of the site; the page that it leads to."""
        response = self.http.post(path, data={"csrf": self.csrf, **fields}, follow_redirects=True)
        assert response.status_code == 200, response.text
        return response.text


def person(farebox: Farebox, role: Role, account_id: str) -> Person:
    """A person signed in by a link with this role; an operator's link has no account."""
    if role is Role.OPERATOR:
        return Person(farebox, LinkHolder(operator=True))
    return Person(farebox, LinkHolder(account_id=account_id, role=role))
