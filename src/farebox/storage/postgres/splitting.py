"""Splits SQL files into statements: Citus accepts schema changes only one statement at a time."""

import re

_PART = re.compile(
    r"--[^\n]*"  # a comment
    r"|'(?:[^']|'')*'"  # a string
    r"|(\$\w*\$).*?\1"  # a string that is the body of a function
    r"|;",
    re.DOTALL,
)


def split(text: str) -> list[str]:
    """The statements of a file, without the semicolons between them and without comments outside of functions."""
    found, start, statement = [], 0, ""
    for part in _PART.finditer(text):
        statement += text[start : part.start()]
        start = part.end()
        if part[0] == ";":
            found.append(statement)
            statement = ""
        elif not part[0].startswith("--"):
            statement += part[0]
    found.append(statement + text[start:])
    return [statement.strip() for statement in found if statement.strip()]
