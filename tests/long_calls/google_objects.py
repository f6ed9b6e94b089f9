"""Google's paths for stored objects, as a scripted upstream with a single customer, the operator."""

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.calls.upstream import Sent, Upstream
from tests.long_calls.openai_objects import lines

MODEL = "gemini-2.5-flash"
EACH = (1000 * 300 + 100 * 2500) // 2
"""The cost of a request with the usage of `answered`, in nano-dollars: half the price."""


@dataclass
class GoogleObjects:
    """What Google stores, by name, for the operator's key."""

    upstream: Upstream
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, tuple[dict[str, Any], bytes]] = field(default_factory=dict)
    """Metadata and received content of files, by upload ID."""
    made: int = 0
    cached: dict[str, Any] = field(default_factory=lambda: {"totalTokenCount": 10_000})
    """The reported size of a cache."""
    broken: bool = False
    """Whether creating a cache fails."""

    def answer(self, sent: Sent) -> Any:
        address = urlsplit(sent.path)
        path = address.path.removeprefix("/")
        self.upstream.status, self.upstream.headers = 200, {}
        if path.startswith("upload/"):
            return self._upload(sent, parse_qs(address.query).get("upload_id", [""])[0])
        name, _, verb = path.partition("/")[2].partition(":")  # any version of the API
        if verb == "generateContent":
            cached = sent.json().get("cachedContent")
            tokens = 0 if cached is None else self.objects[cached]["usageMetadata"]["totalTokenCount"]
            more = {"cachedContentTokenCount": tokens} if tokens else {}
            return answered(promptTokenCount=1000 + tokens, **more)["response"]
        if name == "cachedContents":
            return self._cache(sent)
        if verb == "batchGenerateContent":
            return self._batch(sent, name)
        known = self.objects.get(name)
        if known is None:
            self.upstream.status = 404
            return {"error": {"code": 404, "message": f"{name} is not found", "status": "NOT_FOUND"}}
        if sent.method == "DELETE":
            del self.objects[name]
            return {}
        if sent.method == "PATCH":
            known["expireTime"] = self._after(known["createTime"], sent.json()["ttl"])
            return known
        if verb == "download":
            assert address.query == "alt=media"
            return self.contents[name]
        if verb == "cancel":
            known["metadata"]["state"] = "BATCH_STATE_CANCELLED"
            return {}
        return known

    def _cache(self, sent: Sent) -> dict[str, Any]:
        """A cache of ten thousand tokens."""
        asked = sent.json()
        if self.broken:
            self.upstream.status = 400
            return {"error": {"code": 400, "message": "Cached content is too small", "status": "INVALID_ARGUMENT"}}
        name, now = self._name("cachedContents"), datetime.now(UTC).isoformat().replace("+00:00", "Z")
        self.objects[name] = {
            "name": name, "model": asked["model"], "displayName": asked.get("displayName", ""), "createTime": now,
            "updateTime": now, "expireTime": self._after(now, asked.get("ttl", "3600s")),
            "usageMetadata": self.cached,
        }  # fmt: skip
        return self.objects[name]

    @staticmethod
    def _after(when: str, ttl: str) -> str:
        ends = datetime.fromisoformat(when) + timedelta(seconds=float(ttl.removesuffix("s")))
        return ends.isoformat().replace("+00:00", "Z")

    def _name(self, folder: str) -> str:
        self.made += 1
        return f"{folder}/x{self.made:04}{id(self):x}"

    def _upload(self, sent: Sent, upload_id: str) -> Any:
        """The resumable protocol: a start request, then pieces sent to the URL in its response."""
        command = sent.headers["x-goog-upload-command"]
        if command == "start":
            self.made += 1
            upload_id = f"up{self.made}"
            asked = sent.json()["file"]  # Google accepts either spelling of its fields, and its SDK sends both
            names = {"displayName": "display_name", "mimeType": "mime_type"}
            described = {name: asked.get(name, asked.get(other)) for name, other in names.items()}
            self.uploads[upload_id] = ({name: said for name, said in described.items() if said}, b"")
            url = f"https://generativelanguage.googleapis.com/upload/v1beta/files?upload_id={upload_id}&upload_protocol=resumable"
            self.upstream.headers = {
                "x-goog-upload-url": url, "x-goog-upload-control-url": url, "x-guploader-uploadid": upload_id,
                "x-goog-upload-status": "active",
            }  # fmt: skip
            return b""
        described, content = self.uploads[upload_id]
        assert int(sent.headers["x-goog-upload-offset"]) == len(content)
        self.uploads[upload_id] = (described, content + sent.body)
        if "finalize" not in command:
            self.upstream.headers = {"x-goog-upload-status": "active"}
            return b""
        self.upstream.headers = {"x-goog-upload-status": "final"}
        return {"file": self.file(content + sent.body, self._name("files"), **described)}

    def file(self, content: bytes, name: str, **described: Any) -> dict[str, Any]:
        """Add a file at Google."""
        until = datetime.fromtimestamp(time.time() + 48 * 3600, UTC).isoformat().replace("+00:00", "Z")
        uri = f"https://generativelanguage.googleapis.com/v1beta/{name}"
        self.contents[name] = content
        self.objects[name] = {
            "mimeType": "text/plain", **described, "name": name, "sizeBytes": str(len(content)), "uri": uri,
            "state": "ACTIVE", "expirationTime": until,
        }  # fmt: skip
        return self.objects[name]

    def _batch(self, sent: Sent, model: str) -> dict[str, Any]:
        batch = sent.json()["batch"]
        name = self._name("batches")
        metadata = {
            "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch", "name": name,
            "model": model, "displayName": batch.get("displayName", ""), "inputConfig": batch["inputConfig"],
            "createTime": "2026-12-01T12:00:00.123456789Z", "state": "BATCH_STATE_PENDING",
        }  # fmt: skip
        self.objects[name] = {"name": name, "metadata": metadata}
        return self.objects[name]

    def end(self, name: str, state: str, *outcomes: dict[str, Any], inline: bool = False) -> str:
        """Set the result of a batch; the name of its output."""
        batch, output = self.objects[name], f"files/batch-{name.partition('/')[2]}"
        batch["metadata"]["state"] = f"BATCH_STATE_{state}"
        if inline:
            found: dict[str, Any] = {"inlinedResponses": {"inlinedResponses": list(outcomes)}}
        else:
            self.file(lines(*outcomes), output)
            found = {"responsesFile": output}
        batch["metadata"]["output"] = found
        batch |= {"done": True, "response": {"@type": "x", **found}}
        return output


def answered(number: int = 0, **usage: int) -> dict[str, Any]:
    """A line of an output file."""
    counts = {"promptTokenCount": 1000, "candidatesTokenCount": 100, "totalTokenCount": 1100, **usage}
    content = {"role": "model", "parts": [{"text": "Good day."}]}
    candidate = {"content": content, "finishReason": "STOP", "index": 0}
    response = {"candidates": [candidate], "usageMetadata": counts, "modelVersion": MODEL, "responseId": "r"}
    return {"key": f"r{number}", "response": response}


def asked(number: int = 0, **more: Any) -> dict[str, Any]:
    """A line of an input file."""
    contents = [{"role": "user", "parts": [{"text": "Hello " * 1000}]}]
    return {
        "key": f"r{number}",
        "request": {"contents": contents, "generation_config": {"max_output_tokens": 200}, **more},
    }


def as_file(*requests: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(request).encode() + b"\n" for request in requests)
