"""The store of objects: in memory, in order of creation, and in a file if one is named.

The file is a journal of JSON lines, in which an object's newest line is valid; it is rewritten without the older ones
at every start. A last line that was cut short when the process was killed is ignored.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from fake_stripe.errors import Json, no_such

_NAMES = {
    "payment_intent": "payment_intent",
    "payment_method": "PaymentMethod",
    "setup_intent": "setupintent",
    "checkout.session": "checkout.session",
}


class Store:
    """All objects, by kind and id. Code that changes an object gets it with `find` or `get`, so that the journal
    records it."""

    def __init__(self, state: Path | None = None) -> None:
        self._kinds: dict[str, dict[str, Json]] = {}
        self._by_id: dict[str, Json] = {}
        self._touched: dict[str, None] = {}
        self._written: dict[str, str] = {}
        self._path = state
        self._file: IO[str] | None = None
        if state is not None:
            self._load(state)

    def add(self, resource: Json) -> Json:
        """Store a new object."""
        self._kinds.setdefault(resource["object"], {})[resource["id"]] = resource
        self._by_id[resource["id"]] = resource
        self._touched[resource["id"]] = None
        return resource

    def find(self, kind: str, object_id: str | None) -> Json | None:
        resource = self._kinds.get(kind, {}).get(object_id or "")
        if resource is not None:
            self._touched[resource["id"]] = None
        return resource

    def get(self, kind: str, object_id: str, *, param: str = "id") -> Json:
        """An object by ID. Raises StripeError; `param` is the parameter that named it (`id`: the URL)."""
        resource = self.find(kind, object_id)
        if resource is None or (resource.get("deleted") and param != "id"):
            raise no_such(_NAMES.get(kind, kind.replace("_", " ")), object_id, param=param)
        return resource

    def any(self, object_id: str) -> Json | None:
        """An object of any kind; it must not be changed."""
        return self._by_id.get(object_id)

    def remove(self, resource: Json) -> None:
        self._kinds[resource["object"]].pop(resource["id"], None)
        self._by_id.pop(resource["id"], None)
        self._touched[resource["id"]] = None

    def all(self, kind: str) -> Iterator[Json]:
        """All objects of a kind, oldest first. They must not be changed: use `find` for that."""
        return iter(list(self._kinds.get(kind, {}).values()))

    def newest(self, kind: str) -> Iterator[Json]:
        """All objects of a kind, newest first."""
        return iter(list(reversed(self._kinds.get(kind, {}).values())))

    def count(self, kind: str) -> int:
        return len(self._kinds.get(kind, {}))

    def clear(self) -> None:
        """Forget everything."""
        self._kinds.clear()
        self._by_id.clear()
        self._touched.clear()
        self._written.clear()
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()

    def flush(self) -> None:
        """Write what has changed since the last call."""
        if self._file is None:
            self._touched.clear()
            return
        for object_id in self._touched:
            resource = self._by_id.get(object_id)
            line = json.dumps({"gone": object_id} if resource is None else resource, separators=(",", ":"))
            if self._written.get(object_id) != line:
                self._written[object_id] = line
                self._file.write(line + "\n")
        self._touched.clear()
        self._file.flush()

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _load(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            for line in path.read_text(errors="replace").split("\n"):
                with contextlib.suppress(ValueError):
                    self._restore(json.loads(line))
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(path.name + ".new")
        self._file = os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w")
        self.flush()
        fresh.replace(path)

    def _restore(self, resource: Json) -> None:
        if "gone" in resource:
            known = self._by_id.get(resource["gone"])
            if known is not None:
                self.remove(known)
        else:
            self.add(resource)
