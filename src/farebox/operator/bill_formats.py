"""Parses what providers report as billed into lines by day and model, from the forms in which they export and report
it.

OpenAI: pages of `/v1/organization/costs` and `/v1/organization/usage/…`, and the dashboard's CSV of both. Anthropic:
pages of `/v1/organizations/cost_report` and `…/usage_report/messages`, and the console's CSV of both. OpenRouter:
`/api/v1/activity`, and the activity page's CSV. Days are those of UTC in all of them.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from farebox.calendar import DAY_MS

PROVIDERS = ("openai", "anthropic", "openrouter")
NAMELESS = "(not named)"
"""The name for amounts that the provider bills without naming a model."""


class BillUnreadable(ValueError):
    """The data has none of the known forms, or is damaged; the message says where."""


class BillLine(NamedTuple):
    """One line. Figures that the form lacks are None."""

    day: int
    """Milliseconds since the Unix epoch: the start of the day in UTC."""
    model: str
    """The model as the provider names it, or another item that it bills."""
    usd: Decimal | None = None
    requests: int | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None


def read_bill(provider: str, data: bytes) -> list[BillLine]:
    """The lines of a file or a response. Raises BillUnreadable."""
    text = data.decode("utf-8-sig", "replace").lstrip()
    try:
        if text.startswith(("{", "[")):
            pages = json.loads(text, parse_float=Decimal)
            lines = [line for page in _list(pages) for line in _JSON[provider](page)]
        else:
            lines = list(_csv(provider, text))
    except (KeyError, TypeError, ValueError, AttributeError, InvalidOperation, OverflowError) as error:
        if isinstance(error, BillUnreadable):
            raise
        raise BillUnreadable(f"this is not a usage or cost report of {provider}: {_reason(error)}") from error
    return lines


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    return "an amount or a count in it is not a number" if isinstance(error, InvalidOperation) else str(error)


def _list(found: Any) -> list[Any]:
    return found if isinstance(found, list) else [found]


# --- JSON -------------------------------------------------------------------------------------------------------------


def _openai(page: Mapping[str, Any]) -> Iterator[BillLine]:
    for bucket in page["data"]:
        day = _day(datetime.fromtimestamp(bucket["start_time"], UTC), bucket["end_time"] - bucket["start_time"])
        for result in bucket.get("results") or bucket.get("result") or ():
            if "amount" in result:
                amount = result["amount"] or {}
                if amount.get("value") is not None:
                    yield BillLine(day, line_item(result.get("line_item")), _usd(amount["value"], amount["currency"]))
            elif "input_tokens" in result:
                yield BillLine(
                    day, result.get("model") or NAMELESS, None, int(result["num_model_requests"]),
                    int(result["input_tokens"]), int(result.get("output_tokens") or 0),
                )  # fmt: skip


def _anthropic(page: Mapping[str, Any]) -> Iterator[BillLine]:
    for bucket in page["data"]:
        start, end = (datetime.fromisoformat(bucket[name]) for name in ("starting_at", "ending_at"))
        day = _day(start, (end - start).total_seconds())
        for result in bucket["results"]:
            model = result.get("model")
            if "amount" in result:
                usd = _usd(result["amount"], result["currency"]) / 100  # in cents, according to the documentation
                name = model or result.get("description") or result.get("cost_type") or NAMELESS
                yield BillLine(day, name, usd)
            else:
                written = result.get("cache_creation") or {}
                tokens = (
                    int(result["uncached_input_tokens"])
                    + sum(int(count) for count in written.values())
                    + int(result.get("cache_read_input_tokens") or 0)
                )
                yield BillLine(day, model or NAMELESS, None, None, tokens, int(result["output_tokens"]))


def _openrouter(page: Mapping[str, Any]) -> Iterator[BillLine]:
    for item in page["data"]:
        yield BillLine(
            _day(datetime.fromisoformat(item["date"])), item["model"], Decimal(str(item["usage"])),
            int(item["requests"]), int(item["prompt_tokens"]), int(item["completion_tokens"]),
        )  # fmt: skip


_JSON: Mapping[str, Callable[[Mapping[str, Any]], Iterator[BillLine]]] = {
    "openai": _openai,
    "anthropic": _anthropic,
    "openrouter": _openrouter,
}


# --- CSV --------------------------------------------------------------------------------------------------------------


def _csv(provider: str, text: str) -> Iterator[BillLine]:
    header = text.partition("\n")[0]
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in header else ",")
    columns = frozenset(rows.fieldnames or ())
    for needed, read in _CSV[provider]:
        if needed <= columns:
            yield from read(rows)
            return
    known = "; or ".join(", ".join(sorted(needed)) for needed, _ in _CSV[provider])
    raise BillUnreadable(f"this is not a usage or cost report of {provider}: a CSV file of it has the columns {known}")


def _openai_costs(rows: Iterable[Mapping[str, str]]) -> Iterator[BillLine]:
    for row in rows:
        if row["amount_value"]:
            day = _day(datetime.fromtimestamp(int(row["start_time"]), UTC))
            yield BillLine(day, line_item(row.get("line_item")), _usd(row["amount_value"], row["amount_currency"]))


def _openai_usage(rows: Iterable[Mapping[str, str]]) -> Iterator[BillLine]:
    for row in rows:
        if row["input_tokens"]:
            day = _day(datetime.fromtimestamp(int(row["start_time"]), UTC))
            yield BillLine(
                day, row["model"] or NAMELESS, None, _whole(row["num_model_requests"]), _whole(row["input_tokens"]),
                _whole(row.get("output_tokens")),
            )  # fmt: skip


def _anthropic_costs(rows: Iterable[Mapping[str, str]]) -> Iterator[BillLine]:
    for row in rows:
        name = row["model"] or row.get("cost_type") or NAMELESS
        yield BillLine(_day(datetime.fromisoformat(row["usage_date_utc"])), name, Decimal(row["cost_usd"]))


def _anthropic_usage(rows: Iterable[Mapping[str, str]]) -> Iterator[BillLine]:
    for row in rows:
        tokens = sum(_whole(row[name]) for name in row if name and name.startswith("usage_input_tokens"))
        day = _day(datetime.fromisoformat(row["usage_date_utc"]))
        yield BillLine(day, row["model_version"], None, None, tokens, _whole(row["usage_output_tokens"]))


def _openrouter_calls(rows: Iterable[Mapping[str, str]]) -> Iterator[BillLine]:
    for row in rows:
        day = _day(datetime.fromisoformat(row["created_at"]))
        yield BillLine(
            day, row["model_permaslug"], Decimal(row["cost_total"]), 1, _whole(row.get("tokens_prompt")),
            _whole(row.get("tokens_completion")),
        )  # fmt: skip


_Reader = Callable[[Iterable[Mapping[str, str]]], Iterator[BillLine]]
_CSV: Mapping[str, tuple[tuple[frozenset[str], _Reader], ...]] = {
    "openai": (
        (frozenset({"start_time", "amount_value", "amount_currency"}), _openai_costs),
        (frozenset({"start_time", "model", "num_model_requests", "input_tokens"}), _openai_usage),
    ),
    "anthropic": (
        (frozenset({"usage_date_utc", "model", "cost_usd"}), _anthropic_costs),
        (frozenset({"usage_date_utc", "model_version", "usage_output_tokens"}), _anthropic_usage),
    ),
    "openrouter": ((frozenset({"created_at", "cost_total", "model_permaslug"}), _openrouter_calls),),
}


# --- what they have in common -----------------------------------------------------------------------------------------


def line_item(text: str | None) -> str:
    """The model of an OpenAI line item, such as `gpt-5-mini-2025-08-07, cached input`; otherwise the item itself."""
    item = (text or "").strip()
    if ", " not in item:
        return item or NAMELESS
    return item.partition(", ")[0].rpartition("|")[2].split()[0]


def _usd(value: Any, currency: str) -> Decimal:
    if currency.lower() != "usd":
        raise BillUnreadable(f"the amounts are in {currency}: only US dollars can be compared")
    return Decimal(str(value))


def _whole(text: str | None) -> int:
    return int(Decimal(text)) if text else 0


def _day(moment: datetime, seconds: float = 0) -> int:
    if seconds > DAY_MS / 1000:
        raise BillUnreadable("its spans of time are longer than a day: export it by the day")
    at = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) * 1000
    return at - at % DAY_MS
