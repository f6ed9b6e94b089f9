"""Navigation by keyboard, without a mouse."""

import re

from playwright.sync_api import Page

_NAME_OF_FOCUS = """() => {
    const it = document.activeElement;
    if (it === document.body) return "";
    const labels = [...(it.labels ?? [])].map(label => label.textContent).join(" ");
    return (labels || it.getAttribute("aria-label") || it.textContent).trim().replace(/\\s+/g, " ");
}"""


def tab_to(page: Page, name: re.Pattern[str]) -> None:
    """Press Tab until an element with that name has the focus, which must be visible."""
    if name.search(page.evaluate(_NAME_OF_FOCUS)):
        return
    for _ in range(120):
        page.keyboard.press("Tab")
        if name.search(page.evaluate(_NAME_OF_FOCUS)):
            outline = page.evaluate(
                "[document.activeElement, document.activeElement.parentElement]"
                ".map(it => getComputedStyle(it).outlineStyle)"
            )
            assert any(style != "none" for style in outline), f"no focus ring on {name.pattern}"
            return
    raise AssertionError(f"Tab does not reach {name.pattern}")
