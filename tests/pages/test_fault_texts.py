"""What the API says of schemas is said in words on the pages."""

import re
from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import pytest

from farebox.http.control import (
    custom_costs,
    custom_domains,
    custom_providers,
    dlp_profiles,
    dynamic_routes,
    gateways,
    log_destination,
    model_aliases,
    policies,
    policy_simulation,
    provider_configs,
    tokens,
)
from farebox.http.pages.fault_texts import fault_text, note_of, with_our_quotes
from farebox.http.pages.fields import Field, faults_at, texts_of, values_of
from farebox.http.validation import Fault, InvalidInput, read
from farebox.model import Role
from farebox.policies.conditions import InvalidPolicyCondition, compile_condition
from tests.pages.people import Person, person
from tests.support import Farebox

SENT: tuple[type[msgspec.Struct], ...] = (
    custom_costs.CustomCostCreate,
    custom_costs.CustomCostChange,
    custom_domains.CustomDomainCreate,
    custom_providers.CustomProviderCreate,
    custom_providers.CustomProviderChange,
    dlp_profiles.ProfileSet,
    dynamic_routes.DeploymentCreate,
    dynamic_routes.RouteCreate,
    dynamic_routes.RouteRename,
    dynamic_routes.VersionCreate,
    gateways.GatewayChange,
    gateways.GatewayCreate,
    log_destination.LogDestinationSet,
    model_aliases.AliasSet,
    policies.PolicyChange,
    policies.PolicyCreate,
    policy_simulation.Simulation,
    provider_configs.ProviderConfigCreate,
    provider_configs.ProviderConfigReplace,
    tokens.TokenChange,
)
"""The bodies that pages send."""
WRONG: tuple[Any, ...] = (
    None, True, "", "?!\x01", "x" * 100_000, -1, 1.5, 10**15, [], [None], ["x" * 5_000] * 300, {}, {"x": None},
    {"rules": [{"limit": 0, "window": -1, "limitType": "x"}]}, [{"type": "model", "id": "", "outputs": []}],
)  # fmt: skip
JARGON = re.compile(
    r"\^\[|\\$$|`|\b(?:String|Array|[Ee]xpected|received|null|regex|enum|Unrecognized|Required|Invalid|integer|msgspec)\b"
    r"|\((?:s|en)\)|array|boolean"
)


def _patterns(kind: Any, seen: set[Any]) -> Iterator[msgspec.Meta]:
    if isinstance(kind, msgspec.Meta):
        yield kind
    elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        if kind not in seen:
            seen.add(kind)
            for each in msgspec.structs.fields(kind):
                yield from _patterns(each.type, seen)
    else:
        for part in get_args(kind):
            yield from _patterns(part, seen)


def test_each_pattern_says_in_words_what_is_allowed() -> None:
    seen = set[Any]()
    found = [meta for kind in SENT for meta in _patterns(kind, seen) if meta.pattern is not None]
    assert len(found) > 5
    assert [meta.pattern for meta in found if not meta.description] == []


@pytest.mark.parametrize("kind", SENT, ids=lambda kind: kind.__name__)
def test_no_message_speaks_of_schemas(kind: type[msgspec.Struct]) -> None:
    said = dict[str, str]()
    for each in msgspec.structs.fields(kind):
        for value in WRONG:
            try:
                read({each.encode_name: value}, kind, "body", strict=True)
            except InvalidInput as error:
                said |= {fault.message: fault_text(fault) for fault in error.faults}
    assert {message: words for message, words in said.items() if JARGON.search(words)} == {}


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("Required", "Fill this in"),
        ("Required: the length of the window in seconds", "Fill this in: the length of the window in seconds"),
        ("String must contain at least 1 character(s)", "Fill this in"),
        ("String must contain at most 1024 character(s)", "Enter at most 1,024 characters"),
        ("Array must contain at most 20 element(s)", "Enter or choose at most 20"),
        ("Number must be greater than 0", "Enter a number above 0"),
        ("Expected integer, received float", "Enter a whole number"),
        ("Expected 'a' | 'b', received null", "Choose one of these: a, b"),
        ("Invalid enum value. Expected 'a' | 'b' | object, received 'c'", "Choose one of these: a, b"),
        ("Invalid url", "Enter a complete URL, such as https://api.example.com"),
        ("Invalid discriminator value. Expected 'a' | 'b', received 'c'", "Choose one of these: a; b"),
        ("There is no provider 'x'", "There is no provider “x”"),
        ("Another entry has the id 'it's x' too", "Another entry has the id “it's x” too"),
        ("The account's own, or its users' keys", "The account's own, or its users' keys"),
    ],
)
def test_words(message: str, words: str) -> None:
    assert fault_text(Fault(("body", "x"), message)) == words


def test_an_unknown_tag_is_reported_with_the_choices() -> None:
    for wrong in ("zz", "\x00"):
        with pytest.raises(InvalidInput) as refused:
            read({"action": {"type": wrong}}, policies.PolicyChange, "body", strict=True)
        (fault,) = refused.value.faults
        message = f"Invalid discriminator value. Expected 'no-limit' | 'block' | 'limit', received '{wrong}'"
        assert (fault.path, fault.message) == (("body", "action", "type"), message)
        offered = {"limit": "allow, up to a limit", "except": "refuse calls that do not match"}
        assert fault_text(fault, offered) == "Choose one of these: allow, up to a limit; refuse calls that do not match"


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("1", 'The condition must be true or false, as token.name == "batch" is'),
        ('{"a":', "The condition is not complete: something is missing at its end"),
        ("token.id ==", "The condition is not complete: something is missing at its end"),
        (")", "The condition cannot be read near “)” (line 1, column 1)"),
        ('"abc', 'The condition cannot be read near “"abc” (line 1, column 1)'),
        ("a b", "The condition cannot be read near “b” (line 1, column 3)"),
        ("foo.bar == 1", "The condition uses “foo.bar”, which does not exist"),
        (
            "token.id == 1",
            "The condition combines values of types that do not go together (line 1, column 10): string, int",
        ),
        ("'" + "x" * 400, "The condition cannot be read near “'xxx"),
    ],
)
def test_conditions_that_cannot_be_compiled_are_explained(condition: str, words: str) -> None:
    with pytest.raises(InvalidPolicyCondition) as refused:
        compile_condition(condition)
    assert fault_text(Fault(("body", "condition"), f"Invalid CEL expression: {refused.value}")).startswith(words)


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("1e400", 10**18),
        ("9" * 40, 10**18),
        ("-1e400", -(10**18)),
        ("-" + "9" * 40, -(10**18)),
        ("1.5E+999", 10**18),
        ("0" * 30 + "7", "0" * 30 + "7"),
        ("0e400", "0e400"),
        ("1e-400", "1e-400"),
        ("9" * 18, 10**18 - 1),
    ],
)
def test_a_huge_number_is_sent_as_a_number(text: str, sent: object) -> None:
    assert values_of([Field(name="x", label="", kind="number")], {"x": text}) == {"x": sent}


def test_a_line_without_a_colon_is_refused_and_shown_again() -> None:
    field = Field(name="headers", label="", kind="pairs")
    values = values_of([field], {"headers": "nocolon\nempty:\na: b"})
    assert values == {"headers": {"nocolon": None, "empty": "", "a": "b"}}
    assert texts_of([field], values) == {"headers": "nocolon\nempty: \na: b"}
    fault = Fault(("body", "headers", "nocolon"), "Expected string, received null")
    at, _ = faults_at(InvalidInput([fault]), [field])
    assert at == {"headers": "nocolon: Write a colon and a value after the name"}


def test_faults_name_the_line_or_the_part() -> None:
    fields = (Field(name="models", label="", kind="lines"), Field(name="headers", label="", kind="pairs"))
    long = "String must contain at most 5 character(s)"
    paths = (("body", "models", 2), ("body", "headers", "X-Key"), ("body", "rate_limit", 0, "unit"), ("body",))
    at, others = faults_at(InvalidInput([Fault(path, long) for path in paths]), fields)
    assert at == {"models": "Line 3: Enter at most 5 characters", "headers": "X-Key: Enter at most 5 characters"}
    assert others == ["Rate limit, item 1, unit: Enter at most 5 characters", "Enter at most 5 characters"]


def test_a_note_names_a_few_fields() -> None:
    error = InvalidInput([Fault(("body", f"field_{number}"), "Required") for number in range(5)])
    assert note_of(error) == "Field 0: Fill this in. Field 1: Fill this in. Field 2: Fill this in"


def test_quotes_of_the_api_become_ours() -> None:
    assert with_our_quotes("There is no 'gpt-4' at Ann's, nor 'x y'") == "There is no “gpt-4” at Ann's, nor “x y”"
    long = f"'{'x' * 200}' and '{'y' * 201}'"
    assert with_our_quotes(long) == f"“{'x' * 200}” and '{'y' * 201}'", "the search for the end is bounded"


def test_what_is_not_json_is_located(farebox: Farebox) -> None:
    owner = person(farebox, Role.OWNER, farebox.create_account())
    new = "/ui/gateways/default/new-route"
    for text, said in (
        ('[\n{"id": "start",,}]', "This is not valid JSON in line 2, column 16: "),
        ("[" * 20_000, "This is nested too deeply"),
        (f"[{'1' * 20_000}]", "not a complete route yet"),
        ('"x"', "Enter a list in brackets, such as [1, 2]"),
    ):
        assert said in owner.submit(new, do="draw", name="x", json=text)


def test_a_fresh_account_has_the_default_gateway(farebox: Farebox) -> None:
    for part in ("", "/settings", "/keys", "/routes", "/new-route", "/guardrails", "/policies", "/names"):
        owner: Person = person(farebox, Role.OWNER, farebox.create_account())
        assert owner.get(f"/ui/gateways/default{part}").status_code == 200, part
        assert owner.get(f"/ui/gateways/other{part}").status_code == 404, part
