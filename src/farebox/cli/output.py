"""How results are shown: JSON for programs, text and tables for people."""

import sys
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import typer

Row: TypeAlias = Mapping[str, object]


def show(data: object, *, as_json: bool, text: str) -> None:
    """Print the data as JSON, or the text."""
    typer.echo(json_text(data) if as_json else text)


def show_rows(rows: Sequence[Row], *, as_json: bool, columns: Mapping[str, str], empty: str) -> None:
    """Print the rows as a JSON array, or as a table of the columns (key → heading); `empty` if there are none."""
    if as_json or not rows:
        show(rows, as_json=as_json, text=empty)
    else:
        print_table(list(columns.values()), [[_cell(row[key]) for key in columns] for row in rows])


def json_text(data: object) -> str:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(data), indent=2).decode()


def print_table(headings: Sequence[str], lines: Sequence[Sequence[str]], *, numbers: Sequence[str] = ()) -> None:
    """Print a table; columns named in `numbers` are right-aligned. Nothing is truncated."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold", justify="right" if heading in numbers else "left")
    for line in lines:
        table.add_row(*line)
    # A pipe has no width, and its reader expects one line for each row.
    width = None if sys.stdout.isatty() else 10_000
    Console(width=width, markup=False, highlight=False).print(table)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value)
