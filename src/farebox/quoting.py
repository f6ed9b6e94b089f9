"""How messages for people quote what was entered."""

QUOTED_MAX = 100
"""Most characters that are quoted."""


def quoted(text: str) -> str:
    """`“text”`: its beginning, with signs that cannot be printed replaced."""
    shown = "".join(sign if sign.isprintable() else "\ufffd" for sign in text[:QUOTED_MAX])
    return f"“{shown}{'…' if len(text) > QUOTED_MAX else ''}”"
