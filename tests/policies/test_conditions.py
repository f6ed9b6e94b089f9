"""Conditions in CEL: their results, missing values, evaluation errors, and invalid expressions."""

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farebox.policies.conditions import (
    VALUE_MAX,
    InvalidPolicyCondition,
    Unevaluable,
    UnresolvedField,
    bind,
    compile_condition,
)
from farebox.policies.document import CONDITION_MAX, Resource
from farebox.policies.matching import InvalidActor, compile_actor, compile_resource


def holds(text: str, metadata: dict[str, Any] | None = None, **fields: str) -> bool:
    named = {name.replace("__", "."): value for name, value in fields.items()}
    return compile_condition(text).holds(bind(named, metadata or {}))


def test_results_of_conditions() -> None:
    assert holds("cf.user.id == 'a' && cf.user.email.endsWith('@x.org')", cf__user__id="a", cf__user__email="m@x.org")
    assert holds("token.name in ['a', 'b'] || user == 'x'", token__name="b"), "the missing value does not matter then"
    assert holds("has(metadata.team) && metadata.team == 'red'", {"team": "red"})
    assert not holds("has(metadata.team) && metadata.team == 'red'")
    assert holds("metadata['a b'] > 1 && metadata.paid", {"a b": 2, "paid": True})
    assert holds("metadata.size == 1.5", {"size": 1.5})
    assert holds(" true ")


@pytest.mark.parametrize("text", ["metadata.team == 'x'", "user == 'x'", "cf.user.email.size() > 0"])
def test_missing_values(text: str) -> None:
    with pytest.raises(UnresolvedField):
        holds(text)


@pytest.mark.parametrize(
    ("text", "metadata"),
    [
        ("metadata.n.startsWith('x')", {"n": 1}),
        ("metadata.n / 0 == 1", {"n": 1}),
        ("metadata.n + 9223372036854775807 > 0", {"n": 1}),
        ("metadata.n == 1", {"n": 2**70}),
        ("metadata.n", {"n": "true"}),
        ("metadata.n == 'x'", {"n": "x" * (VALUE_MAX + 1)}),
        ("timestamp(metadata.n) > timestamp(0)", {"n": "yesterday"}),
    ],
)
def test_evaluation_errors(text: str, metadata: dict[str, Any]) -> None:
    with pytest.raises(Unevaluable):
        holds(text, metadata)


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2].exists(x, x == 1)", "[1].map(x, x) == [1]", "metadata.filter(k, true) == []", "user.matches('a*')",
        "timestamp(user).getHours('Europe/Berlin') == 1", "cf.user.groups == 'x'", "1 == 1.0", "1 + 1", "x",
        "[" * 40 + "]" * 40 + " == []", "user" + ".a" * 40 + " == 1", "true ? true", "", "user == '\udc80'",
    ],
)  # fmt: skip
def test_invalid_conditions_are_refused(text: str) -> None:
    with pytest.raises(InvalidPolicyCondition):
        compile_condition(text)


_ATOMS = st.sampled_from(
    ["true", "1", "'a'", "user", "metadata", "metadata.a", "metadata.n", "[1]", "[]", "{}", "-1", "1.5", "null", "b'x'"]
)
_GROWN = lambda inner: st.one_of(  # noqa: E731
    st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "%", "==", "<", "&&", "||", " in "]), inner).map("".join),
    inner.map("!({})".format),
    inner.map("[{}]".format),
    inner.map("size({})".format),
    inner.map("string({})".format),
    inner.map("({}).contains('a')".format),
    st.tuples(inner, inner, inner).map(lambda parts: "({} ? {} : {})".format(*parts)),
)


@settings(deadline=None)
@given(st.recursive(_ATOMS, _GROWN, max_leaves=25))
def test_any_expression_has_a_result_or_one_of_our_errors(text: str) -> None:
    with contextlib.suppress(InvalidPolicyCondition, Unevaluable, UnresolvedField):
        assert holds(text[:CONDITION_MAX], {"a": "a" * VALUE_MAX, "n": 2**62}, user="u") in (True, False)


def test_actors() -> None:
    metadata: dict[str, Any] = {"a": 5, "b": True, "c": "x"}
    actor = compile_actor("team:{metadata.c}/{user}-{metadata.a}{metadata.b}")
    assert actor.resolve({"user": "u"}, metadata) == "team:x/u-5true"
    with pytest.raises(UnresolvedField):
        actor.resolve({}, metadata)
    assert compile_actor("everyone").resolve({}, {}) == "everyone"
    for wrong in ("{", "a}", "{a{user}}", "{}", "{metadata}", "{metadata.}", "{cf.user.groups}", "{ user }"):
        with pytest.raises(InvalidActor):
            compile_actor(wrong)


@pytest.mark.parametrize(
    ("pattern", "covered", "others"),
    [
        ("openai/gpt-*", ["openai gpt-5.5", "openai GPT-4"], ["openai o3", "azure-openai gpt-4", "openai gpt-4/x"]),
        ("gpt-4o", ["openai gpt-4o", "custom-x gpt-4o"], ["openai gpt-4o-mini", "openrouter openai/gpt-4o"]),
        ("*", ["openai gpt-4o"], ["openrouter openai/gpt-4o"]),
        ("openrouter/*/*", ["openrouter openai/gpt-4o"], ["openrouter gpt", "openai a/b"]),
        ("@cf/*/llama-*-8b*x", ["workers-ai @cf/meta/llama-3-8b-fix"], ["workers-ai @cf/meta/llama-8b-x"]),
        ("google/gemini-*", ["google-ai-studio gemini-2"], ["google-vertex-ai gemini-2"]),
        ("openai/a*a", ["openai aa", "openai aba"], ["openai a"]),
    ],
)
def test_models_that_a_pattern_covers(pattern: str, covered: list[str], others: list[str]) -> None:
    resource = compile_resource(Resource(model=pattern), {"google": "google-ai-studio"})
    for names, wanted in ((covered, True), (others, False)):
        for name in names:
            provider, _, model = name.partition(" ")
            assert resource.covers(provider, model, unknown=False) is wanted, name
    assert resource.covers("openai", None, unknown=True)
