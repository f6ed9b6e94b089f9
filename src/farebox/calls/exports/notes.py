"""Recording what only a call's span needs."""

from typing import TypeVar

from msgspec.structs import replace

from farebox.calls.model import SpanNotes
from farebox.calls.stages import Admitted, Metered
from farebox.providers.formats.finish import Finish, noting

_Stage = TypeVar("_Stage", bound=Admitted)
_Metered = TypeVar("_Metered", bound=Metered)


def with_notes(stage: _Stage) -> _Stage:
    """The same stage with span notes in its attempts, which are filled in as the response is read."""
    notes = stage.attempts.notes = SpanNotes()
    return replace(stage, metered=_noting(stage.metered, notes.finish), terms=_noting(stage.terms, notes.finish))


def _noting(metered: _Metered | None, finish: Finish) -> _Metered | None:
    return None if metered is None else replace(metered, wire=noting(metered.wire, finish))
