"""The forms of a page, as a browser would send them."""

from html.parser import HTMLParser


class FormReader(HTMLParser):
    """The forms of a page, with the fields that they would send unchanged."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.forms: list[dict[str, str]] = []
        self._inside, self._first = "", False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        name, value = found.get("name") or "", found.get("value") or ""
        if tag == "form":
            self.forms.append({"": found.get("action") or ""})
        elif tag == "input" and name and (found.get("type") != "checkbox" or "checked" in found):
            self.forms[-1][name] = value or ("on" if found.get("type") == "checkbox" else "")
        elif tag in ("select", "textarea"):
            self._inside, self._first = name, True
            self.forms[-1][name] = ""
        elif tag == "option" and ("selected" in found or self._first):
            self.forms[-1][self._inside] = value
            self._first = False

    def handle_data(self, data: str) -> None:
        if self._inside and self.lasttag == "textarea":
            self.forms[-1][self._inside] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            text = self.forms[-1][self._inside]
            self.forms[-1][self._inside] = text.removeprefix("\n")
        if tag in ("select", "textarea"):
            self._inside = ""


def form_of(page: str, **fields: str) -> dict[str, str]:
    """The fields that the form with these field names would send."""
    found = next(form for form in FormReader(page).forms if fields.items() <= form.items())
    return {name: text for name, text in found.items() if name not in ("", "csrf")}
