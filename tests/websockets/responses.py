"""A provider of OpenAI's Responses over a WebSocket with predictable figures."""

import json
from typing import Any

from websockets.sync.server import ServerConnection

from tests.websockets.kit import send

MODEL = "gpt-5.4"
TURN = 100 * 1_000 + 20 * 2_000


class Responses:
    """Answers each `response.create`."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.fails = False

    def __call__(self, connection: ServerConnection) -> None:
        for message in connection:
            event = json.loads(message)
            self.events.append(event)
            if self.fails:
                send(connection, type="error", status=400, error={"code": "invalid", "message": "no"})
                continue
            response: dict[str, Any] = {"id": f"resp_{len(self.events)}", "model": MODEL, "store": False, "output": []}
            send(connection, type="response.created", response={**response, "status": "in_progress"})
            send(connection, type="response.output_text.delta", item_id="m", delta="Good day", output_index=0)
            usage = {"input_tokens": 100, "output_tokens": 20, "total_tokens": 120}
            send(connection, type="response.completed", response={**response, "status": "completed", "usage": usage})
