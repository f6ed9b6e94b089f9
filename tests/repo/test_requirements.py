"""requirements/run.txt is complete for every Python that Farebox supports: pip installs it without dependencies."""

import re
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[2]
OLDEST = {"python_full_version": "3.11.0", "python_version": "3.11"}
"""Some packages need another one only on the first releases of a Python, and Debian 12 has 3.11.2."""


def _pins() -> dict[str, set[str]]:
    """Package → the extras it is required with."""
    text = (REPOSITORY / "requirements" / "run.txt").read_text()
    found = re.findall(r"^([\w.-]+)(?:\[([\w,.-]+)\])?==", text, re.MULTILINE)
    return {_normal(name): set(filter(None, extras.split(","))) for name, extras in found}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_what_the_oldest_python_needs_is_pinned() -> None:
    pins = _pins()
    assert len(pins) > 30
    missing = [
        f"{name} needs {required}"
        for name, extras in pins.items()
        for required in map(Requirement, distribution(name).requires or ())
        if any(required.marker is None or required.marker.evaluate(OLDEST | {"extra": e}) for e in ("", *extras))
        and _normal(required.name) not in pins
    ]
    assert missing == []
