"""Translates the stores' statements for PostgreSQL.

The stores use the subset that both engines share. Differences are marked in the text: `?` and `?1` for values,
`INDEXED BY` where SQLite needs a hint, `/* FOR UPDATE … */` where PostgreSQL must lock a row (SQLite's single writer
need not), `/* clustered */` for tables that SQLite stores in the order of their key. `/* postgres: … */` is text for
PostgreSQL alone; it replaces the text after `/* sqlite: */` if there is such a mark. `instr` becomes `strpos`.
"""

import re
from functools import lru_cache

_STRING = re.compile(r"('(?:[^']|'')*')")
_VALUE = re.compile(r"\?(\d*)")
_INDEXED_BY = re.compile(r"\bINDEXED BY \w+")
_LOCK = re.compile(r"/\* (FOR UPDATE[^*]*?) \*/")
_INSTR = re.compile(r"\binstr\(")
_ALONE = re.compile(r"(?:/\* sqlite: \*/.*?)?/\* postgres: (.*?) \*/", re.DOTALL)
_TEXT = re.compile(r"\bTEXT\b")
_COMMENT = re.compile(r"--[^\n]*")


@lru_cache(maxsize=4096)
def translated(sql: str) -> str:
    """One statement of a store."""
    sql = _ALONE.sub(r"\1", _LOCK.sub(r"\1", _INDEXED_BY.sub("", sql)))
    sql = _INSTR.sub("strpos(", sql)
    count = 0

    def number(found: re.Match[str]) -> str:
        nonlocal count
        count += 1
        return f"${found.group(1) or count}"

    parts = _STRING.split(sql)  # every other part is an SQL string, where a question mark is only a question mark
    return "".join(part if place % 2 else _VALUE.sub(number, part) for place, part in enumerate(parts))


def schema(text: str) -> str:
    """A file of storage/schema.

    Texts are compared byte by byte, as in SQLite: the order of IDs is then the same on both engines.
    """
    text = _ALONE.sub(r"\1", _COMMENT.sub("", text).replace("/* clustered */", ""))
    return _TEXT.sub('TEXT COLLATE "C"', text)


def has_rows(sql: str) -> bool:
    """Whether the statement returns rows rather than a count."""
    head = sql.lstrip()[:6].upper()
    return head.startswith(("SELECT", "WITH", "VALUES")) or " RETURNING " in sql


def storable(value: object) -> object:
    """The value as PostgreSQL can store it: in a text, U+FFFD replaces each NUL."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) and "\0" in value else value
