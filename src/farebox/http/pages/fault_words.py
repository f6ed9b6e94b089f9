"""What is wrong with a value, in words for people: the API's messages speak of strings, arrays and patterns."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from farebox.http.validation import Fault, InvalidInput

_SHOWN: Final = 3
"""Faults that one note names."""
_NOT_VALID: Final = "This value is not valid here"
_CHOICE: Final = re.compile(r"(?:Invalid enum value\. )?Expected ('.*')(?: \| object)?, received .*", re.DOTALL)
_RULES: Final = tuple(
    (re.compile(pattern, re.DOTALL), words)
    for pattern, words in (
        (r"Required(?:: \w+)?|Expected .*, received null", "Fill this in"),
        (r"Required: (.*)", "Fill this in: {}"),
        (r"Number must be (?:greater than or equal to|at least) (\S+)", "Enter a number of at least {}"),
        (r"Number must be less than or equal to (\S+)", "Enter a number of at most {}"),
        (r"Number must be greater than (\S+)", "Enter a number above {}"),
        (r"String must contain at least 1 character\(s\)", "Fill this in"),
        (r"String must contain at least (\d+) character.*", "Enter at least {} characters"),
        (r"String must contain at most (\d+) character.*", "Enter at most {} characters"),
        (r"Array must contain at least 1 element\(s\)", "Enter or choose at least one"),
        (r"Array must contain at least (\d+) element\(s\)", "Enter or choose at least {}"),
        (r"Array must contain at most (\d+) element\(s\)", "Enter or choose at most {}"),
        (r"Expected integer, received .*", "Enter a whole number"),
        (r"Expected number, received .*", "Enter a number"),
        (r"Expected string, received .*", "Enter text"),
        (r"Expected boolean, received .*", "Enter true or false"),
        (r"Expected ((?:an?|the) .*)", "Enter {}"),
        (r"Expected array, received .*", "Enter a list in brackets, such as [1, 2]"),
        (r"Expected object, received .*", 'Enter an object in braces, such as {{"name": "value"}}'),
        (r"Unrecognized key\(s\) in object: (.*)", "Remove what is not known here: {}"),
        (r"Invalid url", "Enter a complete URL, such as https://api.example.com"),
        (r"Invalid url: (.*)", "This is not a valid URL: {}"),
        (r"Expected (?:`.*|.*, received .*)|Invalid: must match .*|Object (?:missing|contains) .*", _NOT_VALID),
    )
)
"""The API's message → the words."""


def fault_text(fault: Fault, options: Mapping[str, str] | None = None) -> str:
    """What is wrong, and what to do. `options`: what the field offers to choose from, by value."""
    if fault.words:
        return fault.words
    if found := _CHOICE.fullmatch(fault.message):
        values = re.findall(r"'([^']*)'", found[1])
        return f"Choose one of these: {', '.join((options or {}).get(value, value) for value in values)}"
    for pattern, words in _RULES:
        if found := pattern.fullmatch(fault.message):
            return words.format(*map(_figure, found.groups()))
    return fault.message


def _figure(text: str) -> str:
    return f"{int(text):,}" if text.isdecimal() else text


def place_of(path: tuple[str | int, ...]) -> str:
    """The place of a fault that is not shown at its field: `Rate limit period`, `Elements, item 2, name`."""
    steps = [f"item {step + 1}" if isinstance(step, int) else step.replace("_", " ") for step in path]
    text = ", ".join(steps)
    return text[:1].upper() + text[1:]


def with_place(place: str, words: str) -> str:
    return f"{place}: {words}" if place else words


def note_of(error: InvalidInput) -> str:
    """The faults in one note, each with its field."""
    said = (
        with_place(place_of(fault.path[1:]) if fault.path[:1] == ("body",) else "", fault_text(fault))
        for fault in error.faults[:_SHOWN]
    )
    return ". ".join(said)


def renamed(error: InvalidInput, names: Mapping[str, str]) -> InvalidInput:
    """The error with the names that fields have on the page."""
    return InvalidInput(
        [
            replace(fault, path=tuple(names.get(step, step) if isinstance(step, str) else step for step in fault.path))
            for fault in error.faults
        ]
    )
