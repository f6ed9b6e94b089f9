"""What a tester may do outside the API: move the clock, break things, look at internal state."""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import msgspec

from fake_stripe import disputes, ledger
from fake_stripe.api import ApiResponse, Request
from fake_stripe.cards import ADVICE_CODES
from fake_stripe.errors import Json, StripeError, invalid
from fake_stripe.events import DEFAULT_ENDPOINT, new_endpoint
from fake_stripe.faults import BadFault, Faults
from fake_stripe.webhooks import MODES, Deliverer, Mode
from fake_stripe.world import World

_Act: TypeAlias = Callable[[Json, str], Json | Awaitable[Json]]

_JSON = [("content-type", "application/json")]


class Control:
    """The paths below /_fake/ and /_config/; JSON in and out."""

    def __init__(self, world: World, faults: Faults, requests: deque[Json], deliverer: Deliverer) -> None:
        self._world = world
        self._faults = faults
        self._requests = requests
        self._deliverer = deliverer
        self._acts: dict[tuple[str, str], _Act] = {
            ("GET", "clock"): self._clock,
            ("POST", "clock"): self._move_clock,
            ("GET", "faults"): self._list_faults,
            ("POST", "faults"): self._add_faults,
            ("DELETE", "faults"): self._drop_faults,
            ("GET", "webhooks"): self._webhooks,
            ("POST", "webhooks"): self._set_webhooks,
            ("POST", "webhooks/flush"): self._flush,
            ("GET", "ledger"): self._ledger,
            ("GET", "requests"): self._list_requests,
            ("DELETE", "requests"): self._drop_requests,
            ("POST", "disputes"): self._dispute,
            ("POST", "disputes/*/close"): self._close_dispute,
            ("POST", "cards/*"): self._change_card,
            ("DELETE", "state"): self._reset,
        }

    async def respond(self, request: Request) -> ApiResponse:
        """Serve a request of the tester."""
        try:
            values = msgspec.json.decode(request.body) if request.body else {}
            if not isinstance(values, dict):
                raise invalid("The body must be a JSON object.")
            result = self._run(request, values)
            if not isinstance(result, dict):
                result = await result
            self._deliverer.wake()
        except StripeError as error:
            return ApiResponse(error.status, msgspec.json.encode({"error": error.error}), _JSON)
        except (BadFault, msgspec.DecodeError) as error:
            return ApiResponse(400, msgspec.json.encode({"error": {"message": str(error)}}), _JSON)
        return ApiResponse(200, msgspec.json.encode(result), _JSON)

    def _run(self, request: Request, values: Json) -> Json | Awaitable[Json]:
        if request.path.startswith("/_config/webhooks/"):
            return self._add_endpoint(values, request.path.rpartition("/")[2])
        path = request.path.removeprefix("/_fake/").rstrip("/")
        act = self._acts.get((request.method, path))
        named = ""
        if act is None:
            head, _, rest = path.partition("/")
            named, slash, verb = rest.partition("/")
            act = self._acts.get((request.method, f"{head}/*{slash}{verb}"))
        if act is None:
            raise StripeError(404, "invalid_request_error", f"There is no {request.method} {request.path}.")
        return act(values, named)

    # --- clock ---

    def _clock(self, values: Json, named: str) -> Json:
        return {"now": self._world.now(), "offset_seconds": self._world.clock.offset}

    def _move_clock(self, values: Json, named: str) -> Json:
        clock = self._world.clock
        offset = clock.offset + _whole(values, "advance_seconds", 0)
        if "now" in values:
            offset = _whole(values, "now", 0) - clock.real_now()
        self._world.move_clock(offset)
        return self._clock(values, named)

    # --- faults ---

    def _list_faults(self, values: Json, named: str) -> Json:
        return {"faults": [fault.shown() for fault in self._faults.queue]}

    def _add_faults(self, values: Json, named: str) -> Json:
        for fault in values.get("faults", [values]):
            self._faults.add(fault)
        return self._list_faults(values, named)

    def _drop_faults(self, values: Json, named: str) -> Json:
        self._faults.queue.clear()
        return self._list_faults(values, named)

    # --- webhooks ---

    def _add_endpoint(self, values: Json, name: str) -> Json:
        types = values.get("events") or ["*"]
        endpoint_id = name if name.startswith("we_") else f"we_{name}"
        endpoint = new_endpoint(self._world, str(values.get("url")), types, str(values.get("secret")), endpoint_id)
        return self._world.snapshot(self._world.store.add(endpoint))

    def _webhooks(self, values: Json, named: str) -> Json:
        mode: Json = msgspec.to_builtins(self._deliverer.mode)
        return mode | {"waiting": self._deliverer.waiting, "tries": self._deliverer.tries}

    def _set_webhooks(self, values: Json, named: str) -> Json:
        if values.get("mode", "normal") not in MODES:
            raise invalid(f"mode must be one of {', '.join(MODES)}", param="mode")
        shuffle = _whole(values, "shuffle", 0) if values.get("shuffle") is not None else None
        mode = values.get("mode", "normal")
        self._deliverer.mode = Mode(mode, _whole(values, "times", 2), shuffle, _whole(values, "delay_ms", 0))
        return self._webhooks(values, named)

    async def _flush(self, values: Json, named: str) -> Json:
        shuffle = _whole(values, "shuffle", 0) if values.get("shuffle") is not None else None
        repeat = max(1, _whole(values, "repeat", 1))
        dropped = values.get("dropped") is True
        return {"delivered": await self._deliverer.flush(repeat=repeat, shuffle=shuffle, dropped=dropped)}

    # --- what happened ---

    def _ledger(self, values: Json, named: str) -> Json:
        return ledger.statement(self._world)

    def _list_requests(self, values: Json, named: str) -> Json:
        return {"requests": list(self._requests)}

    def _drop_requests(self, values: Json, named: str) -> Json:
        self._requests.clear()
        return {"requests": []}

    # --- what the bank does ---

    def _dispute(self, values: Json, named: str) -> Json:
        charge = ledger.charge_of(self._world, values)
        reason = str(values.get("reason") or "fraudulent")
        made = disputes.open_dispute(self._world, charge, reason, inquiry=values.get("inquiry") is True)
        return self._world.snapshot(made)

    def _close_dispute(self, values: Json, named: str) -> Json:
        status = values.get("status")
        if status not in ("won", "lost"):
            raise invalid("status must be won or lost", param="status")
        return self._world.snapshot(disputes.close_as(self._world, self._world.store.get("dispute", named), status))

    def _change_card(self, values: Json, named: str) -> Json:
        method = self._world.store.get("payment_method", named)
        behave = values.get("behave")
        if not isinstance(behave, str) or not behave:
            raise invalid("behave must be a decline code, authentication_required or ok", param="behave")
        advice = values.get("advice")
        if advice is not None and advice not in ADVICE_CODES:
            raise invalid(f"advice must be one of {', '.join(ADVICE_CODES)}", param="advice")
        method["_behave"], method["_advice"] = behave, advice
        return {"id": named, "behave": behave, "advice": advice}

    def _reset(self, values: Json, named: str) -> Json:
        default = self._world.store.find("webhook_endpoint", DEFAULT_ENDPOINT)
        self._world.store.clear()
        if default is not None:
            self._world.store.add(default)
        self._world.move_clock(0)
        self._world.set_public_url(self._world.public_url)
        self._faults.queue.clear()
        self._requests.clear()
        self._deliverer.forget()
        return {}


def _whole(values: Json, name: str, default: int) -> int:
    value = values.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise invalid(f"{name} must be a whole number", param=name)
    return value
