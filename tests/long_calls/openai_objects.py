"""OpenAI's paths for stored objects, as a scripted upstream with a single customer, the operator, whose key can access
every object."""

import json
import re
import time
from dataclasses import dataclass, field
from email.message import Message
from typing import Any
from urllib.parse import urlsplit

from tests.calls.upstream import Sent, Upstream

USAGE = {
    "input_tokens": 1000,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 100,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 1100,
}
COST = 1000 * 150 + 100 * 600
"""The cost of this usage of gpt-4o-mini, in nano-dollars."""


@dataclass
class OpenAIObjects:
    """The stored objects, by ID."""

    upstream: Upstream
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    made: int = 0
    refuses_cancel: bool = False

    def answer(self, sent: Sent) -> Any:
        """The response to a request; sets the upstream's status."""
        path = urlsplit(sent.path).path.removeprefix("/v1/")
        kind, _, rest = path.partition("/")
        object_id, _, sub = rest.partition("/")
        status, body = self._answer(sent, kind, object_id, sub)
        self.upstream.status = status
        return body

    def _answer(self, sent: Sent, kind: str, object_id: str, sub: str) -> tuple[int, Any]:
        if not object_id:
            assert sent.method == "POST", "lists of all accounts are never requested"
            return 200, getattr(self, f"_create_{kind}")(sent)
        known = self.objects.get(object_id)
        if known is None:
            return 404, {"error": {"message": f"No such object: {object_id}", "type": "invalid_request_error"}}
        if sent.method == "DELETE" and not sub:
            del self.objects[object_id]
            return 200, {"id": object_id, "object": known["object"], "deleted": True}
        if sub == "content":
            return 200, self.contents[object_id]
        if sub.startswith(("input_items", "items")):
            item: dict[str, Any] = {"id": self.name("msg"), "type": "message", "role": "user", "status": "completed"}
            item["content"] = [{"type": "input_text", "text": "Hello"}]
            return 200, {
                "object": "list",
                "data": [item],
                "first_id": item["id"],
                "last_id": item["id"],
                "has_more": False,
            }
        if sub == "cancel":
            if self.refuses_cancel:
                return 400, {"error": {"message": "It has ended.", "type": "invalid_request_error"}}
            known["status"] = "cancelled"
        return 200, known

    def name(self, prefix: str) -> str:
        self.made += 1
        return f"{prefix}_{self.made:04}{id(self):x}"

    def _stored(self, described: dict[str, Any]) -> dict[str, Any]:
        self.objects[described["id"]] = described
        return described

    def _create_responses(self, sent: Sent) -> dict[str, Any]:
        asked = sent.json()
        text = {"type": "output_text", "text": "Good day.", "annotations": []}
        message = {"type": "message", "id": self.name("msg"), "role": "assistant", "status": "completed"}
        described: dict[str, Any] = {
            "id": self.name("resp"),
            "object": "response",
            "created_at": int(time.time()),
            "status": "completed",
            "background": False,
            "model": asked["model"],
            "output": [{**message, "content": [text]}],
            "usage": USAGE,
            "store": asked.get("store", True),
            "error": None,
        }
        if asked.get("background"):
            described |= {"background": True, "status": "queued", "output": [], "usage": None}
        return self._stored(described)

    def finish(self, response_id: str, status: str = "completed", **more: Any) -> None:
        """Set the result of a background response."""
        self.objects[response_id] |= {"status": status, "usage": USAGE, **more}

    def _create_conversations(self, sent: Sent) -> dict[str, Any]:
        return self._stored({"id": self.name("conv"), "object": "conversation", "created_at": 1, "metadata": {}})

    def _create_files(self, sent: Sent) -> dict[str, Any]:
        fields = form_of(sent)
        described = {
            "id": self.name("file"),
            "object": "file",
            "bytes": len(fields["file"]),
            "created_at": int(time.time()),
            "filename": "f.jsonl",
            "purpose": fields["purpose"].decode(),
            "status": "processed",
            "expires_at": None,
        }
        self.contents[str(described["id"])] = fields["file"]
        return self._stored(described)

    def _create_batches(self, sent: Sent) -> dict[str, Any]:
        asked = sent.json()
        assert asked["input_file_id"] in self.objects
        counts = {"total": 0, "completed": 0, "failed": 0}
        return self._stored(
            {
                "id": self.name("batch"),
                "object": "batch",
                "endpoint": asked["endpoint"],
                "input_file_id": asked["input_file_id"],
                "completion_window": "24h",
                "status": "validating",
                "created_at": int(time.time()),
                "request_counts": counts,
                "metadata": asked.get("metadata"),
            }
        )

    def end_batch(self, batch_id: str, status: str, *outcomes: dict[str, Any]) -> str:
        """Set the result of a batch; the ID of its output."""
        batch, output = self.objects[batch_id], self.name("file")
        self.contents[output] = lines(*outcomes)
        self._stored({"id": output, "object": "file", "purpose": "batch_output", "bytes": 1, "created_at": 1,
                      "filename": "o", "status": "processed"})  # fmt: skip
        batch |= {"status": status, "output_file_id": output}
        return output


def outcome(number: int, model: str = "gpt-4o-mini-2024-07-18", status: int = 200, **usage: int) -> dict[str, Any]:
    """A line of an output file for a chat."""
    figures = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100, **usage}
    message = {"role": "assistant", "content": "Good day."}
    body: dict[str, Any] = {"id": "c", "object": "chat.completion", "model": model, "usage": figures}
    body["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
    said = body if status < 300 else {"error": {"message": "No"}}
    response = {"status_code": status, "request_id": "r", "body": said}
    return {"id": f"b{number}", "custom_id": f"r{number}", "response": response, "error": None}


def question(number: int, model: str = "gpt-4o-mini", **more: Any) -> dict[str, Any]:
    """A line of an input file for a chat."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello " * 1000}], "max_tokens": 200, **more}
    return {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def form_of(sent: Sent) -> dict[str, bytes]:
    """The fields of a form."""
    head = Message()
    head["content-type"] = sent.headers["content-type"]
    boundary = b"--" + str(head.get_param("boundary")).encode()
    found = {}
    for part in sent.body.split(boundary)[1:-1]:
        top, _, content = part.partition(b"\r\n\r\n")
        name = re.search(rb'name="(\w+)"', top)
        assert name is not None
        found[name[1].decode()] = content.removesuffix(b"\r\n")
    return found


def lines(*requests: dict[str, Any]) -> bytes:
    """The content of a batch file."""
    return b"".join(json.dumps(request).encode() + b"\n" for request in requests)
