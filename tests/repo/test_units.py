"""The unit of every field with money or time is clear from its name or the docstring of its class; that of every
database column from its name or the comment next to it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.repo.reference import ROOT

STORES = ("processor_events", "findings", "refunds", "reconciliation", "transfer_statement", "transfer_days", "credit")
MODULES = sorted(
    [
        *(ROOT / "src/farebox/billing").glob("*.py"),
        *(ROOT / "src/farebox/payments").glob("*.py"),
        *(ROOT / "src/farebox/storage" / f"{name}.py" for name in STORES),
    ]
)
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


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_moments_and_amounts_document_their_unit(path: Path) -> None:
    for owner, name, said in fields(ast.parse(path.read_text())):
        if MOMENT.search(name):
            assert "millisecond" in said, f"{owner}.{name}: milliseconds since when?"
        elif AMOUNT.search(name) and not NAMED.search(name):
            assert re.search(r"cents|nano-dollars", said), f"{owner}.{name}: of what?"


COLUMN = re.compile(r"^    (\w+) +BIGINT\b[^\n-]*(?:-- (.*))?$", re.MULTILINE)
UNIT = re.compile(r"nano-dollars|milliseconds|tokens|\bnumber|\d, \d|of the (cost|net amount)")


def test_columns_document_their_unit() -> None:
    found = COLUMN.findall((ROOT / "src/farebox/storage/schema/schema.sql").read_text())
    assert len(found) > 100
    for name, said in found:
        assert name.endswith(("_at", "_cents")) or UNIT.search(said), f"{name}: of what?"
