"""What is refused of one model, after which another may be called."""

from typing import Final

from farebox.errors import ESTIMATE_CAPPED, NO_CREDIT, REQUEST_REFUSED, SPEND_LIMITED

REFUSED: Final = (NO_CREDIT, SPEND_LIMITED, ESTIMATE_CAPPED, REQUEST_REFUSED)
"""Refusals of one model, after which another may be affordable."""
