"""The profiles that every account has: sensitive data by its format, verified by check digits where there are any.

Patterns are RE2's. Each begins and ends at a word boundary, so that it finds nothing inside longer numbers.
"""

from typing import Final

import msgspec


class Detector(msgspec.Struct, frozen=True):
    """An entry of a profile."""

    entry_id: str
    pattern: str
    """A regular expression in RE2's syntax, matched against UTF-8."""
    check: str = ""
    """The name of a check that a match must pass (screening.checks); empty: none."""
    at_least: int = 0
    """Minimum length of a match in bytes."""


class Profile(msgspec.Struct, frozen=True):
    """A group of detectors that are switched on together."""

    profile_id: str
    detectors: tuple[Detector, ...]


_GAP: Final = r"[ .\x{a0}-]?"


def _card(network: str, prefix: str, digits: str) -> Detector:
    """`digits`: how many digits follow the prefix, as a repetition; each may be preceded by a separator."""
    return Detector(network, rf"\b{prefix}(?:{_GAP}\d){digits}\b", "luhn")


PAYMENT_CARDS: Final = Profile(
    "payment_cards",
    (
        Detector("visa", rf"\b4(?:{_GAP}\d){{12}}(?:(?:{_GAP}\d){{3}}){{0,2}}\b", "luhn"),
        _card("mastercard", "(?:5[1-5]|2[2-7])", "{14}"),
        _card("american_express", "3[47]", "{13}"),
        _card("discover", r"6(?:011|4[4-9]\d|5\d\d)", "{12,15}"),
        _card("diners_club", r"3(?:0[0-5]|[689]\d)", "{11}"),
        _card("jcb", r"35(?:2[89]|[3-8]\d)", "{12,15}"),
        _card("unionpay", "62", "{14,17}"),
    ),
)
IBAN: Final = Profile(
    "iban",
    (
        Detector(
            "iban",
            r"\b(?:[A-Za-z]{2}\d{2}[A-Za-z0-9]{11,30}"
            r"|[A-Z]{2}\d{2}(?:[ \x{a0}-][A-Z0-9]{4}){2,7}(?:[ \x{a0}-][A-Z0-9]{1,4})?)\b",
            "iban",
        ),
    ),
)
EMAIL_ADDRESSES: Final = Profile(
    "email_addresses",
    (Detector("email_address", r"[A-Za-z0-9._%+-]+@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}\b"),),
)
US_SSN: Final = Profile("us_ssn", (Detector("us_ssn", r"\b\d{3}[ -]\d{2}[ -]\d{4}\b", "us_ssn"),))
PHONE_NUMBERS: Final = Profile(
    "phone_numbers", (Detector("international", r"\+\d(?:[ ./()\x{a0}-]{0,2}\d){6,14}\b", "phone"),)
)
"""Only in international notation: without the country, a phone number cannot be told from other numbers."""
API_KEYS: Final = Profile(
    "api_keys",
    (
        Detector("farebox", r"\bfbx_[A-Za-z0-9_-]+", at_least=24),
        Detector("openai", r"\bsk-(?:proj-|svcacct-|admin-|None-)?[A-Za-z0-9_]+[A-Za-z0-9_-]*", "openai", at_least=43),
        Detector("anthropic", r"\bsk-ant-[A-Za-z0-9_-]+", at_least=50),
        Detector("openrouter", r"\bsk-or-v1-[a-f0-9]+\b", at_least=73),
        Detector("google", r"\bAIza[A-Za-z0-9_-]+", at_least=39),
        Detector("aws", r"\b(?:AKIA|ASIA)[A-Z2-7]+\b", at_least=20),
        Detector("github", r"\b(?:gh[pousr]|github_pat)_[A-Za-z0-9_]+\b", at_least=40),
        Detector("gitlab", r"\bglpat-[A-Za-z0-9_-]+", at_least=26),
        Detector("stripe", r"\b(?:[rs]k_(?:live|test)|whsec)_[A-Za-z0-9+/]+", at_least=24),
        Detector("slack", r"\b(?:xox[abeoprs]|xapp)-[A-Za-z0-9-]+", at_least=20),
        Detector("slack_webhook", r"\bhooks\.slack\.com/services/[A-Za-z0-9/]+", at_least=44),
        Detector("groq", r"\bgsk_[A-Za-z0-9]+", at_least=44),
        Detector("xai", r"\bxai-[A-Za-z0-9]+", at_least=44),
        Detector("hugging_face", r"\bhf_[A-Za-z0-9]+", at_least=33),
        Detector("npm", r"\bnpm_[A-Za-z0-9]+\b", at_least=40),
        Detector("pypi", r"\bpypi-[A-Za-z0-9_-]+", at_least=55),
        Detector("private_key", r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"),
    ),
)
"""The length is checked after matching: counting up to it in the pattern takes a hundred times as long on a text that
is designed for that."""

NAMES: Final = {
    PAYMENT_CARDS: "Payment card numbers with a valid check digit",
    IBAN: "Bank account numbers (IBAN) with valid check digits",
    EMAIL_ADDRESSES: "E-mail addresses",
    API_KEYS: "Keys and tokens of well-known providers, and private keys",
    US_SSN: "US Social Security numbers in assignable ranges",
    PHONE_NUMBERS: "Valid phone numbers in international format",
}
BUILT_IN: Final = {profile.profile_id: profile for profile in NAMES}
