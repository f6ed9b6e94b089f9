"""The few fields of a multipart form that billing reads. Files are looked at in place, not copied."""

import re
from dataclasses import dataclass
from typing import Final

from farebox.providers.formats.base import InvalidRequest

_BOUNDARY: Final = re.compile(r';\s*boundary=(?:"([^"]{1,200})"|([^\s;,"]{1,200}))', re.IGNORECASE)
_BOUNDARIES: Final = re.compile(r"boundary[*\d]*\s*=", re.IGNORECASE)
_DISPOSITION: Final = re.compile(rb"\r\ncontent-disposition", re.IGNORECASE)
_FORM_DATA: Final = re.compile(rb":[ \t]*form-data([ \t]*;[^\r\n]*)(?=\r\n(?![ \t])|$)", re.IGNORECASE)
_PARAMETER: Final = re.compile(rb'[ \t]*;[ \t]*([\w-]+\*?)=("(?:[^"\\]|\\[^"])*"|[^\s;"]+)', re.IGNORECASE)
_PARTS_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class Part:
    """One field: where its content lies in the body."""

    name: str
    start: int
    end: int
    is_file: bool


def parts(content_type: str, body: bytes) -> list[Part]:
    """The fields of a form. Raises InvalidRequest if the body is not the form its content type says."""
    found = _BOUNDARY.search(content_type)
    if found is None or len(_BOUNDARIES.findall(content_type)) > 1:
        raise InvalidRequest("The content type does not name one boundary: send multipart/form-data; boundary=….")
    mark = b"--" + (found[1] or found[2]).encode()
    if not body.startswith(mark):
        raise InvalidRequest("The body does not begin with its content type's boundary.")
    result: list[Part] = []
    at = len(mark)
    while body[at : at + 2] == b"\r\n":
        head_end = body.find(b"\r\n\r\n", at)
        end = body.find(b"\r\n" + mark, head_end + 2)
        if head_end < 0 or end < 0:
            raise InvalidRequest("The form is cut short: its closing boundary is missing.")
        if len(result) == _PARTS_MAX:
            raise InvalidRequest(f"The form has more than {_PARTS_MAX} fields.")
        name, is_file = _field_name(body[at:head_end])
        result.append(Part(name, min(head_end + 4, end), end, is_file))
        at = end + 2 + len(mark)
    if body[at : at + 2] != b"--":
        raise InvalidRequest("A boundary of the form is followed by something other than a line break.")
    return result


def _field_name(head: bytes) -> tuple[str, bool]:
    """The name of the part with this head, and whether it is a file. Raises InvalidRequest if it is not written in the
    one way that all parsers read identically: the provider's might otherwise find another `model` in the form than
    ours."""
    places = list(_DISPOSITION.finditer(head))
    found = _FORM_DATA.match(head, places[0].end()) if len(places) == 1 else None
    values: dict[bytes, bytes] = {}
    at, end = found.span(1) if found else (0, 0)
    while at < end and (parameter := _PARAMETER.match(head, at, end)):
        key = parameter[1].lower()
        if key in values or key == b"name*" or (key == b"name" and b"\\" in parameter[2]):
            break
        values[key] = parameter[2].strip(b'"')
        at = parameter.end()
    if at < end or b"name" not in values or head.count(b"\n") != head.count(b"\r\n"):
        raise InvalidRequest('A field of the form has no plain name: write form-data; name="…".')
    return values[b"name"].decode("utf-8", "replace"), b"filename" in values or b"filename*" in values


def value(fields: list[Part], body: bytes, name: str) -> str | None:
    """The text of a field, None if the form lacks it. Raises InvalidRequest if it is given twice: the provider might
    use the other one."""
    same = [part for part in fields if part.name == name]
    if len(same) > 1:
        raise InvalidRequest(f"The form gives `{name}` more than once.")
    return body[same[0].start : same[0].end].decode("utf-8", "replace") if same else None


def replaced(body: bytes, name: str, text: str) -> bytes:
    """The form with one field's text replaced. The boundary is taken from the body's first line.

    Raises InvalidRequest.
    """
    boundary = body[2 : max(body.find(b"\r\n"), 2)].decode("latin-1")
    for part in parts(f'; boundary="{boundary}"', body):
        if part.name == name:
            return body[: part.start] + text.encode() + body[part.end :]
    return body
