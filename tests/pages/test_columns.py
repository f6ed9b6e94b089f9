"""Columns of numbers are padded to one decimal point; nothing of what they say changes."""

import re

from markupsafe import Markup

from farebox.http.pages.columns import BEGIN, CONTENT, END, aligned


def rows(heading: str, *texts: str) -> Markup:
    return Markup("").join(
        Markup(f'<tr><td><div>n</div></td><td class="number"><div>{BEGIN}{heading}{CONTENT}{text}{END}</div></td></tr>')
        for text in texts
    )


def pad(text: str) -> Markup:
    return Markup(f'<i class="pad" data-pad="{text}"></i>')


def plain(made: Markup) -> str:
    """Without marks."""
    return re.sub(f"{BEGIN}[^<]*{CONTENT}|{END}", "", made)


def pads(shown: Markup) -> list[str]:
    """What is left empty behind each cell's number."""
    cells = re.findall(r'<td class="number"[^>]*><div>(.*?)</div></td>', shown, re.DOTALL)
    return [found[1] if (found := re.search(r'data-pad="([.0]*)"', cell)) else "" for cell in cells]


def test_shorter_numbers_are_padded_and_none_changed() -> None:
    made = rows("USD", "12.00", "0.0000175", "1,234", "−5.1", "+0.20", "(3.00)", "–", "")
    shown = aligned(made, pad)
    assert pads(shown) == ["00000", "", ".0000000", "000000", "00000", "00000", "", ""]
    assert re.sub(r'<i class="pad" data-pad="[.0]*"></i>', "", shown) == plain(made)
    assert isinstance(shown, Markup)
    assert '(3.00<i class="pad"' in shown


def test_a_link_stays_around_the_number() -> None:
    link = '<a href="/x">0.5<span class="unseen"> in May</span></a>'
    other = link.replace("0.5", "0.125").replace("May", "June")
    shown = aligned(rows("Spent", link, other), pad)
    assert pads(shown) == ["00", ""]
    assert '0.5<i class="pad" data-pad="00"></i><span' in shown


def test_a_number_is_not_parted_from_its_unit() -> None:
    for made in (rows("Time", "1 ms", "5.3 ms"), rows("Spent", '<a href="/x">0.5 USD</a>', "0.125 USD")):
        assert aligned(made, pad) == plain(made)


def test_columns_of_whole_numbers_or_of_different_units_stay_as_they_are() -> None:
    for made in (
        rows("Calls", "1", "1,000"),
        rows("Took", "154 ms", "1.2 s"),
        rows("Rate", "12.5 %", "3 %"),
        rows("Price", "as listed", "none"),
    ):
        assert aligned(made, pad) == plain(made)


def test_columns_are_apart() -> None:
    shown = aligned(rows("Calls", "7") + rows("USD", "0.5", "0.25"), pad)
    assert pads(shown) == ["", "0", ""]
