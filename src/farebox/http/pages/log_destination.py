"""The destination of the account's logs, and the state of deliveries."""

from collections.abc import Mapping
from typing import Any

from farebox.http.control import log_destination as api
from farebox.http.envelope import Response
from farebox.http.pages.fields import Field, FieldGroup, Values, shown, values_of
from farebox.http.pages.own_api import invoke, submit
from farebox.http.pages.table import Fields, Shown, shell
from farebox.http.pages.visit import Visit
from farebox.http.validation import InvalidInput

SECTION = "/ui/gateways"
# fmt: off
_HTTP = (
    Field(name="type", label="Type", kind="choice",
          options={"http": "endpoint that receives files by POST", "s3": "bucket of an S3-compatible store"}),
    Field(name="url", label="URL", hint="The URL of the endpoint or store, such as "
        "https://s3.eu-central-1.amazonaws.com."),
    Field(name="headers", label="Headers", kind="pairs", wide=True,
          hint="For an endpoint, one per line: Name: value. Stored "
              "values show only their ends; unchanged, they are kept."),
)
_S3 = (
    Field(name="bucket", label="Bucket"),
    Field(name="region", label="Region"),
    Field(name="prefix", label="Prefix", hint="Put before the file names."),
    Field(name="access_key_id", label="Access key ID"),
    Field(name="secret_access_key", label="Secret access key", hint="Only its end is shown; unchanged, it is kept."),
)
# fmt: on


def _body(form: Mapping[str, str]) -> dict[str, Any]:
    sent = {name: value for name, value in values_of((*_HTTP, *_S3), form).items() if value}
    return {"type": "http", "url": ""} | sent


_DESTINATION = FieldGroup(name="destination", title="Destination", fields=lambda _: (*_HTTP, *_S3), body=_body)


async def destination(visit: Visit) -> Shown:
    return await _shown(visit)


async def _shown(visit: Visit, sent: tuple[Values, InvalidInput] | None = None) -> Shown:
    """The page's content. `sent`: what was refused, and why."""
    found = await invoke(visit, api.get)
    return {
        "title": "Log destination",
        "found": found,
        "settings": shown(_DESTINATION, *(sent or (found["destination"] or {},))),
        "failed": sent is not None,
    }


async def put(visit: Visit, form: Fields) -> Response | str:
    body = _body(form)
    try:
        await submit(visit, api.put, api.LogDestinationSet, body)
    except InvalidInput as error:
        return shell(visit, "log_destination.html", await _shown(visit, (body, error)), SECTION)
    return "The destination has been set. Now switch pushing on in the settings of each gateway that should use it."


async def delete(visit: Visit, _: Fields) -> str:
    await invoke(visit, api.delete)
    return "Deleted the destination."
