"""The URLs of DLP profiles."""

from typing import Any, Final

from farebox.http.control import dlp_profiles
from farebox.http.control.wire import Paging
from farebox.http.router import Handler, Route, Shape
from farebox.model import Permission

_LIST: Final = "/client/v4/accounts/{account_id}/farebox/dlp-profiles"
_ONE: Final = f"{_LIST}/{{profile_id}}"


def _route(method: str, path: str, handler: Handler, summary: str, **more: Any) -> Route:
    permissions = (Permission.READ, Permission.WRITE) if method == "GET" else (Permission.WRITE,)
    result = dlp_profiles.DlpProfile
    return Route(
        method=method, path=path, handler=handler, permissions=permissions, result=result, summary=summary, **more
    )


_SET: Final = {"takes": dlp_profiles.ProfileSet}
_PAGE: Final = {"takes": Paging, "shape": Shape.PAGE}
DLP_PROFILES: Final = (
    _route("GET", _LIST, dlp_profiles.list_all, "List the DLP profiles, predefined ones first", **_PAGE),
    _route("POST", _LIST, dlp_profiles.create, "Create a DLP profile", **_SET),
    _route("GET", _ONE, dlp_profiles.get, "One DLP profile"),
    _route("PUT", _ONE, dlp_profiles.change, "Replace a DLP profile", **_SET),
    _route("DELETE", _ONE, dlp_profiles.delete, "Delete a DLP profile that no gateway names"),
)
