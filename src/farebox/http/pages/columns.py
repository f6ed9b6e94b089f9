"""Numbers of a table's column, one below the other by their decimal points, however many decimals each has.

Amounts are exact to a billionth of a dollar, so that a column has `12.00` next to `0.0000175`. What is missing behind
the shorter ones is left empty by the style sheet (`.pad`): it is neither read aloud nor copied.

The macro `cell` of templates/parts.html marks what is in a column of numbers: BEGIN, the column's heading, CONTENT,
what is in the cell, END.
"""

import re
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from markupsafe import Markup

BEGIN, CONTENT, END = "<\x02", "<\x03", "<\x04"
"""No text that is shown can forge them, because its `<` is escaped. Without them a cell is as it was."""
_CELL: Final = re.compile(f"{BEGIN}([^<]*){CONTENT}(.*?){END}", re.DOTALL)
_NUMBER: Final = re.compile(r"(\s*(?:<[^>]*>\s*)?\(?[+−-]?[\d,]+)(\.\d+)?(?=[\s<)]|$)")
"""What a cell begins with: the number, perhaps in a link."""
_UNIT: Final = re.compile(r"[^<]*")
"""What follows the number, up to the end of the link."""


def aligned(rows: "Markup", pad: "Callable[[str], Markup]") -> "Markup":
    """The rows of a table with their columns of numbers padded. A column whose numbers have units (`5 ms`), from which
    the padding would part them, or no decimals at all, stays as it is.

    `pad`: what leaves the place of such a text empty."""
    decimals: dict[str, int] = defaultdict(int)
    with_units = set[str]()
    for heading, content in _CELL.findall(rows):
        found = _NUMBER.match(content)
        if found is not None:
            decimals[heading] = max(decimals[heading], len(found[2] or ""))
            rest = _UNIT.match(content, found.end())
            if rest and rest[0].strip(" \n)"):
                with_units.add(heading)
    wanted = {heading: most for heading, most in decimals.items() if most and heading not in with_units}
    return type(rows)(_CELL.sub(lambda cell: _padded(cell[2], wanted.get(cell[1], 0), pad), rows))


def _padded(content: str, most: int, pad: "Callable[[str], Markup]") -> str:
    found = _NUMBER.match(content)
    missing = 0 if found is None else most - len(found[2] or "")
    if found is None or missing <= 0:
        return content
    empty = "0" * missing if found[2] else "." + "0" * (missing - 1)
    return f"{content[: found.end()]}{pad(empty)}{content[found.end() :]}"
