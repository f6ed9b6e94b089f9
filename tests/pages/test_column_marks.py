"""Texts on pages that look like the marks of columns of numbers."""

import json
import re

import pytest

from farebox.http.pages.columns import BEGIN, CONTENT, END
from farebox.model import Role
from tests.engines import ON_BOTH_ENGINES
from tests.pages.people import person
from tests.support import Farebox

pytestmark = ON_BOTH_ENGINES


def cells(page: str, word: str) -> list[str]:
    """The columns of the table's row that has this word."""
    (row,) = [row for row in re.findall("<tr>.*?</tr>", page, re.DOTALL) if word in row]
    return re.findall('data-of="(.*?)"', row)


@pytest.mark.parametrize("text", ["odd\x02b", f"odd{BEGIN}b", f"odd{BEGIN}b{CONTENT}c{END}"])
def test_no_text_on_a_page_is_a_mark(farebox: Farebox, text: str) -> None:
    customer = farebox.funded("5")
    for value in (text, "plain"):
        assert customer.chat(headers={"cf-aig-metadata": json.dumps({"x": value})}).status_code == 200
    owner = person(farebox, Role.OWNER, customer.account_id)
    for path in ("/ui/calls", "/ui/usage?by=metadata.x"):
        page = owner.get(path).text
        assert cells(page, "odd") == cells(page, "plain")
        assert "USD" in cells(page, "odd")
        assert BEGIN not in page
