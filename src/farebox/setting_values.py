"""Reading settings: the configuration file, and single values."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from farebox.money import whole_number
from farebox.quoting import quoted


def values_of_file(path: str) -> dict[str, Any]:
    """The values in the file that FAREBOX_CONFIG names; empty if there is no file. Raises ValueError."""
    if not path:
        return {}
    try:
        return tomllib.loads(Path(path).read_text())
    except OSError as error:
        raise ValueError(f"FAREBOX_CONFIG names {path}, which cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from error


def parse_value(variable: str, value: object, kind: object, limits: Mapping[str, Any]) -> object:
    """The value of a setting. Raises ValueError, which names the variable and says what is valid."""
    if kind is int:
        try:
            number = whole_number(str(value))
        except ValueError as error:
            raise ValueError(f"{variable} is {quoted(str(value))}: it must be a whole number") from error
        if not limits["low"] <= number <= limits["high"]:
            raise ValueError(f"{variable} is {number}: it must be from {limits['low']} to {limits['high']}")
        return number
    text = str(value)
    choices = get_args(kind)
    if choices and text not in choices:
        raise ValueError(f"{variable} is {quoted(text)}: it must be one of {', '.join(choices)}")
    return text
