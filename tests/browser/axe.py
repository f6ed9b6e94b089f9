"""Checks the accessibility of a page with axe-core.

Nine tenths of its time go into the contrast of texts, which depends on the styles of the element and those around it.
Many elements share their styles, so the contrast is checked only for the first of them, on whichever page it is.
"""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

_AXE = Axe()
_RUN = r"""async known => {
    document.getAnimations().forEach(it => it.cancel());  // colors that are still changing to another mode
    const seen = new Set(known), behind = new Map([[null, ""]]);
    const backgroundOf = it => {
        if (!behind.has(it)) {
            const names = ["backgroundColor", "backgroundImage",
                "opacity", "filter", "mixBlendMode", "position", "clipPath"];
            const own = names.map(name => getComputedStyle(it)[name]).join(";");
            const plain = own === "rgba(0, 0, 0, 0);none;1;none;normal;static;none";
            behind.set(it, backgroundOf(it.parentElement) + (plain ? "" : "/" + own));
        }
        return behind.get(it);
    };
    for (const it of document.body.querySelectorAll("*")) {
        it.removeAttribute("data-first");
        const texts = [...it.childNodes].filter(node => node.nodeType === Node.TEXT_NODE);
        const text = texts.map(node => node.data).join("");
        const isField = it.matches("input, select, textarea");
        const shown = it.checkVisibility({opacityProperty: true, visibilityProperty: true});
        if (!shown || !(text.trim() || isField)) continue;
        const style = getComputedStyle(it);
        const own = ["color", "fontSize", "fontWeight", "textShadow"].map(name => style[name]);
        const disabled = (it.closest("label")?.control ?? it).matches(":disabled, [aria-disabled=true]");
        const key = [isField, /\w\w/.test(text), disabled, ...own, backgroundOf(it)].join();
        it.toggleAttribute("data-first", !seen.has(key));
        seen.add(key);
    }
    axe.configure({rules: [{id: "color-contrast", selector: "[data-first]"}]});
    const {violations} = await axe.run({resultTypes: ["violations"]});
    return {violations, seen: [...seen]};
}"""


def faults_of(page: Page, seen: set[str] | None = None) -> list[str]:
    """The violations that axe-core finds, one line each. `seen`: the styles of texts whose contrast has been checked;
    those of this page are added."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(_AXE.axe_script)
    found = page.evaluate(_RUN, sorted(seen or ()))
    if seen is not None:
        seen.update(found["seen"])
    return [
        f"{each['id']}: {node['html'][:200]} {node['failureSummary'][:200]}"
        for each in found["violations"]
        for node in each["nodes"]
    ]
