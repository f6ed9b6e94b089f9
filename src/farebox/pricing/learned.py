"""What this process learned from the responses it relayed: the size of what IDs refer to, and how much input tool uses
add. In memory and bounded; after a restart, or in another process, the rules for unknown sizes apply.
"""

from bisect import bisect_left, insort
from collections import OrderedDict, deque

from farebox.money import ceil_div
from farebox.pricing.model import Demand
from farebox.pricing.unseen import FEES, TOOLS
from farebox.usage import Usage

SIZES_KEPT = 50_000
USES_KEPT = 200
"""How many of the latest uses of one tool by one account at one provider are kept."""
ACCOUNTS_KEPT = 500
ACCOUNTS_MIN = 3
"""With at least this many accounts, their median applies to all."""
BYTES_PER_TOKEN = 4
"""Rough size of the request's own text: anything above it is attributed to tools."""


class _Uses:
    """How much input an account's uses of a tool added."""

    __slots__ = ("_latest", "_ordered")

    def __init__(self) -> None:
        self._latest: deque[int] = deque()
        self._ordered: list[int] = []

    def add(self, tokens: int) -> None:
        self._latest.append(tokens)
        insort(self._ordered, tokens)
        if len(self._latest) > USES_KEPT:
            del self._ordered[bisect_left(self._ordered, self._latest.popleft())]

    def level(self, percentile: int) -> int:
        """This percentile of the uses."""
        return self._ordered[min(len(self._ordered) - 1, len(self._ordered) * percentile // 100)]


class LearnedSizes:
    """What one process has learned."""

    def __init__(self) -> None:
        self._sizes: OrderedDict[tuple[str, str, str], int] = OrderedDict()
        self._uses: dict[tuple[str, str], OrderedDict[str, _Uses]] = {}

    def keep_size(self, account_id: str, provider: str, reference: str, tokens: int) -> None:
        """Remember the size of a response that later requests can refer to: the input and output of
        its call together.
        """
        key = (account_id, provider, reference)
        self._sizes[key] = tokens
        self._sizes.move_to_end(key)
        if len(self._sizes) > SIZES_KEPT:
            self._sizes.popitem(last=False)

    def size(self, account_id: str, provider: str, reference: str) -> int | None:
        """Tokens behind the reference; None if this process did not relay it for this account."""
        key = (account_id, provider, reference)
        tokens = self._sizes.get(key)
        if tokens is not None:
            self._sizes.move_to_end(key)
        return tokens

    def learn_use(self, account_id: str, provider: str, kind: str, tokens: int) -> None:
        """Record that each of a call's uses of a tool added this many tokens."""
        accounts = self._uses.setdefault((provider, kind), OrderedDict())
        accounts.setdefault(account_id, _Uses()).add(tokens)
        accounts.move_to_end(account_id)
        if len(accounts) > ACCOUNTS_KEPT:
            accounts.popitem(last=False)

    def per_use(self, account_id: str, provider: str, kind: str, percentile: int) -> int:
        """The given percentile of what one use added, over the account's own calls, or over those of the median
        account if higher, so that a few extreme accounts do not raise the holds of others. 0 if there were none.
        """
        accounts = self._uses.get((provider, kind))
        if not accounts:
            return 0
        own = accounts.get(account_id)
        levels = sorted(uses.level(percentile) for uses in accounts.values())
        usual = levels[(len(levels) - 1) // 2] if len(levels) >= ACCOUNTS_MIN else 0
        return max(usual, own.level(percentile) if own else 0)


def learn(learned: LearnedSizes, account_id: str, provider: str, demand: Demand, usage: Usage, reference: str) -> None:
    """Learn from a complete response and the provider's own figures, for later holds."""
    read = int(usage.get("input_tokens", 0))
    if reference and not demand.cuts_input:
        learned.keep_size(account_id, provider, reference, read + int(usage.get("output_tokens", 0)))
    if len(demand.unseen) != 1:
        return  # it is not known which tool added what
    kind = demand.unseen[0].kind
    uses = int(usage.get(FEES[kind], 0)) if kind in FEES else 1
    if kind in TOOLS and uses:
        extra = max(0, read - demand.text_bytes // BYTES_PER_TOKEN)
        learned.learn_use(account_id, provider, kind, ceil_div(extra, uses))
