"""The one-line error message of a failed command."""

from farebox.cli.session import Stopped
from farebox.settings import SettingsError


def in_one_line(error: Exception) -> str:
    """The message of an exception; an unexpected one gets its type, and how to see more."""
    from farebox.operator.administer import ActionRefused
    from farebox.storage.sql import DatabaseUnavailable, SchemaMismatch
    from farebox.vault import SecretUnreadable

    foreseen = (DatabaseUnavailable, ActionRefused, SchemaMismatch, SecretUnreadable, SettingsError, Stopped)
    text = " ".join(str(error).split())
    if isinstance(error, DatabaseUnavailable) and type(error) is not DatabaseUnavailable:
        return f"{text} ({error.remedy})"
    if isinstance(error, foreseen):
        return text
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return f"{type(error).__name__}: {text} (`farebox --traceback …` shows where)"
