"""The unit of every field with money or time is clear from its name, its own docstring or that of its class or module;
that of every database column from its name or the comment next to it."""

import ast
import re
from collections.abc import Iterator

from tests.repo.reference import ROOT

POSITIONS = {
    "demo_provider/directives.py",
    "detection/response_text.py",
    "detection/scan.py",
    "http/pages/charts.py",  # the amounts of any chart
    "providers/formats/multipart.py",
}
"""Modules whose `start`, `end` and `amount` are something else, such as positions in a text."""
FAREBOX = ROOT / "src/farebox"
MODULES = sorted(path for path in FAREBOX.rglob("*.py") if path.relative_to(FAREBOX).as_posix() not in POSITIONS)
MOMENT = re.compile(r"^(at|since|until|start|end)$|_(at|since|until)$")
AMOUNT = re.compile(r"amount|charge$|credit$|^(captured|refunded|disputed|posted|held|owed)$")
NAMED = re.compile(r"_(cents|nanos|ms)$")


def fields(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    """Class, field and documentation of each integer field."""
    for owner in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        for field, after in zip(owner.body, [*owner.body[1:], None], strict=True):
            if not isinstance(field, ast.AnnAssign) or "int" not in ast.unparse(field.annotation).split(" | "):
                continue
            assert isinstance(field.target, ast.Name)
            own = ast.unparse(after) if isinstance(after, ast.Expr) else ""
            yield owner.name, field.target.id, f"{ast.get_docstring(owner)} {own}"


def test_moments_and_amounts_document_their_unit() -> None:
    found = []
    for path in MODULES:
        tree = ast.parse(path.read_text())
        for owner, name, own in fields(tree):
            text = f"{own} {ast.get_docstring(tree)}".lower()
            if MOMENT.search(name):
                clear = "second" in text
            else:
                clear = not AMOUNT.search(name) or bool(NAMED.search(name) or re.search(r"cents|nano-dollars", text))
            if not clear:
                found.append(f"{path.relative_to(ROOT)}: {owner}.{name}")
    assert not found, "of what unit?\n" + "\n".join(found)


COLUMN = re.compile(r"^    (\w+) +BIGINT\b[^\n-]*(?:-- (.*))?$", re.MULTILINE)
UNIT = re.compile(r"nano-dollars|milliseconds|tokens|\bnumber|\d, \d|of the (cost|net amount)")


def test_columns_document_their_unit() -> None:
    found = COLUMN.findall((ROOT / "src/farebox/storage/schema/schema.sql").read_text())
    assert len(found) > 100
    for name, said in found:
        assert name.endswith(("_at", "_cents")) or UNIT.search(said), f"{name}: of what?"
