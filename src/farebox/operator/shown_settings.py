"""The settings in force, for the operator, without secrets."""

from dataclasses import dataclass, fields

from farebox.settings import PREFIX, Settings


@dataclass(frozen=True, slots=True)
class ShownSetting:
    """A setting in force."""

    name: str
    """Name of the environment variable."""
    value: str
    """Its value; for a secret, only whether there is one (empty: none)."""
    help: str
    secret: bool
    changed: bool
    """Whether it differs from the default."""


def shown_settings(settings: Settings) -> list[ShownSetting]:
    """All settings, without secrets, and only the part of the database URL that may be shown."""
    shown = []
    for each in fields(Settings):
        value, secret = getattr(settings, each.name), not each.repr
        text = ("set" if value else "") if secret else str(value)
        if each.name == "database_url" and value:
            secret, text = False, settings.database_shown
        shown.append(
            ShownSetting(f"{PREFIX}{each.name.upper()}", text, each.metadata["help"], secret, value != each.default)
        )
    return shown
