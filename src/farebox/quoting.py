"""How messages for people quote what was entered."""

QUOTED_MAX = 100
"""Most characters that are quoted, unless more are asked for."""


def quoted(text: str, most: int = QUOTED_MAX) -> str:
    """`“text”`: its beginning, with signs that cannot be printed replaced."""
    shown = "".join(sign if sign.isprintable() else "\ufffd" for sign in text[:most])
    return f"“{shown}{'…' if len(text) > most else ''}”"
