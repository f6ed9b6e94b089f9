"""Serving below a path of the public URL: requests are accepted with and without it, and the pages' own URLs include
it.

A proxy in front may strip the path or pass it on. Pages write their URLs relative to our own root, in one form
(pages/templates). Here they are all moved below the path, so that no page can forget it.
"""

import re

from msgspec.structs import replace

from farebox.http.envelope import HTML, Response

_move = re.compile(rb' (href|action|formaction|src)="/').sub
"""Only attributes contain such a quotation mark: those in texts are escaped."""


def below(root: str, path: str) -> str:
    """The path without the root, such as `/ai`."""
    if path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return path[len(root) :] or "/"
    return path


def at_root(response: Response, root: str) -> Response:
    """A page or a redirect with its URLs moved below the root; the paths of cookies are moved in any response."""
    page = response.content_type == HTML
    body = _move(rb' \1="' + root.encode() + b"/", response.body) if page else response.body
    headers = tuple(_rooted(name, value, root, page=page) for name, value in response.headers)
    return replace(response, body=body, headers=headers)


def _rooted(name: str, value: str, root: str, *, page: bool) -> tuple[str, str]:
    if page and name == "location" and value.startswith("/"):
        value = root + value
    elif name == "set-cookie":
        value = value.replace("; Path=/", f"; Path={root}/", 1)
    return name, value
