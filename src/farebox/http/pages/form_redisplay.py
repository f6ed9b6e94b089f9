"""A page whose form was refused, with what was typed into it. Secrets and hidden values stay as the page has them."""

import re
from collections.abc import Mapping
from html import escape
from html.parser import HTMLParser

_forms = re.compile(r"<form .*?</form\W", re.DOTALL).finditer
_AS_IT_IS = frozenset({"hidden", "password", "submit", "button", "file"})
_OF_ONE_PAGE = frozenset({"csrf", "key"})
"""Hidden fields that differ each time the page is shown. The form has the new `key`: a refusal is final, and with the
old key it would be repeated."""
_TICKED = frozenset({"checkbox", "radio"})

Attributes = list[tuple[str, str | None]]


def redisplayed_form(page: str, path: str, sent: Mapping[str, str]) -> str | None:
    """The page with the values that were sent to this path in the form that they are from, which has
    the same hidden values. None if the page has no such form, or nothing can be typed into it."""
    forms = []
    for found in _forms(page):
        filler = _Filler(sent)
        filler.feed(found[0])
        filler.close()
        if path in filler.paths and filler.typed:
            forms.append((found.span(), filler))
    same = [each for each in forms if each[1].hidden <= sent.items()]
    if not same:
        return None
    (start, end), filler = same[0]
    return page[:start] + "".join(filler.out) + page[end:]


class _Filler(HTMLParser):
    """Repeats a form with other values."""

    def __init__(self, sent: Mapping[str, str]) -> None:
        super().__init__(convert_charrefs=False)
        self.out: list[str] = []
        self.paths: set[str] = set()
        """Where its buttons send it."""
        self.hidden: set[tuple[str, str]] = set()
        self.typed = False
        """Whether it has something to fill in."""
        self._sent = sent
        self._select = ""
        self._in_area = False

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        given = {name: value or "" for name, value in attrs}
        name, text = given.get("name", ""), self.get_starttag_text() or ""
        if tag == "form" and given.get("method") == "post":
            self.paths.add(_path(given.get("action", "")))
        elif tag == "button":
            self.paths.add(_path(given.get("formaction", "")))
        elif tag == "input":
            text = self._input(given, text)
        elif tag == "select":
            self._select, self.typed = name, True
        elif tag == "option" and self._select in self._sent:
            text = _marked(text, attrs, "selected", on=given.get("value") == self._sent[self._select])
        elif tag == "textarea":
            self.typed, self._in_area = True, name in self._sent
            text += f"\n{escape(self._sent[name])}" if self._in_area else ""
        self.out.append(text)

    def _input(self, given: dict[str, str], text: str) -> str:
        name, kind = given.get("name", ""), given.get("type", "text")
        if kind == "hidden" and name not in _OF_ONE_PAGE:
            self.hidden.add((name, given.get("value", "")))
        if kind in _AS_IT_IS:
            return text
        self.typed = True
        if kind in _TICKED:
            return _marked(text, list(given.items()), "checked", on=self._sent.get(name) == given.get("value", "on"))
        return _tag("input", {**given, "value": self._sent.get(name, given.get("value", ""))})

    def handle_endtag(self, tag: str) -> None:
        self._in_area = self._in_area and tag != "textarea"
        self.out.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if not self._in_area:
            self.out.append(data)

    def handle_entityref(self, name: str) -> None:
        self.handle_data(f"&{name};")

    def handle_charref(self, name: str) -> None:
        self.handle_data(f"&#{name};")


def _path(address: str) -> str:
    return address.partition("?")[0]


def _marked(text: str, attrs: Attributes, mark: str, *, on: bool) -> str:
    """The tag with or without a boolean attribute."""
    given = dict(attrs)
    if (mark in given) == on:
        return text
    given.pop(mark, None)
    return _tag(text[1:].split(maxsplit=1)[0], given | ({mark: None} if on else {}))


def _tag(name: str, given: Mapping[str, str | None]) -> str:
    written = (each if value is None else f'{each}="{escape(value)}"' for each, value in given.items())
    return f"<{' '.join((name, *written))}>"
