"""Every SQL text of the stores and the ledger, read from their source.

A text may be composed of pieces: constants of the module, the alternatives of a conditional, arguments of calls within
the module. All combinations are built. A piece that cannot be read from the source is an error, so that no statement is
missed; `PIECES` has substitutes for such pieces.
"""

import ast
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import ModuleType

from farebox.storage.own_rows import OwnRows
from tests.repo.reference import ROOT

PACKAGE = ROOT / "src" / "farebox"
HELPERS = {
    "row": 1,
    "rows": 1,
    "rows_everywhere": 1,
    "rows_available": 1,
    "list_available": 1,
    "execute": 0,
    "executemany": 0,
    "_execute": 0,
}
"""Functions that execute a statement → the index of the argument with its text."""
NOT_STORES = {"sql.py", "every_bucket.py", "tables.py", "own_rows.py", "bucket_moves.py"}
"""Modules that execute given statements, or read whole tables."""

PIECES: dict[str, tuple[str, ...]] = {
    "', '.join((f'{name} = ?' for name in changes))": ("state = ?",),
    "', '.join(('?' for _ in without))": ("?",),
    "', '.join(('?' for _ in log_ids))": ("?",),
    "', '.join(('?' for _ in there))": ("?",),
    "', '.join(('?' for _ in some))": ("?",),
    "', '.join(('?' for _ in route_ids))": ("?",),
    "_tests(wanted)": ("TRUE",),
    "names:column": ("payment_id",),
    "_where(key, wanted)": ("bucket = ? AND account_id = ? AND kind = ?",),
    "_where(key_of(connection, account_id), gateway_id, query)": ("bucket = ? AND account_id = ? AND gateway_id = ?",),
    "', '.join((f'{column} {direction}' for column in dict.fromkeys((LOG_ORDERS[query.order], 'log_id'))))": (
        "log_id",
    ),
    "', '.join((f'coalesce(min({figure}), 0), coalesce(max({figure}), 0)' for figure in figures))": ("min(cost)",),
    "', '.join(('?' for _ in OPEN_TOP_UPS))": ("?",),
    "_lines(_NAME, names)": ("(?, ?, ?)",),
    "_lines(_ENTRY, responses)": ("(?, ?, ?, ?, ?, ?, ?, ?)",),
    "', '.join(('?' for _ in names))": ("?",),
    "_lines(_TOTAL, added)": ("(?, ?, ?)",),
    "', '.join((_ROW for _ in some))": ("(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",),
}
"""Source of a piece that is built at run time → its substitute."""


@dataclass(frozen=True, slots=True)
class Statement:
    """An SQL text as a store passes it to its connection."""

    where: str
    """File and line."""
    sql: str


class Unread(Exception):
    """The piece cannot be determined from the source."""


def statements(paths: Iterator[Path]) -> Iterator[Statement]:
    """Every text of these modules. Raises Unread."""
    for path in paths:
        yield from Module(path).statements()


def stores() -> Iterator[Path]:
    """The modules with statements on tables, except for those of a single engine and of copying whole databases."""
    for folder in (PACKAGE / "storage", PACKAGE / "ledger"):
        yield from sorted(path for path in folder.glob("*.py") if path.name not in NOT_STORES)


class Module:
    """A module as source and as an object."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tree = ast.parse(path.read_text())
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        self._module: ModuleType = importlib.import_module(name.removesuffix(".__init__"))
        self._functions: list[ast.FunctionDef] = []
        self._calls: list[tuple[ast.FunctionDef | None, ast.Call]] = []
        """Nodes, each with its enclosing function."""
        self._visit(self._tree, None)
        self._bound = {id(function): _bound(function) for function in self._functions}

    def _visit(self, node: ast.AST, function: ast.FunctionDef | None) -> None:
        if isinstance(node, ast.FunctionDef):
            function = node
            self._functions.append(node)
        elif isinstance(node, ast.Call):
            self._calls.append((function, node))
        for each in ast.iter_child_nodes(node):
            self._visit(each, function)

    def statements(self) -> Iterator[Statement]:
        for name, found in vars(self._module).items():
            if isinstance(found, OwnRows):
                where = f"{self._path.relative_to(ROOT)}: {name}"
                yield from (Statement(where, sql) for sql in found.statements())
        for function, call in self._calls:
            name = _name(call.func)
            if name not in HELPERS or len(call.args) <= HELPERS[name]:
                continue
            where = f"{self._path.relative_to(ROOT)}:{call.lineno}"
            try:
                found = self._texts(call.args[HELPERS[name]], function)
            except Unread as error:
                raise Unread(f"{where}: {error}") from None
            yield from (Statement(where, sql) for sql in sorted(found))

    def _texts(self, node: ast.expr, function: ast.FunctionDef | None) -> set[str]:
        source = ast.unparse(node)
        if source in PIECES:
            return set(PIECES[source])
        value = self._constant(source, function, node)
        if value is not None:
            return {value}
        if isinstance(node, ast.JoinedStr):
            return _joined([self._texts(part, function) for part in node.values])
        if isinstance(node, ast.FormattedValue):
            return self._texts(node.value, function)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return _joined([self._texts(node.left, function), self._texts(node.right, function)])
        if isinstance(node, ast.IfExp):
            return self._texts(node.body, function) | self._texts(node.orelse, function)
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            known = getattr(self._module, node.value.id, None)
            if isinstance(known, dict):
                return {str(value) for value in known.values()}
        if isinstance(node, ast.Call) and (called := self._function(_name(node.func))) is not None:
            returned = [each.value for each in ast.walk(called) if isinstance(each, ast.Return) and each.value]
            return set().union(*(self._texts(each, called) for each in returned))
        if isinstance(node, ast.Name) and function is not None:
            return self._variable(node.id, function)
        raise Unread(source)

    def _constant(self, source: str, function: ast.FunctionDef | None, node: ast.expr) -> str | None:
        """The value of an expression that uses only constants of the module."""
        names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
        if function is not None and names & self._bound[id(function)]:
            return None
        try:
            value = eval(source, vars(self._module))
        except Exception:  # noqa: BLE001 - whatever it needs, it is no constant
            return None
        return value if isinstance(value, str) else None

    def _variable(self, name: str, function: ast.FunctionDef) -> set[str]:
        found: set[str] = set()
        for node in ast.walk(function):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    found |= self._assigned(name, target, node.value, function)
            elif isinstance(node, ast.For) and name in {
                each.id for each in ast.walk(node.target) if isinstance(each, ast.Name)
            }:
                found |= self._iterated(ast.unparse(node.iter), name)
        for node in ast.walk(function):
            if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
                found |= _joined([found, self._texts(node.value, function)])
        if not found:
            found = self._given(name, function)
        if not found:
            raise Unread(f"{name} in {function.name}")
        return found

    def _iterated(self, source: str, name: str) -> set[str]:
        """The values over which a loop iterates."""
        if f"{source}:{name}" in PIECES:
            return set(PIECES[f"{source}:{name}"])
        try:
            values = set(eval(source, vars(self._module)))
        except Exception:  # noqa: BLE001 - whatever it needs, it is no constant
            return set()
        return {value for value in values if isinstance(value, str)}

    def _assigned(self, name: str, target: ast.expr, value: ast.expr, function: ast.FunctionDef) -> set[str]:
        if isinstance(target, ast.Name):
            return self._texts(value, function) if target.id == name else set()
        if not isinstance(target, ast.Tuple):
            return set()
        places = [place for place, each in enumerate(target.elts) if isinstance(each, ast.Name) and each.id == name]
        if not places:
            return set()
        if ast.unparse(value) in PIECES:
            return set(PIECES[ast.unparse(value)])
        options = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
        return set().union(
            *(
                self._texts(each.elts[place], function)
                for place in places
                for each in options
                if isinstance(each, ast.Tuple)
            )
        )

    def _given(self, name: str, function: ast.FunctionDef) -> set[str]:
        """The arguments with which the module calls the function."""
        names = [argument.arg for argument in function.args.args]
        if name not in names:
            return set()
        found: set[str] = set()
        for caller, call in self._calls:
            if _name(call.func) == function.name:
                named = [keyword.value for keyword in call.keywords if keyword.arg == name]
                place = names.index(name) - (names[0] == "self")
                given = named or call.args[place : place + 1]
                found |= set().union(*(self._texts(each, caller) for each in given))
        return found

    def _function(self, name: str) -> ast.FunctionDef | None:
        return next((function for function in self._functions if function.name == name), None)


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _names(node: ast.expr) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def _bound(function: ast.FunctionDef) -> set[str]:
    """The names that the function assigns or has as parameters."""
    assigned = {
        node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    of_comprehensions = {
        each.id
        for node in ast.walk(function)
        if isinstance(node, ast.comprehension)
        for each in ast.walk(node.target)
        if isinstance(each, ast.Name)
    }
    arguments = function.args
    return (assigned - of_comprehensions) | {
        argument.arg for argument in (*arguments.args, *arguments.kwonlyargs, *arguments.posonlyargs)
    }


def _joined(parts: list[set[str]]) -> set[str]:
    return {"".join(each) for each in product(*parts)}
