"""What the stores' statements are in PostgreSQL.

The stores write the subset that both engines share. What differs is marked in their text: `?` and `?1` for values,
`INDEXED BY` where SQLite must be told its plan, `/* FOR UPDATE … */` where PostgreSQL must lock a row that SQLite's one
writer has to itself, `/* clustered */` for tables that SQLite keeps in the order of their key. `/* postgres: … */` is
text that PostgreSQL reads too, in place of what follows `/* sqlite: */` where that is there. `instr` is `strpos`.
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

    parts = _STRING.split(sql)  # every other part is a string of SQL, where a question mark is a question mark
    return "".join(part if place % 2 else _VALUE.sub(number, part) for place, part in enumerate(parts))


def schema(text: str) -> str:
    """A file of storage/schema.

    Texts are compared byte by byte, as in SQLite: what is read in the order of IDs is then the same on both.
    """
    text = _ALONE.sub(r"\1", _COMMENT.sub("", text).replace("/* clustered */", ""))
    return _TEXT.sub('TEXT COLLATE "C"', text)


def has_rows(sql: str) -> bool:
    """Whether the statement returns rows rather than a count."""
    head = sql.lstrip()[:6].upper()
    return head.startswith(("SELECT", "WITH", "VALUES")) or " RETURNING " in sql


def storable(value: object) -> object:
    """The value as PostgreSQL can keep it: where a text has a NUL, the mark for what cannot be shown stands."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) and "\0" in value else value
