"""Batches: the hold covers all requests of their input at the batch price, and is settled by the usage in their
output."""

from collections.abc import AsyncIterator, Callable, Iterable
from fractions import Fraction
from typing import Any, Final, TypeVar

import structlog

from farebox.calls.admit import HOLD_GRACE_MS
from farebox.calls.long_calls.work import BatchTerms, as_responded, own_request, work_of
from farebox.calls.ownership import find_owned
from farebox.calls.price import PricedUsage
from farebox.calls.record import CallOutcome
from farebox.calls.settle import end_call
from farebox.calls.spending.credit_refusal import credit_refusal
from farebox.calls.stages import CallContext, Held
from farebox.calls.tiers import find_price
from farebox.errors import (
    ESTIMATE_CAPPED,
    INVALID_REQUEST,
    MODEL_UNPRICED,
    NOT_METERED,
    OBJECTS_FULL,
    READERS_BUSY,
    UPSTREAM_INVALID,
    Problem,
)
from farebox.helper_processes import HelperDied, PoolBusy, TooMuchWork
from farebox.ledger.commands import Hold
from farebox.memory_files import whole
from farebox.money import NANOS_PER_CENT, format_usd
from farebox.pricing.bill import combined
from farebox.pricing.charge import charge_of_batch, cost_of, share_of_hold
from farebox.pricing.estimate import estimate
from farebox.pricing.model import Cost, CostLine, Estimate, Markup, ModelPrice
from farebox.pricing.unseen import refused, tokens_for_unseen
from farebox.providers.batch_forms import FORMS, BatchRequest, batch_request
from farebox.providers.batch_lines import BatchResult, BatchTarget, read_inside, read_requests, read_results
from farebox.providers.formats.base import InvalidRequest, ParsedRequest
from farebox.providers.objects import ObjectCall
from farebox.providers.upstream import UpstreamFailed
from farebox.quoting import quoted
from farebox.runtime.services import Services
from farebox.storage.long_calls import LongCall, open_long_calls
from farebox.storage.stored_objects import count_objects
from farebox.usage import AbsurdUsage, Quantity

BATCHES_MAX: Final = 50
"""Maximum batches of one account that are under way."""
KNOWN_MAX: Final = 5_000
"""Maximum batches of one account in all: those that have ended are remembered for 30 days."""
REQUESTS_MAX: Final = 50_000
INPUT_MAX: Final = 200 * 2**20
LINE_MAX: Final = 16 * 2**20
DESCRIPTION_MAX: Final = 64 * 2**20
"""Maximum bytes of a batch's description that contains its responses."""
PIECE: Final = 64 * 2**10
"""Bytes of whole lines that are processed at once."""
AT_ONCE: Final = 16 * 2**10
"""Maximum bytes that are processed on the event loop."""
BATCH: Final = {"service_tier": "batch"}
"""The service tier whose prices apply."""

T = TypeVar("T")
log = structlog.get_logger("farebox.calls")


class _Lost(Exception):
    """The provider no longer has the file; the message is for the log."""


async def hold_batch(context: CallContext, about: ObjectCall) -> tuple[Held, BatchTerms]:
    """Hold credit for a batch: for the most that all of its requests can cost. They are read from the provider's own
    copy of the input. Raises Problem, DatabaseUnavailable."""
    services, call = context.services, context.call
    body = call.body if isinstance(call.body, bytes) else whole(call.body)
    form, request = FORMS[call.provider], batch_request(about.form, body, about.model)
    if form.endpoints and request.endpoint not in form.endpoints:
        allowed = ", ".join(sorted(form.endpoints))
        raise Problem(
            NOT_METERED, f"On the operator's key, a batch must be for one of {allowed}; not {quoted(request.endpoint)}."
        )
    under_way, known = await services.database.get(
        lambda connection: (
            open_long_calls(connection, call.account_id, "batch"),
            count_objects(connection, call.account_id, "batch", services.clock.now_ms())[0],
        )
    )
    if under_way >= BATCHES_MAX or known >= KNOWN_MAX:
        raise Problem(
            OBJECTS_FULL, f"The account has {under_way} batches under way, and {known} in total, the maximum."
        )
    sums = _Sums(context)
    with context.watch.waiting(services.settings.call_timeout_ms / 1000):
        await _read_input(sums, BatchTarget(call.provider, request.endpoint, request.model), _input(context, request))
    bound = Estimate(sums.amount, sums.input_tokens, sums.output_tokens)
    held = await _hold(context, bound)
    batch = BatchTerms(request.endpoint, sums.requests, tuple(sums.prices))
    return held, batch


class _Sums:
    """The total of the requests of an input, as far as it has been read."""

    def __init__(self, context: CallContext) -> None:
        self.context = context
        self.requests = self.amount = self.input_tokens = self.output_tokens = 0
        self.prices: dict[str, tuple[ModelPrice, Markup]] = {}

    async def add(self, requests: Iterable[ParsedRequest]) -> None:
        """Add requests to the total. Raises Problem, DatabaseUnavailable."""
        services, call = self.context.services, self.context.call
        for parsed in requests:
            for reference in parsed.references:
                await find_owned(services, call, reference)
            kinds = refused(parsed.demand, services.unseen_rules)
            if kinds:
                raise Problem(NOT_METERED, f"The operator's key does not pay for what is unseen: {', '.join(kinds)}.")
            price, markup = self._price(parsed.model)
            unseen = tokens_for_unseen(parsed.demand, services.unseen_rules)
            most = estimate(parsed.demand, price, markup, unseen=unseen)
            self.requests += 1
            self.amount += most.amount
            self.input_tokens += most.input_tokens
            self.output_tokens += most.output_tokens
        if self.requests > REQUESTS_MAX:
            raise Problem(INVALID_REQUEST, f"The batch has more than {REQUESTS_MAX:,} requests.")

    def _price(self, model: str) -> tuple[ModelPrice, Markup]:
        found = self.prices.get(model)
        if found is None:
            self.prices[model] = found = price_of(self.context, model)
        return found


def price_of(context: CallContext, model: str) -> tuple[ModelPrice, Markup]:
    """The batch price of a model and the markup on it. Raises Problem if the price is unknown."""
    call, prices = context.call, context.services.configuration.prices
    price = find_price(context, model, BATCH)
    if price is None:
        raise Problem(
            MODEL_UNPRICED,
            f"The model {quoted(model)} of {call.provider} has no price, so a batch cannot be charged. The "
            f"operator can set one on the Prices page, or with: farebox price set {call.provider} {model} "
            "--input USD --output USD (per million tokens).",
        )
    if price.unknown or not (price.is_own or "input_tokens" in price.meters):
        raise Problem(NOT_METERED, f"What {quoted(model)} of {call.provider} costs in a batch is not known.")
    return price, prices.markup(call.account_id, call.provider, model, call.started_at)


async def _input(context: CallContext, request: BatchRequest) -> AsyncIterator[bytes]:
    """The input of a batch, in pieces of whole lines. Raises as `_pieces`."""
    call = context.call
    async for piece in _joined(request.lines()):
        yield piece
    for file_id in request.files:
        path = FORMS[call.provider].content.format(file_id)
        async for piece in _pieces(context.services, call.provider, call.key_id, path, INPUT_MAX):
            yield piece


async def _joined(lines: Iterable[bytes]) -> AsyncIterator[bytes]:
    """The lines, joined into pieces. Raises InvalidRequest."""
    piece: list[bytes] = []
    size = 0
    for line in lines:
        piece.append(line)
        size += len(line)
        if size > PIECE:
            yield b"".join(piece)
            piece, size = [], 0
    if piece:
        yield b"".join(piece)


async def _read_input(sums: _Sums, target: BatchTarget, pieces: AsyncIterator[bytes]) -> None:
    """Add the requests of all pieces to the sums. Raises Problem, DatabaseUnavailable."""
    services, call = sums.context.services, sums.context.call
    number, rejects = 1, services.refusals.get(call.provider)
    try:
        async for piece in pieces:
            sums.context.watch.progress()
            await sums.add(await _read(services, call.account_id, read_requests, piece, target, rejects, number))
            number += piece.count(b"\n")
    except InvalidRequest as error:
        raise Problem(INVALID_REQUEST, str(error)) from error
    except (UpstreamFailed, _Lost) as error:
        raise Problem(UPSTREAM_INVALID, f"{call.provider} did not return the input of the batch: {error}.") from error
    except (PoolBusy, HelperDied, TooMuchWork) as error:
        raise Problem(READERS_BUSY, "The input of the batch was not read.", retry_after=1) from error
    if not sums.requests:
        raise Problem(INVALID_REQUEST, "The input of the batch has no requests.")


async def _read(services: Services, account_id: str, function: Callable[..., T], piece: bytes, *arguments: Any) -> T:
    """`function(piece, *arguments)`, in a helper process if it may take long."""
    if len(piece) <= AT_ONCE:
        return function(piece, *arguments)
    return await services.helpers.run(account_id, function, piece, *arguments, raises=(InvalidRequest,))


async def _pieces(
    services: Services, provider: str, key_id: str, path: str, most: int, line_max: int = LINE_MAX
) -> AsyncIterator[bytes]:
    """The content at a path of the provider, in pieces of whole lines. Raises UpstreamFailed, _Lost, InvalidRequest,
    Problem."""
    response = await services.upstream.send(await own_request(services, provider, key_id, "GET", path))
    try:
        if response.status != 200:
            raise _Lost(f"it answered {response.status}")
        rest, size = b"", 0
        while (chunk := await response.chunk()) is not None:
            size += len(chunk)
            rest += chunk
            if size > most or len(rest) > line_max + PIECE:
                raise InvalidRequest("The file, or a line of it, is too large.")
            while len(rest) > PIECE and (end := rest.rfind(b"\n", 0, PIECE) + 1 or rest.find(b"\n") + 1):
                piece, rest = rest[:end], rest[end:]
                yield piece
        if rest:
            yield rest
    finally:
        await response.close()


async def _hold(context: CallContext, bound: Estimate) -> Held:
    """Hold the bound of a batch on its account. Raises Problem, DatabaseUnavailable."""
    services, call, now = context.services, context.call, context.services.clock.now_ms()
    cap = services.settings.estimate_max_cents * NANOS_PER_CENT
    if cap and bound.amount > cap:
        raise Problem(
            ESTIMATE_CAPPED,
            f"The batch may cost up to {format_usd(bound.amount)} USD, and no call may cost more than "
            f"{format_usd(cap)} USD here.",
        )
    services.database.check()
    verdict = await services.ledger.do(
        Hold(
            account_id=call.account_id,
            hold_id=call.log_id,
            amount=bound.amount,
            at=now,
            expires_at=now + services.settings.call_timeout_ms + HOLD_GRACE_MS,
            owner=services.instance,
            counted_at=call.started_at,
        )
    )
    if not verdict.ok:
        raise await credit_refusal(services, call.account_id, verdict, bound.amount)
    return Held(bound, verdict)


class _Spent:
    """The usage in the responses of an output, by requested model."""

    def __init__(self, context: CallContext, batch: BatchTerms) -> None:
        self._context = context
        self._models = batch.models
        self._prices: dict[str, tuple[ModelPrice, Markup]] = {}
        self._lines: dict[str, dict[tuple[str, int, int | None], list[Any]]] = {}
        self.answered = self.unreported = 0
        self.usage: dict[str, Quantity] = {}

    def add(self, results: Iterable[BatchResult]) -> None:
        for result in results:
            self.answered += 1
            model = self._requested_model(result.model)
            if model not in self._prices:
                self._prices[model] = price_of(self._context, model)
            try:
                cost = None if result.usage is None else cost_of(self._prices[model][0], result.usage)
            except AbsurdUsage:
                cost = None
            if cost is None or result.usage is None:
                self.unreported += 1
                continue
            for meter, quantity in result.usage.items():
                self.usage[meter] = self.usage.get(meter, 0) + quantity
            lines = self._lines.setdefault(model, {})
            for line in cost.lines:
                sums = lines.setdefault((line.meter, line.rate, line.above), [0, Fraction(0)])
                sums[0] += line.quantity
                sums[1] += Fraction(line.nanos_numerator, cost.denominator)

    def _requested_model(self, model: str) -> str:
        """The name by which the model was requested: responses name the version that answered."""
        named = [asked for asked in self._models if model == asked]
        named += sorted((asked for asked in self._models if model.startswith(asked)), key=len, reverse=True)
        return (named or list(self._models))[0]

    def priced(self, bound: Estimate, requests: int) -> tuple[PricedUsage, ModelPrice | None, Markup | None]:
        """The price of all usage together, rounded once; a response whose usage is not reported costs its share of the
        hold."""
        parts, costs = [], list[tuple[Fraction, Markup]]()
        for model, lines in self._lines.items():
            price, markup = self._prices[model]
            whole = sum((nanos for _, nanos in lines.values()), Fraction(0))
            costs.append((whole, markup))
            over = price.denominator
            made = tuple(
                CostLine(meter, quantity, rate, int(nanos * over), above=above)
                for (meter, rate, above), (quantity, nanos) in lines.items()
            )
            parts.append((price, Cost(sum(line.nanos_numerator for line in made), over, made)))
        share = share_of_hold(bound.amount, self.unreported, requests) if self.unreported else 0
        notes = (f"{self.unreported} responses report no usage: each costs its share of the hold",) if share else ()
        first = next(iter(self._prices.values()), None)
        return (
            PricedUsage(
                "provider",
                self.usage,
                combined(parts) if parts else None,
                charge_of_batch(costs) + share,
                f"a batch of {requests} requests, of which {self.answered} were answered",
                notes,
            ),
            None if first is None else first[0],
            None if first is None else first[1],
        )


async def settle_batch(services: Services, long: LongCall, described: dict[str, Any]) -> bool:
    """Settle a batch that has ended by its output. Returns False if the output cannot be read now. Raises
    DatabaseUnavailable."""
    stage = await as_responded(services, long, 200, b"")
    work = work_of(long)
    assert work.batch is not None
    spent, bound = _Spent(stage.context, work.batch), stage.held.estimate
    try:
        async for results in _results(services, long, work.batch, described):
            spent.add(results)
        priced, price, markup = spent.priced(bound, work.batch.requests)
    except _Lost as lost:
        if "404" not in str(lost):
            return _later(long, lost)
        policy = "the output of the batch is gone: the hold is charged"
        priced, price, markup = PricedUsage("estimate", {}, None, bound.amount, policy), None, None
    except (UpstreamFailed, InvalidRequest, Problem, PoolBusy, HelperDied, TooMuchWork) as error:
        return _later(long, error)
    models = work.batch.models
    ended = CallOutcome(
        "charged" if priced.charge else "free",
        200,
        stage.context.elapsed_ms(),
        response_type="application/json",
        model=models[0] if len(models) == 1 else "",
    )
    await end_call(stage, ended, priced, price, hold=True, markup=markup)
    return True


async def _results(
    services: Services, long: LongCall, batch: BatchTerms, described: dict[str, Any]
) -> AsyncIterator[list[BatchResult]]:
    """The results of the requests of a batch that has ended. Raises as `_pieces`."""
    output = FORMS[long.provider].output(described)
    target = BatchTarget(long.provider, batch.endpoint, batch.models[0] if len(batch.models) == 1 else "")
    if output is None:
        return
    at = services, long.provider, long.key_id, output.path
    if output.inside:
        description = b"".join([piece async for piece in _pieces(*at, DESCRIPTION_MAX, DESCRIPTION_MAX)])
        yield await _read(services, long.account_id, read_inside, description, target)
        return
    async for piece in _pieces(*at, 100 * INPUT_MAX):
        yield await _read(services, long.account_id, read_results, piece, target)


def _later(long: LongCall, why: Exception) -> bool:
    log.warning("batch not settled", log_id=long.log_id, provider=long.provider, why=str(why))
    return False
