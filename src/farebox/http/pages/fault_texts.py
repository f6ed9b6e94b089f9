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
_TAG: Final = re.compile(r"Invalid discriminator value\. Expected (.*?), received .*", re.DOTALL)
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
        (
            r"Invalid CEL expression: it is of type .*",
            'The condition must be true or false, as token.name == "batch" is',
        ),
        (
            r"Invalid CEL expression: \S+ Syntax error: [^']*'<EOF>'.*",
            "The condition is not complete: something is missing at its end",
        ),
        (
            r"Invalid CEL expression: (\d+):(\d+): Syntax error: [^']*'(.*?)'?(?: expecting .*)?",
            "The condition cannot be read near “{2}” (line {0}, column {1})",
        ),
        (
            r"Invalid CEL expression: \S+ undeclared reference to '(.*)' \(in.*",
            "The condition uses “{}”, which does not exist",
        ),
        (
            r"Invalid CEL expression: (\d+):(\d+): found no matching overload for .* applied to '\((.*)\)'.*",
            "The condition combines values of types that do not go together (line {}, column {}): {}",
        ),
        (r"Invalid CEL expression: (?:(\d+):(\d+): )?(.*)", "The condition cannot be used: {2}"),
        (r"Invalid url", "Enter a complete URL, such as https://api.example.com"),
        (r"Invalid url: (.*)", "This is not a valid URL: {}"),
        (r"Expected (?:`.*|.*, received .*)|Invalid: must match .*|Object (?:missing|contains) .*", _NOT_VALID),
    )
)
"""The API's message → the words."""
_QUOTED: Final = re.compile(r"(?<![\w“])'(.{0,200}?)'(?![\w”])", re.DOTALL)
"""Bounded: a message may contain what was sent, and searching all of it for the end of each quotation is quadratic."""


def with_our_quotes(text: str) -> str:
    """The API's messages quote as Cloudflare's do: `'x'`. People are shown “x”, as everywhere else."""
    return _QUOTED.sub(r"“\1”", text)


def fault_text(fault: Fault, options: Mapping[str, str] | None = None) -> str:
    """What is wrong, and what to do. `options`: what the field offers to choose from, by value."""
    return with_our_quotes(_text(fault, options))


def _text(fault: Fault, options: Mapping[str, str] | None) -> str:
    if fault.words:
        return fault.words
    if found := _CHOICE.fullmatch(fault.message):
        values = re.findall(r"'([^']*)'", found[1])
        return f"Choose one of these: {', '.join((options or {}).get(value, value) for value in values)}"
    if found := _TAG.fullmatch(fault.message):
        offered = (options or {}).values() or re.findall(r"'([^']*)'", found[1])
        return f"Choose one of these: {'; '.join(offered)}"
    for pattern, words in _RULES:
        if found := pattern.fullmatch(fault.message):
            return words.format(*map(_figure, found.groups()))
    return fault.message


def _figure(text: str | None) -> str:
    return f"{int(text):,}" if text and text.isdecimal() else text or ""


def place_of(path: tuple[str | int, ...]) -> str:
    """The place of a fault that is not shown at its field: `Rate limit period`, `Elements, item 2, name`."""
    steps = [f"item {step + 1}" if isinstance(step, int) else step.replace("_", " ") for step in path]
    text = ", ".join(steps)
    return text[:1].upper() + text[1:]


def with_place(place: str, words: str) -> str:
    return f"{place}: {words}" if place else words


def note_of(error: InvalidInput) -> str:
    """The faults in one note, each with its field."""
    sentences = (
        with_place(place_of(fault.path[1:]) if fault.path[:1] == ("body",) else "", fault_text(fault))
        for fault in error.faults[:_SHOWN]
    )
    return ". ".join(sentences)


def renamed(error: InvalidInput, names: Mapping[str, str]) -> InvalidInput:
    """The error with the names that fields have on the page."""
    return InvalidInput(
        [
            replace(fault, path=tuple(names.get(step, step) if isinstance(step, str) else step for step in fault.path))
            for fault in error.faults
        ]
    )
