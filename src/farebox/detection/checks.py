"""Checks that distinguish real numbers and keys from text that only looks like one."""

from collections.abc import Callable
from typing import Final

from stdnum import iban as iban_number
from stdnum import luhn as luhn_digit
from stdnum.us import ssn

_IBAN_MIN, _IBAN_MAX = 15, 34


def luhn(text: str) -> bool:
    """Whether the last digit is the correct Luhn check digit."""
    return bool(luhn_digit.is_valid("".join(filter(str.isdecimal, text))))


def iban(text: str) -> bool:
    """Whether the text is an IBAN, or begins with one: words in capitals may follow it."""
    compact = "".join(filter(str.isalnum, text)).upper()
    turned = "".join(str(int(character, 36)) for character in compact[:4])
    digits = ""
    for at, character in enumerate(compact[4:_IBAN_MAX], 5):
        digits += str(int(character, 36))
        if at >= _IBAN_MIN and int(digits + turned) % 97 == 1 and _has_form(compact[:at]):
            return True
    return False


def _has_form(number: str) -> bool:
    """Whether its length and format are valid for its country."""
    return bool(iban_number.is_valid(number, check_country=False))


def us_ssn(text: str) -> bool:
    """Whether the number can have been assigned."""
    return bool(ssn.is_valid(text.replace(" ", "-")))


def phone(text: str) -> bool:
    """Whether the number is possible in the numbering plan of its country."""
    import phonenumbers  # its numbering plans are large, and few gateways look for phone numbers

    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(text, None))
    except phonenumbers.NumberParseException:
        return False


def openai(text: str) -> bool:
    """Whether a key that begins with `sk-` does not belong to another provider."""
    return not text.startswith(("sk-ant-", "sk-or-"))


CHECKS: Final[dict[str, Callable[[str], bool]]] = {
    "openai": openai,
    "luhn": luhn,
    "iban": iban,
    "us_ssn": us_ssn,
    "phone": phone,
}
