"""What is held for input that a request does not show.

One of three rules applies to each kind; the operator can change them (`FAREBOX_UNSEEN_INPUT`).

- `window`: everything that the model can read, minus what was sent. A tool that runs at the provider makes the model
  read again after each use, so the window counts once more for each use that the request allows.
- `learned`: what this kind recently added at this provider (`pricing.learned`), for each use. Anything beyond that is
  an overrun, which the operator accepts; if the balance is short, at least one use is held.
- `refuse`: not on the operator's key.

An ID from an earlier response has a known size, whatever the rule.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias, cast, get_args

import msgspec
from msgspec.structs import replace

from farebox.pricing.model import Demand, ModelPrice, UnseenInput
from farebox.pricing.window import context_window
from farebox.quoting import quoted

Rule: TypeAlias = Literal["window", "learned", "refuse"]

TOOL_USES = 10
"""Assumed if a request allows a tool without a limit: Anthropic's servers pause a turn after ten uses."""

PRIOR_TOKENS = 32_000
"""The assumed minimum that one use of a learned kind adds: the most that was observed for ordinary searches."""

KINDS: Mapping[str, Rule] = MappingProxyType(
    {
        "file": "window",
        "url": "window",
        "pdf": "window",
        "video": "window",
        "audio": "window",
        "response": "window",
        "conversation": "window",
        "item": "window",
        "prompt": "refuse",
        "bucket": "refuse",
        "cache": "window",
        "container": "window",
        "web_search": "learned",
        "web_fetch": "window",
        "url_context": "window",
        "mcp": "window",
        "file_search": "window",
        "code_execution": "window",
    }
)
"""Every kind, and its default rule."""

TOOLS = frozenset({"web_search", "web_fetch", "url_context", "mcp", "file_search", "code_execution"})
"""Kinds that are added by tool uses, each followed by another pass of the model."""

_PASSES = TOOLS | {"tool_search", "advisor"}
"""Kinds after whose uses the model reads its input again; for some, the added input is in the request, or is read by
another model.
"""

FEES = MappingProxyType({"web_search": "web_searches", "file_search": "storage_searches"})
"""The meters by which tool uses are charged, in addition to the tokens that they add."""


class UnseenRules(msgspec.Struct, frozen=True):
    """The operator's rules."""

    of: Mapping[str, Rule] = KINDS
    prior: int = PRIOR_TOKENS

    def rule(self, kind: str) -> Rule:
        """The rule of a kind."""
        return self.of.get(kind, "window")


class UnseenTokens(msgspec.Struct, frozen=True, gc=False):
    """The amounts that are held for input that a request does not show."""

    windows: int = 0
    """How many times the whole context window is read."""
    known: int = 0
    """Tokens of IDs whose size is known; they fit into the windows, if there are any."""
    learned: int = 0
    """Tokens that uses of learned kinds add."""

    def tokens(self, price: ModelPrice, seen: int) -> int:
        """Input tokens in addition to the `seen` ones of the request itself."""
        window = context_window(price)
        if self.windows:
            return max(0, self.windows * window - seen) + self.learned
        return min(self.known, window) + self.learned


NO_UNSEEN_TOKENS = UnseenTokens()


def parse_rules(text: str, prior: int = PRIOR_TOKENS) -> UnseenRules:
    """The default rules, overridden by `kind=rule,kind=rule`. Raises ValueError with a message that says what is
    wrong."""
    of = dict(KINDS)
    for part in filter(None, (part.strip() for part in text.split(","))):
        kind, _, rule = (word.strip() for word in part.partition("="))
        if kind not in KINDS:
            raise ValueError(f"{quoted(kind)} is not a kind of unseen input: use {', '.join(KINDS)}")
        if rule not in get_args(Rule):
            raise ValueError(f"{quoted(rule)} is not a rule for {kind}: use {', '.join(get_args(Rule))}")
        if rule == "learned" and kind not in TOOLS:
            raise ValueError(f"{kind} cannot be learned, only tools can: {', '.join(sorted(TOOLS))}")
        of[kind] = cast(Rule, rule)
    return UnseenRules(MappingProxyType(of), prior)


def tokens_for_unseen(
    demand: Demand,
    rules: UnseenRules = UnseenRules(),  # noqa: B008  # frozen
    known: Callable[[UnseenInput], int | None] = lambda _: None,
    learned: Callable[[str], int] = lambda _: 0,
) -> UnseenTokens:
    """What is held for the unseen input of a request. `known` returns the tokens behind an ID if they are known,
    `learned` returns what one use of a kind recently added.
    """
    if not demand.unseen:
        return NO_UNSEEN_TOKENS
    windows = known_tokens = learned_tokens = 0
    for unseen in demand.unseen:
        if unseen.kind not in KINDS:
            continue
        size = known(unseen) if unseen.ref else None
        if size is not None:
            known_tokens += size
        elif unseen.kind not in TOOLS:
            windows = max(windows, _uses(unseen))
        elif rules.rule(unseen.kind) == "learned":
            learned_tokens += max(rules.prior, learned(unseen.kind)) * _uses(unseen)
        elif _uses(unseen):
            windows = max(windows, 1) + _uses(unseen)
    return UnseenTokens(windows, known_tokens, learned_tokens)


def with_single_uses(demand: Demand, rules: UnseenRules) -> Demand | None:
    """The demand with one use of each learned kind: the minimum to hold. None if that changes nothing."""
    several = {kind for kind, meter in FEES.items() if demand.allowed.get(meter, 0) > 1}
    learned = [unseen for unseen in demand.unseen if rules.rule(unseen.kind) == "learned"]
    fewer = {unseen.kind for unseen in learned if _uses(unseen) > 1 or unseen.kind in several}
    if not fewer:
        return None
    fees = {FEES[kind] for kind in fewer if kind in FEES}
    return replace(
        demand,
        unseen=tuple(replace(unseen, uses=1) if unseen.kind in fewer else unseen for unseen in demand.unseen),
        allowed={meter: min(quantity, 1) if meter in fees else quantity for meter, quantity in demand.allowed.items()},
    )


def passes_max(demand: Demand) -> int | None:
    """The maximum number of times that the model reads its input for one response: once, and again after each use of a
    tool. None if the request sets no bound.
    """
    passes = 1
    for unseen in demand.unseen:
        if unseen.kind in _PASSES:
            if unseen.uses is None:
                return None
            passes += unseen.uses
    return passes


def has_unreported_cost(demand: Demand, *, input_reported: bool) -> bool:
    """Whether part of the cost besides the generated text is known only at the end of the response: input that the
    request does not show, what tools add, and additional models. `input_reported`: whether the provider has reported
    the input by now.
    """
    if demand.further_models:
        return True
    return any(
        unseen.kind in KINDS and (not input_reported or (unseen.kind in TOOLS and unseen.uses != 0))
        for unseen in demand.unseen
    )


def refused(demand: Demand, rules: UnseenRules) -> tuple[str, ...]:
    """The kinds of the request that the operator does not pay for."""
    return tuple(dict.fromkeys(unseen.kind for unseen in demand.unseen if rules.rule(unseen.kind) == "refuse"))


def _uses(unseen: UnseenInput) -> int:
    return TOOL_USES if unseen.uses is None else unseen.uses
