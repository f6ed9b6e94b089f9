"""The schema's history: numbered files that both engines read."""

from importlib import resources


def migrations() -> list[tuple[int, str]]:
    """Number and text of each file, in order."""
    files = resources.files(__package__).iterdir()
    return sorted((int(file.name[:4]), file.read_text()) for file in files if file.name.endswith(".sql"))
