"""Bodies as JSON text, for attributes that have to be JSON."""

import msgspec


def json_text(body: bytes) -> str | None:
    """The body unchanged if it is JSON in UTF-8; otherwise None."""
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
        return body.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def completion_json(body: bytes) -> str | None:
    """The response if it is JSON; for an event stream, the array of its events' data. None if it is neither."""
    text = json_text(body)
    if text is not None:
        return text
    events = [found for found in map(_data, body.splitlines()) if found is not None]
    return f"[{','.join(events)}]" if events else None


def _data(line: bytes) -> str | None:
    """The data in a line of an event stream, if it is JSON (`[DONE]` is not)."""
    if not line.startswith(b"data:"):
        return None
    return json_text(line[5:].strip())
