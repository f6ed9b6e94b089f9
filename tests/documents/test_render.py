"""The content of PDF pages, read back by another program."""

import io
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from pypdf import PdfReader
from pypdf.generic import ByteStringObject, ContentStream, TextStringObject

from farebox.documents.content import (
    CreditNote,
    DocumentLine,
    Invoice,
    MovementSum,
    Party,
    Statement,
    TaxLine,
    UsageLine,
)
from farebox.documents.render import Content, DocumentTooLarge, render, rendered
from farebox.documents.view import clean, decimals_for, usd

AT = 1_795_350_000_000  # 22 November 2026
SELLER = Party(
    name="Example Gateways GmbH",
    address=("Hauptstraße 1", "10115 Berlin"),
    country="DE",
    tax_id="DE123456789",
    email="billing@example.com",
)
CUSTOMER = Party(name="Acme SARL", address=("1 rue Ampère", "75017 Paris"), country="FR", tax_id="FR40303265045")
INVOICE = Invoice(
    number="FB-2026-000001",
    issued_at=AT,
    paid_at=AT,
    account_id="acme",
    seller=SELLER,
    customer=CUSTOMER,
    lines=(DocumentLine("Prepaid credit", 123_456), DocumentLine("Service fee", 250)),
    tax=TaxLine("VAT", 190_000, 23_505),
    total_cents=147_211,
    card_brand="visa",
    card_last4="4242",
    payment_reference="in_1QxyzAbCdEf",
)
CREDIT_NOTE = CreditNote(
    number="FB-CN-2026-000001",
    issued_at=AT,
    account_id="acme",
    seller=SELLER,
    customer=CUSTOMER,
    invoice_number="FB-2026-000001",
    invoice_issued_at=AT,
    lines=(DocumentLine("Prepaid credit", 2_500),),
    tax=None,
    total_cents=2_500,
    credit_cents=2_500,
    reason="asked by the customer",
    payment_reference="re_1",
)


def made_statement(usage: tuple[UsageLine, ...], **changes: Any) -> Statement:
    used = sum(line.charge_nanos for line in usage)
    made = Statement(
        account_id="acme",
        month="2026-10",
        start=1_790_812_800_000,
        end=1_793_491_200_000,
        made_at=AT,
        final=True,
        seller=SELLER,
        customer=CUSTOMER,
        opening_nanos=12_340_000_000,
        movements=(MovementSum("bought", 50_000_000_000), MovementSum("charged", -used)),
        closing_nanos=62_340_000_000 - used,
        usage=usage,
        shifted_nanos=0,
    )
    return msgspec.structs.replace(made, **changes)


@dataclass(frozen=True)
class Page:
    text: str
    words: str
    """The same text in one line."""
    count: int
    width: float


def read_back(pdf: bytes) -> Page:
    reader = PdfReader(io.BytesIO(pdf))
    text = "\n".join(page.extract_text() for page in reader.pages)
    return Page(text, " ".join(text.split()), len(reader.pages), float(reader.pages[0].mediabox.width))


def test_an_invoice_has_all_required_fields() -> None:
    page = read_back(render(INVOICE))
    assert page.count == 1
    assert abs(page.width - 595) < 1  # A4
    for fact in (
        "Invoice number FB-2026-000001", "Invoice date 22 November 2026", "Account acme", "Acme SARL", "1 rue Ampère",
        "75017 Paris", "Tax id: FR40303265045", "Example Gateways GmbH", "Hauptstraße 1", "Tax id: DE123456789",
        "Prepaid credit 1,234.56", "Service fee 2.50", "Subtotal 1,237.06", "VAT 19 % 235.05", "Total USD 1,472.11",
        "Paid by Visa •• 4242 on 22 November 2026.", "Payment reference: in_1QxyzAbCdEf",
    ):  # fmt: skip
        assert fact in page.words, f"{fact} is not in {page.words}"
    assert "Reverse charge" not in page.words


def test_a_reverse_charge_is_stated() -> None:
    tax = TaxLine("VAT", 190_000, 0, reverse_charge=True)
    page = read_back(render(msgspec.structs.replace(INVOICE, tax=tax, total_cents=123_706)))
    assert "VAT 0 % (reverse charge) 0.00" in page.words
    assert "Reverse charge: VAT is to be accounted for by the customer." in page.words
    assert "Total USD 1,237.06" in page.words


def test_an_invoice_without_tax_has_no_tax_line() -> None:
    page = read_back(render(msgspec.structs.replace(INVOICE, tax=None, total_cents=123_706)))
    assert "VAT" not in page.words
    assert "%" not in page.words


def test_a_credit_note_names_its_invoice() -> None:
    page = read_back(render(CREDIT_NOTE))
    for fact in (
        "Credit note number FB-CN-2026-000001", "For invoice FB-2026-000001 of 22 November 2026",
        "Total credited USD 25.00", "USD 25.00 of prepaid credit was taken for it.", "Reason: asked by the customer",
    ):  # fmt: skip
        assert fact in page.words, f"{fact} is not in {page.words}"


def test_a_statement_shows_the_sums_exactly() -> None:
    usage = (
        UsageLine("openai", "gpt-5-mini", 1_234, 5_000_000, 70_000, 17_500_001),
        UsageLine("anthropic", "claude-sonnet-4-5", 5, 10, 20, 3_000_000_000),
    )
    made = made_statement(
        usage,
        movements=(MovementSum("bought", 50_000_000_000), MovementSum("charged", -3_017_499_000)),
        closing_nanos=59_322_501_000,
        shifted_nanos=-1_001,
    )
    page = read_back(render(made))
    for fact in (
        "Month October 2026 (UTC)", "Opening balance, 1 October 2026 12.340000000", "Credit bought 50.000000000",
        "Charges −3.017499000", "Closing balance, 31 October 2026 USD 59.322501000",
        "anthropic claude-sonnet-4-5 5 10 20 3.000000000", "openai gpt-5-mini 1,234 5,000,000 70,000 0.017500001",
        "Usage 3.017500001", "Calls that began in one month and were charged in another −0.000001001",
        "Charges USD 3.017499000",
    ):  # fmt: skip
        assert fact in page.words, f"{fact} is not in {page.words}"
    assert "not final" not in page.words


def test_a_statement_of_the_running_month_is_marked() -> None:
    page = read_back(render(made_statement((), final=False, movements=(), closing_nanos=12_340_000_000)))
    assert "No calls were charged in this month." in page.words
    assert "Balance so far USD 12.34" in page.words
    assert "The month's figures are not final yet." in page.words


HOSTILE = (
    '#import "@preview/evil:1.0.0"',
    '#read("/etc/passwd") #panic()',
    "]] } $ x $ _it_ *bold* `raw` // gone /* gone */",
    "quotes \" ' “ ” \\ \\u{41} &amp; <b>",
    "= heading",
    "Ångström Ελληνικά Кириллица ﬁn—dash",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_external_text_stays_text(text: str) -> None:
    evil = Party(name=text, address=(text, text), country=text, tax_id=text, email=text)
    model = UsageLine(text, text, 1, 1, 1, 1)
    for content in (
        msgspec.structs.replace(INVOICE, customer=evil, seller=evil, payment_reference=text),
        msgspec.structs.replace(CREDIT_NOTE, customer=evil, reason=text, invoice_number=text),
        made_statement((model,), customer=evil),
    ):
        page = read_back(render(content))
        shown = "".join(page.text.split()).replace("\u200b", "").replace("fi", "ﬁ")
        assert "".join(text.split()).replace("fi", "ﬁ") in shown, f"{text} is not in {page.text}"


# --- scripts ----------------------------------------------------------------------------------------------------------

NAMES = (
    "株式会社サンプル 東京都千代田区丸の内", "示例科技有限公司 北京市朝阳区", "範例股份有限公司 臺北市",
    "주식회사 예시 서울특별시",
    "شركة المثال المحدودة دبي", "شرکت نمونهٔ می‌رود تهران", "דוגמה בע״מ תל אביב", "उदाहरण प्राइवेट लिमिटेड मुंबई",
    "উদাহরণ লিমিটেড", "ઉદાહરણ લિમિટેડ", "ਉਦਾਹਰਨ ਲਿਮਿਟਡ", "ಉದಾಹರಣೆ ಲಿಮಿಟೆಡ್", "ഉദാഹരണം ലിമിറ്റഡ്", "ଉଦାହରଣ ଲିମିଟେଡ",
    "උදාහරණ ශ්‍රී ලංකා", "எடுத்துக்காட்டு நிறுவனம்", "ఉదాహరణ లిమిటెడ్", "บริษัท ตัวอย่าง จำกัด", "ບໍລິສັດ ຕົວຢ່າງ",
    "ក្រុមហ៊ុន ឧទាហរណ៍", "ဥပမာ ကုမ္ပဏီ", "Օրինակ ՍՊԸ", "მაგალითი შპს", "ምሳሌ ኃላፊነቱ", "Công ty Ví Dụ Đồng Nai", "Łódź Ğüneş Ő",
    "Пример ЄҐЇ", "Παράδειγμα Ἀθῆναι", "½ № ™ ☎ ✓ ☕ 😀",
)  # fmt: skip


def drawn(pdf: bytes) -> tuple[set[str], int]:
    """The fonts of a PDF, and the number of missing glyphs: those with number 0, shown as an empty box."""
    fonts: set[str] = set()
    missing = 0
    reader = PdfReader(io.BytesIO(pdf))
    for page in reader.pages:
        resources: Any = page["/Resources"]
        fonts |= {str(font.get_object()["/BaseFont"]).partition("+")[2] for font in resources["/Font"].values()}
        contents = page.get_contents()
        assert contents is not None
        for operands, operator in ContentStream(contents, reader).operations:
            texts = operands[0] if operator == b"TJ" else operands if operator == b"Tj" else ()
            for text in texts:
                if isinstance(text, ByteStringObject | TextStringObject):
                    glyphs = text.original_bytes  # two bytes each
                    missing += sum(glyphs[at : at + 2] == b"\0\0" for at in range(0, len(glyphs), 2))
    return fonts, missing


def test_names_and_addresses_are_legible_in_every_script() -> None:
    assert drawn(render(billed_to("Plain")))[1] == 0
    assert drawn(render(billed_to("\U000e0fff ᚠ \U00016f00")))[1] > 0  # a script that no installed font covers
    for name in NAMES:
        fonts, missing = drawn(render(billed_to(name)))
        assert missing == 0, f"{name} has empty boxes"
        foreign = {font for font in fonts if not font.startswith(("LibertinusSerif", "NotoSans", "NotoEmoji"))}
        assert not foreign, f"{name} uses fonts of this machine"


def billed_to(name: str, country: str = "") -> Invoice:
    """An invoice whose seller and buyer have this name and country."""
    party = Party(name=name, address=(name,), country=country)
    return msgspec.structs.replace(INVOICE, customer=party, seller=party)


@pytest.mark.parametrize(
    ("country", "name", "shapes"),
    [("JP", "直骨", "jp"), ("TW", "直骨", "tc"), ("CN", "直骨", "sc"), ("", "直の", "jp"), ("", "韓 주", "kr")],
)
def test_chinese_characters_have_the_shapes_of_the_country(country: str, name: str, shapes: str) -> None:
    fonts, _ = drawn(render(billed_to(name, country)))
    assert {font.partition("NotoSansCJK")[2][:2] for font in fonts} - {""} == {shapes}


@pytest.mark.parametrize("word", ["שלום", "مرحبا"])
def test_right_to_left_lines_are_set_right_to_left(word: str) -> None:
    places: dict[str, float] = {}

    def note(text: str, matrix: list[float], text_matrix: list[float], *_: object) -> None:
        for part in ("77", "99"):
            if part in text:
                places.setdefault(part, matrix[4] + text_matrix[4])

    party = Party(name="Acme", address=(f"77 {word} 99",))
    page = PdfReader(io.BytesIO(render(msgspec.structs.replace(INVOICE, customer=party)))).pages[0]
    page.extract_text(visitor_text=note)
    assert places["77"] > places["99"]


def test_deceptive_text_is_cleaned() -> None:
    assert clean("a\u202eevil\x00\x1b[31m\n\tb") == "aevil[31m b"
    assert clean("x" * 300)[-1] == "…"
    assert len(clean("x" * 300).replace("\u200b", "")) == 200
    wide = Party(name="W" * 190, address=("M" * 190,) * 50)
    page = read_back(render(msgspec.structs.replace(INVOICE, customer=wide)))
    assert page.count <= 2


def test_a_thousand_models_make_pages_and_the_rest_is_summed_up() -> None:
    usage = tuple(UsageLine("openai", f"model-{n:04d}", 1, 1, 1, 1_000_000 + n) for n in range(1_200))
    page = read_back(render(made_statement(usage)))
    assert 15 < page.count < 80
    assert "200 further models 0.200019900" in page.words
    assert "model-1199" in page.words
    assert "model-0199" not in page.words
    assert f"Page {page.count} of {page.count}" in page.words


@pytest.mark.parametrize("content", [INVOICE, CREDIT_NOTE, made_statement(())], ids=lambda item: type(item).__name__)
async def test_the_same_content_gives_the_same_bytes(content: Content) -> None:
    assert render(content) == await rendered(content)


def test_a_document_that_is_too_large_is_refused() -> None:
    with pytest.raises(DocumentTooLarge):
        render(msgspec.structs.replace(INVOICE, lines=(DocumentLine("x" * 190, 1),) * 6_000))


def test_amounts_are_written_exactly() -> None:
    assert usd(-1_234_500_000_001, 9) == "−1,234.500000001"
    assert usd(5_000_000_000, 2) == "5.00"
    assert decimals_for([5_000_000_000, 17_500]) == 7
    assert decimals_for([]) == 2
