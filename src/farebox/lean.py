"""Loading libraries without what they load beside them, where it is installed, and Farebox does not use."""

import contextlib
import importlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without(*modules: str) -> Iterator[None]:
    """An import of these modules fails in this block, as if they were not installed; for libraries that then do
    without them. Modules that are loaded already stay."""
    hidden = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: the import raises ImportError
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def load_for_server() -> None:
    """Load structlog without its console that colours exceptions, and httpx without its command line: a tenth of the
    time in which a server starts."""
    with without("click", "rich"):
        for name in ("structlog", "httpx"):
            importlib.import_module(name)
