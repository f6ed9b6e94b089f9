"""Files that are uploaded in pieces: the headers of Google's resumable uploads."""

from typing import Final

from msgspec.structs import replace

from farebox.calls.long_calls.uploads import Upload
from farebox.errors import INVALID_REQUEST, Problem
from farebox.http.proxy_request import ProxyRequest
from farebox.providers.objects import ObjectCall

_DIGITS_MAX: Final = 18


def upload_start(request: ProxyRequest, call: ObjectCall) -> ObjectCall:
    """The beginning of an upload, with the declared size of the file. Raises Problem if the request is not such a
    beginning: a file uploaded in another way cannot be counted."""
    header = request.headers.get
    begins = (header("x-goog-upload-command") or "").strip().lower() == "start" and not request.query.count("upload_id")
    if not begins or (header("x-goog-upload-protocol") or "").strip().lower() != "resumable":
        raise Problem(
            INVALID_REQUEST,
            "On the operator's key, a file is uploaded by Google's resumable protocol: `X-Goog-Upload-Protocol: "
            "resumable`, `X-Goog-Upload-Command: start`, and then its pieces to the URL of the response, within a day.",
        )
    size = _number(header("x-goog-upload-header-content-length"))
    if size is None:
        raise Problem(INVALID_REQUEST, "Say the size of the file in `X-Goog-Upload-Header-Content-Length`.")
    return replace(call, size=size)


def upload_chunk(request: ProxyRequest, upload: Upload, call: ObjectCall) -> ObjectCall:
    """A piece of a file. Raises Problem if the file would become larger than declared."""
    offset = _number(request.headers.get("x-goog-upload-offset") or "0")
    if offset is None or offset + len(request.body) > upload.size:
        raise Problem(INVALID_REQUEST, f"The file was declared to have {upload.size:,} bytes, and has more.")
    return replace(call, does="upload", size=upload.size, key_id=upload.key_id)


def _number(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX else None
