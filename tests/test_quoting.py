"""How messages quote what was entered."""

from farebox.quoting import QUOTED_MAX, quoted


def test_input_is_quoted_as_it_was_typed() -> None:
    assert quoted("it's 5") == "“it's 5”"
    assert quoted("größer \\n") == "“größer \\n”"
    assert quoted("a\x1b[31m\nb") == "“a\ufffd[31m\ufffdb”"


def test_long_input_is_cut() -> None:
    assert quoted("x" * QUOTED_MAX) == f"“{'x' * QUOTED_MAX}”"
    assert quoted("x" * 10**6) == f"“{'x' * QUOTED_MAX}…”"
