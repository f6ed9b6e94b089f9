"""The account's own DLP profiles: keywords and patterns that gateways can look for, in addition to the predefined
ones."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from farebox.detection.own_profiles import ENTRIES_MAX
from farebox.errors import NOT_FOUND, Problem
from farebox.http.control import dlp_profiles as api
from farebox.http.control.wire import Paging
from farebox.http.envelope import Response
from farebox.http.pages.fields import Field, ShownGroup, Values, group, shown, values_of
from farebox.http.pages.own_api import all_items, invoke, submit
from farebox.http.pages.table import Fields, Shown, redirect_with_note, shell
from farebox.http.pages.view import Flash
from farebox.http.pages.visit import Visit
from farebox.http.validation import InvalidInput

LIST = "/ui/dlp-profiles"
SECTION = "/ui/gateways"
_MORE = 3
"""Empty entries in a form."""

_ABOUT = (
    Field(name="name", label="Name"),
    Field(name="description", label="Description"),
)


def _entry(number: int) -> tuple[Field, ...]:
    place = f"entries.{number}"
    return (
        Field(name=f"{place}.name", label=f"Name of entry {number + 1}"),
        Field(
            name=f"{place}.keyword",
            label="Keyword",
            hint="Matches whole words; upper and lower case are treated alike.",
        ),
        Field(name=f"{place}.regex", label="Or a pattern", hint="A regular expression in RE2 syntax."),
        Field(name=f"{place}.id", label="ID", hint="It appears in findings. Leave empty to generate one."),
        Field(name=f"{place}.enabled", label="Enabled", kind="switch"),
    )


def _body(form: Mapping[str, str]) -> dict[str, Any]:
    entries = []
    for number in range(ENTRIES_MAX):
        sent = values_of(_entry(number), form)
        regex = sent.pop("regex")
        if sent["name"] or sent["keyword"] or regex:
            given = {name: value for name, value in sent.items() if value is not None}
            entries.append({"name": "", **given, **({"pattern": {"regex": regex}} if regex else {})})
    return values_of(_ABOUT, form) | {"name": form.get("name", "").strip(), "entries": entries}


def _form(values: Values, error: InvalidInput | None = None) -> ShownGroup:
    """The form, with the pattern of each entry beside its keyword, and with further empty entries."""
    entries = [_flat(entry) for entry in values.get("entries") or ()]
    entries = [*entries, *({"enabled": True} for _ in range(_MORE))][:ENTRIES_MAX]
    fields = (*_ABOUT, *(field for number in range(len(entries)) for field in _entry(number)))
    return shown(group("profile", "Profile", *fields), {**values, "entries": entries}, error and _at_fields(error))


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry as form values; fields that the API omits are empty."""
    return {"enabled": True, **entry, "regex": (entry.get("pattern") or {}).get("regex")}


async def profile_list(visit: Visit) -> Shown:
    return await _list(visit, {})


async def _list(visit: Visit, values: Values, error: InvalidInput | None = None) -> Shown:
    return {
        "title": "DLP profiles",
        "profiles": await all_items(visit, api.list_all, Paging()),
        "create": _form(values, error),
        "failed": error is not None,
    }


async def profile(visit: Visit) -> Shown:
    found = await _profile(visit)
    return {"title": found["name"], "profile": found, "settings": _form(found), "failed": False}


async def _profile(visit: Visit) -> dict[str, Any]:
    """The profile in the path. Raises Problem (NOT_FOUND)."""
    found: dict[str, Any] = await invoke(visit, api.get, profile_id=visit.request.path["profile_id"])
    if found["type"] != "custom":
        raise Problem(NOT_FOUND, "A predefined profile cannot be changed")
    return found


async def create(visit: Visit, form: Fields) -> Response:
    body = _body(form)
    try:
        made = await submit(visit, api.create, api.ProfileSet, body)
    except InvalidInput as error:
        return shell(visit, "dlp_profiles.html", await _list(visit, body, error), SECTION)
    return redirect_with_note(
        visit, LIST, Flash("good", f"Created the profile {made['name']}: gateways can use it now.")
    )


async def change(visit: Visit, form: Fields) -> Response | str:
    body, found = _body(form), await _profile(visit)
    try:
        await submit(visit, api.change, api.ProfileSet, body, profile_id=found["id"])
    except InvalidInput as error:
        given = {"profile": found, "settings": _form(body, error), "failed": True}
        return shell(visit, "dlp_profile.html", {"title": found["name"], **given}, SECTION)
    return "Saved the profile."


def _at_fields(error: InvalidInput) -> InvalidInput:
    """Faults that the API reports inside a pattern are shown at the pattern."""
    faults = [replace(fault, path=tuple(each for each in fault.path if each != "pattern")) for fault in error.faults]
    return InvalidInput(faults)


async def delete(visit: Visit, _: Fields) -> Response:
    gone = await invoke(visit, api.delete, profile_id=visit.request.path["profile_id"])
    return redirect_with_note(visit, LIST, Flash("good", f"Deleted the profile {gone['name']}."))
