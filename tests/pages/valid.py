"""Checks the HTML of a page with a parser, and its internal references."""

import html5lib
from html5lib.html5parser import ParseError

_PARSER = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
_LABELED = ("button", "input", "meter", "select", "textarea")
_REFERENCES = ("aria-labelledby", "aria-describedby", "aria-controls", "aria-details")


def faults_of(page: str) -> list[str]:
    """Errors of the page, as text; empty if it is valid."""
    try:
        tree = _PARSER.parse(page)
    except ParseError as error:
        return [f"{error} at {_PARSER.errors[-1][0]}"]
    elements = [each for each in tree.iter() if isinstance(each.tag, str)]
    names = [each.get("id") for each in elements if each.get("id") is not None]
    found = [f"two elements are called {name!r}" for name in sorted({name for name in names if names.count(name) > 1})]
    labeled = {each.get("id") for each in elements if each.tag in _LABELED}
    for each in elements:
        if each.tag == "label" and "for" in each.attrib and each.get("for") not in labeled:
            found.append(f"a label is for {each.get('for')!r}, which is no field")
        named = [name for attribute in _REFERENCES for name in each.get(attribute, "").split()]
        found += [f"<{each.tag}> refers to {name!r}, which is not there" for name in named if name not in names]
    return found
