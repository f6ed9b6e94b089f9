"""Documents to PDF, by typst: in memory, without network, and without files except the templates of this package and
the fonts that are installed with it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import resources
from typing import Any, TypeAlias

import msgspec

from farebox.documents.content import CreditNote, Invoice, Statement
from farebox.documents.view import credit_note_view, invoice_view, statement_view

Content: TypeAlias = Invoice | CreditNote | Statement

_TEMPLATES: dict[type[Content], tuple[str, Callable[[Any], dict[str, Any]]]] = {
    Invoice: ("invoice.typ", invoice_view),
    CreditNote: ("credit_note.typ", credit_note_view),
    Statement: ("statement.typ", statement_view),
}
VIEW_BYTES_MAX = 1_000_000
_THREADS = ThreadPoolExecutor(max_workers=2, thread_name_prefix="farebox-documents")
"""Limited, because rendering competes with calls for CPU time."""


class DocumentTooLarge(ValueError):
    """The document is too large to be rendered."""


async def rendered(content: Content) -> bytes:
    """The document as PDF, made on a thread. Raises DocumentTooLarge."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, render, content)


def render(content: Content) -> bytes:
    """The document as PDF: the same content gives the same bytes. Takes tens of milliseconds. Raises
    DocumentTooLarge."""
    import typst  # 40 MB, loaded only when a document is rendered

    name, view = _TEMPLATES[type(content)]
    data = msgspec.json.encode(view(content))
    if len(data) > VIEW_BYTES_MAX:
        raise DocumentTooLarge(f"the document is {len(data)} bytes of text, above {VIEW_BYTES_MAX}")
    written_at = content.end if isinstance(content, Statement) else content.issued_at
    return typst.compile(
        _source(name),
        format="pdf",
        font_paths=_fonts(),
        sys_inputs={"data": data.decode()},
        timestamp=written_at // 1000,
    )


@cache
def _source(name: str) -> bytes:
    folder = resources.files("farebox.documents")
    return folder.joinpath("common.typ").read_bytes() + folder.joinpath(name).read_bytes()


@cache
def _fonts() -> Any:
    """typst's own fonts, and Noto for the scripts that those lack (common.typ says in which order). The system's fonts
    are used only for characters that none of these has, such as Tibetan."""
    import typst

    noto = [str(resources.files(package)) for package in ("manimgx_fonts", "manimgx_fonts_cjk")]
    return typst.Fonts(include_system_fonts=True, include_embedded_fonts=True, font_paths=noto)
