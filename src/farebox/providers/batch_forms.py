"""Where batches are at providers, and how their descriptions say that they have ended."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple


class BatchForm(NamedTuple):
    """One provider's."""

    folder: str
    """The path that a batch's ID is below."""
    ended: Callable[[Mapping[str, Any]], bool]
    output: Callable[[Mapping[str, Any]], str | None]
    """The path of what it has come to; None: there is nothing."""


def _openai_output(batch: Mapping[str, Any]) -> str | None:
    file_id = batch.get("output_file_id")
    return f"files/{file_id}/content" if isinstance(file_id, str) and file_id else None


def _anthropic_output(batch: Mapping[str, Any]) -> str | None:
    counts = batch.get("request_counts")
    none = isinstance(counts, dict) and counts.get("succeeded") == 0
    return None if none else f"v1/messages/batches/{batch.get('id')}/results"


FORMS: Final[Mapping[str, BatchForm]] = {
    "openai": BatchForm(
        "batches", lambda batch: batch.get("status") in ("completed", "failed", "expired", "cancelled"), _openai_output
    ),
    "anthropic": BatchForm(
        "v1/messages/batches", lambda batch: batch.get("processing_status") == "ended", _anthropic_output
    ),
}
"""By the provider's slug."""
RESULTS_URL: Final = "results_url"
"""The field in which Anthropic says where the results are: at Anthropic, whose keys its readers do not have."""
