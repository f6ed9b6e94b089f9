"""The frame around every page, and the few shapes that pages are put together from."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from farebox.http.pages.markup import NOTHING, Child, Html, el, joined

Tone: TypeAlias = Literal["good", "bad", "warn"]

REFRESH_SECONDS = 3
"""How often a page looks again by itself, while something is under way."""


@dataclass(frozen=True, slots=True)
class Flash:
    """What came of the last form, told once at the top of the next page."""

    tone: Tone
    text: str


def document(title: str, *content: Child, top: Child = None, refresh: str | None = None) -> bytes:
    """A whole page. `refresh` is the content of a meta refresh: only for pages on which something is under way."""
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("title", f"{title} · Farebox"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="robots", content="noindex"),
        el("link", rel="icon", type="image/svg+xml", href="/billing/icon.svg"),
        el("link", rel="stylesheet", href="/billing/style.css"),
        el("meta", http_equiv="refresh", content=refresh) if refresh else NOTHING,
    )
    header = el("header", el("div", el("span", "Farebox", class_="brand"), top, class_="bar"))
    body = el(
        "body",
        el("a", "To the content", href="#content", class_="skip"),
        header,
        el("main", *content, id="content", tabindex="-1"),
    )
    return ("<!doctype html>" + el("html", head, body, lang="en")).encode()


def again(seconds: int = REFRESH_SECONDS) -> str:
    """A meta refresh of the same page."""
    return str(seconds)


def onward(url: str) -> str:
    """A meta refresh that goes to another page at once."""
    return f"0;url={url}"


def said(note: Flash | None) -> Html:
    """The note at the top of a page; read aloud by screen readers when the page opens."""
    if note is None:
        return NOTHING
    role = "status" if note.tone == "good" else "alert"
    return el("p", note.text, class_=f"note {note.tone}", role=role)


def notice(tone: Tone, *content: Child) -> Html:
    """A lasting note on something that wants attention."""
    return el("p", *content, class_=f"note {tone}")


def section(name: str, title: str, *content: Child, wide: bool = False) -> Html:
    """A part of the page under a heading."""
    heading = el("h2", title, id=f"{name}-title")
    return el("section", heading, *content, id=name, class_="wide" if wide else None, aria_labelledby=f"{name}-title")


def badge(tone: str, text: str) -> Html:
    """A state in words on a coloured label."""
    return el("span", text, class_=f"badge {tone}")


def post(action: str, csrf: str, *content: Child, class_: str | None = None) -> Html:
    """A form that changes something."""
    token = el("input", type="hidden", name="csrf", value=csrf)
    return el("form", token, *content, method="post", action=action, class_=class_)


def hidden(name: str, value: str) -> Html:
    return el("input", type="hidden", name=name, value=value)


def button(label: str, *, quiet: bool = False, danger: bool = False, about: str | None = None) -> Html:
    """A submit button. `about` completes the label for those who cannot see what stands beside it."""
    kind = "danger" if danger else "quiet" if quiet else None
    return el("button", label, el("span", f" {about}", class_="unseen") if about else None, type="submit", class_=kind)


def money_field(
    name: str, label: str, value: str, *, low: str, high: str, hint: Child = None, required: bool = True
) -> Html:
    """An amount of US dollars. The browser checks the range; the server checks it again."""
    described = f"{name}-hint" if hint is not None else None
    box = el(
        "span",
        el("span", "USD", aria_hidden="true"),
        el(
            "input",
            type="number",
            id=name,
            name=name,
            value=value,
            min=low,
            max=high,
            step="0.01",
            inputmode="decimal",
            required=required,
            aria_describedby=described,
        ),
        class_="money",
    )
    return el(
        "div",
        el("label", label, el("span", " in US dollars", class_="unseen"), for_=name),
        box,
        el("p", hint, id=described, class_="hint") if hint is not None else None,
        class_="field",
    )


def choice(name: str, label: str, options: Iterable[tuple[str, str]], chosen: str) -> Html:
    """One of a few values (value, label)."""
    made = [el("option", text, value=value, selected=value == chosen) for value, text in options]
    return el("div", el("label", label, for_=name), el("select", *made, id=name, name=name), class_="field")


def text_field(name: str, label: str, value: str, *, kind: str = "text", autocomplete: str, size: int = 200) -> Html:
    """A line of text that may stay empty."""
    box = el("input", type=kind, id=name, name=name, value=value, maxlength=size, autocomplete=autocomplete)
    return el("div", el("label", label, for_=name), box, class_="field")


def sure(label: str, about: str, form: Html) -> Html:
    """Something that is not undone by another click: the button shows only after the first one."""
    summary = el("summary", label, el("span", f" {about}", class_="unseen"))
    return el("details", summary, form, class_="sure")


def table(caption: str, headings: list[tuple[str, bool]], rows: list[list[Child]]) -> Html:
    """A table; a heading is (text, whether its column holds numbers). The first column names the row."""
    head = el("tr", *(el("th", text, scope="col", class_="number" if number else None) for text, number in headings))
    body = [
        el(
            "tr",
            *(
                el("td", el("div", cell), class_="number" if number else None, data_of=heading)
                for cell, (heading, number) in zip(row, headings, strict=True)
            ),
        )
        for row in rows
    ]
    inner = el("table", el("caption", caption, class_="unseen"), el("thead", head), el("tbody", *body))
    return el("div", inner, class_="table", tabindex="0", role="region", aria_label=caption)


def empty(text: str) -> Html:
    return el("p", text, class_="empty")


def definition(*pairs: tuple[str, Child]) -> Html:
    """Names with their values."""
    return el("dl", *(joined(el("div", el("dt", name), el("dd", value))) for name, value in pairs))
