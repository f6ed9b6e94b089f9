"""Checks that a statement names the bucket of each distributed table by a value of its own.

A bucket is named by `bucket = ?`, or by equality with the bucket of another distributed table of the same FROM whose
bucket is named. It is not named by a subquery, by the bucket of a table outside the subquery, or by that of a reference
table such as `accounts`: Citus queries every node for the first two, and refuses many forms of the third.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pglast import ast, parse_sql
from pglast.enums import A_Expr_Kind, BoolExprType

BUCKET = "bucket"


@dataclass(slots=True)
class Scope:
    """The tables of one query level."""

    distributed: frozenset[str]
    with_bucket: frozenset[str]
    parent: "Scope | None" = None
    tables: dict[str, str | None] = field(default_factory=dict)
    """Alias → table; None: a subquery, in which all buckets are named."""
    tests: list[Any] = field(default_factory=list)
    """The conditions combined by AND."""
    said: set[str] = field(default_factory=set)
    """Aliases whose bucket is named."""

    def owner(self, column: Any) -> "tuple[Scope, str] | None":
        """The level and alias whose bucket the column is; None if it is not a bucket."""
        names = [each.sval for each in column.fields if _is(each, ast.String)]
        if not names or names[-1] != BUCKET:
            return None
        level: Scope | None = self
        while level is not None:
            if len(names) > 1 and names[-2] in level.tables:
                return level, names[-2]
            having = [alias for alias, table in level.tables.items() if table is None or table in level.with_bucket]
            if len(names) == 1 and having:
                return level, having[0]
            level = level.parent
        return None


def without_bucket_of(sql: str, distributed: frozenset[str], with_bucket: frozenset[str]) -> list[str]:
    """The distributed tables that a PostgreSQL statement accesses without their bucket."""
    found: list[str] = []
    for statement in parse_sql(sql):
        found += _without_bucket_of(statement.stmt, Scope(distributed, with_bucket))
    return found


def _without_bucket_of(node: Any, outer: Scope) -> Iterator[str]:
    for query in getattr(getattr(node, "withClause", None), "ctes", None) or ():
        yield from _without_bucket_of(query.ctequery, outer)
    scope = Scope(outer.distributed, outer.with_bucket, outer)
    if _is(node, ast.SelectStmt) and node.op:
        yield from _without_bucket_of(node.larg, outer)
        yield from _without_bucket_of(node.rarg, outer)
        return
    if _is(node, ast.InsertStmt):
        yield from _insert(node, scope)
        return
    if _is(node, ast.UpdateStmt, ast.DeleteStmt):
        yield from _enter(node.relation, scope)
    for source in (*(getattr(node, "fromClause", None) or ()), *(getattr(node, "usingClause", None) or ())):
        yield from _enter(source, scope)
    scope.tests += _together(getattr(node, "whereClause", None))
    _settle(scope)
    for alias, table in scope.tables.items():
        if table in scope.distributed and alias not in scope.said:
            yield table
    for inner in _subqueries(node):
        yield from _without_bucket_of(inner, scope)


def _insert(node: Any, scope: Scope) -> Iterator[str]:
    table = node.relation.relname
    query = node.selectStmt
    inner = Scope(scope.distributed, scope.with_bucket, scope)
    if not query.valuesLists:
        yield from _without_bucket_of(query, scope)
        for source in query.fromClause or ():
            list(_enter(source, inner))
        inner.tests += _together(query.whereClause)
        _settle(inner)
    if table in scope.distributed:
        names = [column.name for column in node.cols or ()]
        if BUCKET not in names:
            yield table
            return
        place = names.index(BUCKET)
        values = [row[place] for row in query.valuesLists or ()] or [query.targetList[place].val]
        if not all(_is_said(value, inner) for value in values):
            yield table
    for value in (value for row in query.valuesLists or () for value in row):
        for each in _subqueries(value):
            yield from _without_bucket_of(each, scope)


def _enter(source: Any, scope: Scope) -> Iterator[str]:
    """Add the tables of a FROM clause to the level."""
    alias = getattr(getattr(source, "alias", None), "aliasname", None)
    if _is(source, ast.RangeVar):
        scope.tables[alias or source.relname] = source.relname
    elif _is(source, ast.RangeSubselect):
        yield from _without_bucket_of(source.subquery, scope)
        scope.tables[alias or ""] = None
    elif _is(source, ast.JoinExpr):
        yield from _enter(source.larg, scope)
        yield from _enter(source.rarg, scope)
        scope.tests += _together(source.quals)


def _together(node: Any) -> list[Any]:
    if _is(node, ast.BoolExpr) and node.boolop == BoolExprType.AND_EXPR:
        return [each for part in node.args for each in _together(part)]
    return [] if node is None else [node]


def _settle(scope: Scope) -> None:
    """Determine the tables whose bucket is named; one may name that of another."""
    scope.said |= {alias for alias, table in scope.tables.items() if table is None}
    before = -1
    while before != len(scope.said):
        before = len(scope.said)
        for test in scope.tests:
            if not _is(test, ast.A_Expr) or test.kind != A_Expr_Kind.AEXPR_OP or test.name[-1].sval != "=":
                continue
            for here, there in ((test.lexpr, test.rexpr), (test.rexpr, test.lexpr)):
                owner = scope.owner(here) if _is(here, ast.ColumnRef) else None
                if owner is not None and owner[0] is scope and _is_said(there, scope):
                    scope.said.add(owner[1])


def _is_said(value: Any, scope: Scope) -> bool:
    """Whether the value is a parameter or constant, or the named bucket of a distributed table."""
    if _is(value, ast.TypeCast):
        return _is_said(value.arg, scope)
    if _is(value, ast.ParamRef, ast.A_Const):
        return True
    if not _is(value, ast.ColumnRef):
        return False
    if [each.sval for each in value.fields if _is(each, ast.String)] == ["p_bucket"]:
        return True  # the parameter of a function
    owner = scope.owner(value)
    if owner is None:
        return False
    level, alias = owner
    table = level.tables[alias]
    return level is scope and alias in level.said and (table is None or table in level.distributed)


def _subqueries(node: Any) -> Iterator[Any]:
    """The queries inside expressions, but not those of FROM and WITH, which have been entered."""
    skipped = {"fromClause", "usingClause", "withClause", "relation", "selectStmt"}
    if _is(node, ast.SubLink):
        yield node.subselect
        node = node.testexpr
    if isinstance(node, tuple):
        for each in node:
            yield from _subqueries(each)
    elif _is(node, ast.Node):
        for name in node:
            if name in skipped and not _is(node, ast.JoinExpr):
                continue
            yield from _subqueries(getattr(node, name))


def _is(node: Any, *kinds: Any) -> bool:
    """isinstance without narrowing for mypy, which knows pglast's fields less exactly."""
    return isinstance(node, kinds)
