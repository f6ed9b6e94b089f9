"""What tells a number of some kind from digits that look like one."""

from collections.abc import Callable
from typing import Final

from stdnum import iban as iban_number
from stdnum import luhn as luhn_digit
from stdnum.us import ssn

_IBAN_MIN, _IBAN_MAX = 15, 34


def luhn(text: str) -> bool:
    """Whether the digits end with their check digit."""
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
    """Whether its length and form are those of its country."""
    return bool(iban_number.is_valid(number, check_country=False))


def us_ssn(text: str) -> bool:
    """Whether the number may have been assigned."""
    return bool(ssn.is_valid(text.replace(" ", "-")))


def phone(text: str) -> bool:
    """Whether there can be such a number in the numbering plan of its country."""
    import phonenumbers  # its plans of all countries are large, and few gateways look for phone numbers

    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(text, None))
    except phonenumbers.NumberParseException:
        return False


def openai(text: str) -> bool:
    """Whether a key that begins with `sk-` is none of another provider's."""
    return not text.startswith(("sk-ant-", "sk-or-"))


CHECKS: Final[dict[str, Callable[[str], bool]]] = {
    "openai": openai,
    "luhn": luhn,
    "iban": iban,
    "us_ssn": us_ssn,
    "phone": phone,
}
