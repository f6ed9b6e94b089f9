"""CSV for spreadsheets, in which no cell is interpreted as a formula."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Final

from farebox.http.request import Request

CSV: Final = "text/csv; charset=utf-8"


def asks_for_csv(request: Request, format: str | None) -> bool:
    """Whether the response should be CSV: by the query's `format`, otherwise by the `Accept` header."""
    accepted = (request.headers.get("accept") or "").lower().split(",")
    return format == "csv" if format else any(kind.partition(";")[0].strip() == "text/csv" for kind in accepted)


def csv_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A header line and the rows, as UTF-8. All texts pass `escape_formula`."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([escape_formula(cell) if isinstance(cell, str) else cell for cell in row])
    return out.getvalue().encode()


def escape_formula(text: str) -> str:
    """Text that no spreadsheet interprets as a formula: text that begins like one gets an apostrophe in front."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text
