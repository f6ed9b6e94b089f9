"""HTML from functions: every text and every attribute is escaped here, and nothing else makes HTML."""

from collections.abc import Iterable
from html import escape
from typing import TypeAlias

Attribute: TypeAlias = str | int | bool | None


class Html(str):
    """Text that is HTML already. Made by this module alone: whoever makes one elsewhere answers for its escaping."""

    __slots__ = ()


Child: TypeAlias = str | int | Iterable["Child"] | None

_VOID = frozenset({"br", "hr", "input", "link", "meta"})
_ADDRESSES = frozenset({"href", "action"})
_ADDRESS_STARTS = ("/", "#", "https://", "http://")

NOTHING = Html("")


def text(child: Child) -> Html:
    """A child as HTML: Html stays as it is, other text is escaped, None is nothing, many are joined."""
    if child is None:
        return NOTHING
    if isinstance(child, Html):
        return child
    if isinstance(child, str | int):
        return Html(escape(str(child)))
    return Html("".join(text(item) for item in child))


def el(tag: str, *children: Child, **attributes: Attribute) -> Html:
    """An element. `class_` is `class`, `aria_label` is `aria-label`; True is a bare attribute, None and False are none.

    An address that is neither a path nor http(s), such as `javascript:…`, becomes `#`.
    """
    head = "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in _VOID:
        return Html(f"<{tag}{head}>")
    return Html(f"<{tag}{head}>{text(children)}</{tag}>")


def _attribute(name: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    if name in _ADDRESSES and not str(value).startswith(_ADDRESS_STARTS):
        value = "#"
    return f' {name}="{escape(str(value))}"'


def joined(*children: Child) -> Html:
    """Several children, one after another."""
    return text(children)
