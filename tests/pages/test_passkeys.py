"""Passkeys with a software authenticator: adding them, signing in, and every kind of error."""

import json
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from farebox.http.quotas import SIGN_INS
from farebox.identity import membership, passkeys, sessions, sign_in_attempts
from farebox.identity.sessions import LinkHolder
from farebox.model import Role
from farebox.storage.passkeys import Passkey
from tests.pages.authenticator import USER_PRESENT, USER_VERIFIED, Authenticator
from tests.pages.people import Person
from tests.pages.sign_in_server import SignInServer
from tests.support import Farebox
from tests.waiting import start_of_window

PROOF_MS = sessions.CONFIRMED_MS


@pytest.fixture
def farebox(sign_in_server: SignInServer) -> Farebox:
    sign_in_server.farebox.services.rates._windows.clear()  # all tests use one client address
    return sign_in_server.farebox


_NAMES = iter(f"key{number}@example.com" for number in range(1000))


def _member(farebox: Farebox, role: Role = Role.DEVELOPER) -> Person:
    """A person signed in as a new member of a new account."""
    email, account_id = next(_NAMES), farebox.create_account("Acme")
    farebox.run(membership.add(farebox.services, account_id, email, role))
    return Person(farebox, LinkHolder(account_id=account_id, email=email))


def _email(who: Person) -> str:
    assert who.holder.email is not None
    return who.holder.email


def _age(farebox: Farebox) -> None:
    """Let all proofs expire."""
    farebox.run(
        farebox.services.database.write(
            lambda connection: connection.execute("UPDATE sessions SET confirmed_at = confirmed_at - ?", (PROOF_MS,))
        )
    )


def _options(response: httpx.Response) -> dict[str, Any]:
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    options: dict[str, Any] = response.json()
    return options


def _added(who: Person, name: str = "", **kind: Any) -> Authenticator:
    """Add a passkey."""
    device = Authenticator(who.farebox.services.base_url, **kind)
    options = _options(who.send("/ui/passkeys/options"))
    assert "was added" in who.submit("/ui/passkeys", credential=device.make(options), name=name)
    return device


def _own(farebox: Farebox, who: Person) -> list[Passkey]:
    return farebox.run(passkeys.of_person(farebox.services, _email(who)))


class Stranger:
    """A browser without a session."""

    def __init__(self, farebox: Farebox) -> None:
        self.http = httpx.Client(base_url=farebox.url)

    def __enter__(self) -> "Stranger":
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def options(self) -> dict[str, Any]:
        return _options(self.http.post("/ui/sign-in/passkey/options"))

    def send(self, credential: str, **fields: str) -> httpx.Response:
        return self.http.post("/ui/sign-in/passkey", data={"credential": credential, **fields})


def test_a_passkey_signs_in(farebox: Farebox) -> None:
    who = _member(farebox)
    device = _added(who, "My laptop")
    who.send("/ui/sign-out")
    with Stranger(farebox) as browser:
        options = browser.options()
        assert options["allowCredentials"] == []  # any passkey: the user is not known beforehand
        assert options["userVerification"] == "required"
        signed_in = browser.send(device.use(options), next="/ui/tokens")
        assert (signed_in.status_code, signed_in.headers["location"]) == (303, "/ui/tokens")
        session = farebox.run(sessions.session(farebox.services, browser.http.cookies["farebox_sid"]))
        assert session is not None
        assert (session.sign_in.email, session.sign_in.method) == (_email(who), "passkey")
        assert session.roles == {Role.DEVELOPER}
        page = browser.http.get("/ui/sessions").text
        assert "My laptop" in page
        assert "Never" not in page
    [own] = _own(farebox, who)
    assert (own.sign_count, own.used_at is not None) == (1, True)


def test_the_owner_is_notified_about_a_new_passkey(sign_in_server: SignInServer, farebox: Farebox) -> None:
    who = _member(farebox)
    _added(who, "<i>Laptop</i>")
    message = sign_in_server.email_to(_email(who))
    assert message["Subject"] == "A passkey was added"
    texts = {part.get_content_type(): part.get_content() for part in message.iter_parts()}
    assert "“<i>Laptop</i>” was added" in texts["text/plain"]
    assert "&lt;i&gt;Laptop&lt;/i&gt;" in texts["text/html"]
    assert all(f"{farebox.services.base_url}/ui/sessions" in text for text in texts.values())


def test_the_options_for_creating_a_passkey(farebox: Farebox) -> None:
    who = _member(farebox)
    first = _added(who)
    options = _options(who.send("/ui/passkeys/options"))
    assert options["rp"] == {"name": "Farebox", "id": "localhost"}
    assert (options["user"]["name"], _email(who) in options["user"]["id"]) == (_email(who), False)
    assert options["authenticatorSelection"]["residentKey"] == "required"
    assert options["authenticatorSelection"]["userVerification"] == "required"
    assert [each["id"] for each in options["excludeCredentials"]] == [json.loads(first.use(_asked(options)))["id"]]


def _asked(options: dict[str, Any]) -> dict[str, Any]:
    """Creation options in the form of request options."""
    return {"challenge": options["challenge"], "rpId": options["rp"]["id"]}


def test_a_person_can_name_several_passkeys_and_remove_one(farebox: Farebox) -> None:
    who = _member(farebox)
    laptop, phone = _added(who, "Laptop"), _added(who, "  <b>My</b>   phone ")
    assert [each.name for each in _own(farebox, who)] == ["Laptop", "<b>My</b> phone"]
    assert "&lt;b&gt;My&lt;/b&gt; phone" in who.get("/ui/sessions").text
    first, second = _own(farebox, who)
    assert "Renamed the passkey" in who.submit("/ui/passkeys/rename", passkey=second.passkey_id, name="Phone")
    assert "at most 60 characters" in who.submit("/ui/passkeys/rename", passkey=second.passkey_id, name="x" * 61)
    assert "was removed" in who.submit("/ui/passkeys/remove", passkey=first.passkey_id)
    assert [each.name for each in _own(farebox, who)] == ["Phone"]
    for device, status in ((laptop, 403), (phone, 303)):
        with Stranger(farebox) as browser:
            assert browser.send(device.use(browser.options())).status_code == status


def test_nobody_can_change_another_persons_passkeys(farebox: Farebox) -> None:
    who, eve = _member(farebox), _member(farebox, Role.OWNER)
    _added(who, "Laptop")
    [own] = _own(farebox, who)
    for path in ("/ui/passkeys/rename", "/ui/passkeys/remove"):
        assert "do not have this passkey" in eve.submit(path, passkey=own.passkey_id, name="Mine")
    assert "Laptop" not in eve.get("/ui/sessions").text
    assert _own(farebox, who) == [own]


def test_adding_and_removing_needs_a_recent_proof(farebox: Farebox) -> None:
    who = _member(farebox)
    device = _added(who)
    [own] = _own(farebox, who)
    options = _options(who.send("/ui/passkeys/options"))
    made = Authenticator(device.origin).make(options)
    _age(farebox)
    for path in ("/ui/passkeys/options", "/ui/passkeys", "/ui/passkeys/remove"):
        led = who.send(path, passkey=own.passkey_id, credential=made)
        assert led.headers["location"] == "/ui/confirm?next=/ui/sessions"
    assert _own(farebox, who) == [own]


def test_a_passkey_is_a_proof(farebox: Farebox) -> None:
    who, eve = _member(farebox), _member(farebox)
    device, others = _added(who), _added(eve)
    _age(farebox)
    before = who.secret
    assert "Use a passkey" in who.get("/ui/confirm", next="/ui/tokens").text
    options = _options(who.send("/ui/confirm/passkey/options"))
    assert len(options["allowCredentials"]) == 1
    assert "does not prove" in who.submit("/ui/confirm/passkey", credential=others.use(options))
    options = _options(who.send("/ui/confirm/passkey/options"))
    done = who.send("/ui/confirm/passkey", credential=device.use(options), next="/ui/tokens")
    assert (done.status_code, done.headers["location"]) == (303, "/ui/tokens")
    assert who.secret != before
    assert farebox.run(sessions.session(farebox.services, before)) is None
    assert who.send("/ui/tokens", name="x").headers.get("location") != "/ui/confirm?next=/ui/tokens"


def test_a_challenge_for_signing_in_is_not_valid_for_a_proof(farebox: Farebox) -> None:
    """And vice versa: a challenge for one is not accepted for the other."""
    who = _member(farebox)
    device = _added(who)
    _age(farebox)
    any_one = _options(who.http.post("/ui/sign-in/passkey/options"))
    assert "took too long" in who.submit("/ui/confirm/passkey", credential=device.use(any_one))
    own = _options(who.send("/ui/confirm/passkey/options"))
    signed_in = who.http.post("/ui/sign-in/passkey", data={"credential": device.use(own)})
    assert (signed_in.status_code, "took too long" in signed_in.text) == (403, True)


def test_a_person_cannot_finish_what_another_began(farebox: Farebox) -> None:
    """Even if the second person signs in later in the same browser."""
    who, eve = _member(farebox), _member(farebox)
    made = Authenticator(farebox.services.base_url).make(_options(who.send("/ui/passkeys/options")))
    eve.http.cookies.set("farebox_attempt", who.http.cookies["farebox_attempt"])
    assert "took too long" in eve.submit("/ui/passkeys", credential=made)
    assert _own(farebox, eve) == _own(farebox, who) == []


# --- errors -----------------------------------------------------------------------------------------------------------

WRONG: dict[str, dict[str, Any]] = {
    "of another site": {"origin": "https://evil.example"},
    "of another port": {"origin": "http://localhost:1"},
    "for another host": {"rp_id": "evil.example"},
    "of another challenge": {"challenge": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
    "of the other ceremony": {"type": "webauthn.other"},
    "without somebody there": {"without": USER_PRESENT},
    "without the owner's PIN or finger": {"without": USER_VERIFIED},
}


@pytest.mark.parametrize("wrong", [pytest.param(fields, id=name) for name, fields in WRONG.items()])
def test_a_wrong_passkey_is_not_added(farebox: Farebox, wrong: dict[str, Any]) -> None:
    who = _member(farebox)
    device = Authenticator(farebox.services.base_url)
    made = device.make(_options(who.send("/ui/passkeys/options")), **wrong)
    assert "could not be verified" in who.submit("/ui/passkeys", credential=made)
    assert _own(farebox, who) == []


WRONG_USES = WRONG | {
    "by another key": {"key": ec.generate_private_key(ec.SECP256R1())},
    "of another person": {"handle": b"x" * 32},
    "counted before": {"sign_count": 5},
    "counted backwards": {"sign_count": 3},
    "no longer counted": {"sign_count": 0},
}


@pytest.mark.parametrize("wrong", [pytest.param(fields, id=name) for name, fields in WRONG_USES.items()])
def test_a_wrong_signature_does_not_sign_in(farebox: Farebox, wrong: dict[str, Any]) -> None:
    device = _added(_member(farebox), sign_count=5)
    with Stranger(farebox) as browser:
        refused = browser.send(device.use(browser.options(), **wrong))
        assert (refused.status_code, "does not prove who you are" in refused.text) == (403, True)
        assert browser.http.cookies.get("farebox_sid") is None
        assert browser.send(device.use(browser.options())).status_code == 303  # only that was wrong


def test_an_authenticator_without_a_counter_signs_in_repeatedly(farebox: Farebox) -> None:
    """Synchronized passkeys do not count signatures."""
    device = _added(_member(farebox), counts=False)
    for _ in range(2):
        with Stranger(farebox) as browser:
            assert browser.send(device.use(browser.options())).status_code == 303


def test_an_assertion_is_valid_once_and_in_one_browser(farebox: Farebox) -> None:
    device = _added(_member(farebox))
    with Stranger(farebox) as browser, Stranger(farebox) as other:
        options = browser.options()
        other.options()
        answer = device.use(options)
        for asks in (other, other):
            refused = asks.send(answer)
            assert refused.status_code == 403
        assert browser.send(answer).status_code == 303
        browser.http.cookies.delete("farebox_sid")
        refused = browser.send(device.use(options))
        assert (refused.status_code, "took too long" in refused.text) == (403, True)


def test_an_expired_challenge_is_refused(farebox: Farebox) -> None:
    device = _added(_member(farebox))
    with Stranger(farebox) as browser:
        answer = device.use(browser.options())
        farebox.run(
            farebox.services.database.write(
                lambda connection: connection.execute(
                    "UPDATE sign_in_attempts SET expires_at = expires_at - ?", (sign_in_attempts.ATTEMPT_MS,)
                )
            )
        )
        refused = browser.send(answer)
        assert (refused.status_code, "took too long" in refused.text) == (403, True)


def test_an_unknown_passkey_and_that_of_a_former_member_are_refused(farebox: Farebox) -> None:
    who = _member(farebox)
    device = _added(who)
    with Stranger(farebox) as browser:
        unknown = browser.send(Authenticator(device.origin).use(browser.options()))
        assert (unknown.status_code, "unknown here" in unknown.text) == (403, True)
    farebox.run(membership.remove(farebox.services, who.holder.account_id, _email(who)))
    assert _own(farebox, who) == []
    farebox.run(
        membership.add(farebox.services, who.holder.account_id, _email(who), Role.OWNER)
    )  # a different person later
    with Stranger(farebox) as browser:
        assert browser.send(device.use(browser.options())).status_code == 403


def test_invalid_credentials_are_refused(farebox: Farebox) -> None:
    who = _member(farebox)
    device = _added(who)
    with Stranger(farebox) as browser:
        whole = json.loads(device.use(browser.options()))
        for text in _broken(whole):
            browser.options()
            refused = browser.send(text)
            assert refused.status_code == 403, text[:500]
            farebox.services.rates._windows.clear()
    made = json.loads(Authenticator(device.origin).make(_options(who.send("/ui/passkeys/options"))))
    for text in _broken(made):
        _options(who.send("/ui/passkeys/options"))
        assert "could not be verified" in who.submit("/ui/passkeys", credential=text), text[:500]
    assert len(_own(farebox, who)) == 1


def _broken(whole: dict[str, Any]) -> list[str]:
    texts = ["", "x", "[]", "null", "1", '"x"', "{}", "[" * 5000, "é", '{"id": 1}']
    for name in whole:
        others: tuple[Any, ...] = (None, 1, "", "!", [], {}, "AAAA")
        texts += [json.dumps(whole | {name: value}) for value in others]
    response = whole["response"]
    for name in set(response) - {"userHandle"}:
        values: tuple[Any, ...] = (None, 1, "", "!", [], "AAAA", "e30", "bnVsbA", response[name][:-9])
        texts += [json.dumps(whole | {"response": response | {name: value}}) for value in values]
    return texts


def test_other_sites_cannot_sign_in(farebox: Farebox) -> None:
    device = _added(_member(farebox))
    with Stranger(farebox) as browser:
        answer = device.use(browser.options())
        browser.http.headers["sec-fetch-site"] = "cross-site"
        assert browser.send(answer).status_code == 400
        assert browser.http.post("/ui/sign-in/passkey/options").status_code == 400


def test_a_session_that_was_there_before_ends(farebox: Farebox) -> None:
    """Session fixation."""
    device, planted = _added(_member(farebox)), _member(farebox)
    with Stranger(farebox) as browser:
        browser.http.cookies.set("farebox_sid", planted.secret)
        answer = browser.send(device.use(browser.options()))
        assert planted.secret not in answer.headers["set-cookie"]
    assert planted.session is None


def test_attempts_are_limited(farebox: Farebox) -> None:
    with Stranger(farebox) as browser:
        start_of_window(SIGN_INS.seconds)
        statuses = [browser.http.post("/ui/sign-in/passkey/options").status_code for _ in range(61)]
    assert statuses == [200] * 60 + [429]


def test_a_link_made_by_an_owner_cannot_add_a_passkey(farebox: Farebox) -> None:
    """The passkey would sign in as that person on all accounts."""
    who = _member(farebox)
    for holder in (
        LinkHolder(account_id=who.holder.account_id, email=_email(who), vouched=True),
        LinkHolder(account_id=who.holder.account_id, role=Role.OWNER),
    ):
        somebody = Person(farebox, holder)
        assert "Add a passkey" not in somebody.get("/ui/sessions").text
        assert "signed in as themselves" in somebody.submit("/ui/passkeys/options")


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://ai.example.com", ("ai.example.com", "https://ai.example.com")),
        ("https://ai.example.com:8443/farebox", ("ai.example.com", "https://ai.example.com:8443")),
        ("http://localhost:8787", ("localhost", "http://localhost:8787")),
        ("http://ai.example.com", None),
        ("http://127.0.0.1:8787", None),
        ("https://192.0.2.7", None),
        ("https://[2001:db8::1]:8443", None),
    ],
)
def test_public_urls_at_which_browsers_allow_passkeys(url: str, place: tuple[str, str] | None) -> None:
    found = passkeys.relying_party(url)
    assert (None if found is None else (found.host, found.origin)) == place
