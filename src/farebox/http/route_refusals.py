"""Refusals that concern one model, after which another model may be called."""

from typing import Final

from farebox.errors import ESTIMATE_CAPPED, LIMIT_TOO_LOW, NO_CREDIT, REQUEST_REFUSED, SPEND_LIMITED

REFUSED: Final = (NO_CREDIT, SPEND_LIMITED, LIMIT_TOO_LOW, ESTIMATE_CAPPED, REQUEST_REFUSED)
"""Refusals of one model after which another may be affordable or allowed."""
