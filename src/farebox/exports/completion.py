"""Bodies as JSON text, for attributes that have to be JSON."""

import msgspec


def json_text(body: bytes) -> str | None:
    """The body where it is JSON in UTF-8, as it is; else None."""
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
        return body.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def completion_json(body: bytes) -> str | None:
    """The response where it is JSON; of an event stream, the array of its events' data. None where it is neither."""
    text = json_text(body)
    if text is not None:
        return text
    events = [found for found in map(_data, body.splitlines()) if found is not None]
    return f"[{','.join(events)}]" if events else None


def _data(line: bytes) -> str | None:
    """What a line of an event stream has as data, where that is JSON: `[DONE]` is not."""
    if not line.startswith(b"data:"):
        return None
    return json_text(line[5:].strip())
