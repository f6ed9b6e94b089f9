"""The settings as they are in force, for the operator: without secrets."""

from dataclasses import dataclass, fields

from farebox.settings import PREFIX, Settings


@dataclass(frozen=True, slots=True)
class ShownSetting:
    """A setting as it is in force."""

    name: str
    """The variable."""
    value: str
    """Of a secret, whether there is one: empty where there is none."""
    help: str
    secret: bool
    changed: bool
    """It differs from the default."""


def shown_settings(settings: Settings) -> list[ShownSetting]:
    """All settings, without secrets; of the database's address, what may be shown."""
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
