"""Settings that guard money: what refuses to start, and what is never shown."""

import pytest

from farebox.settings import Settings, SettingsError, load

STRIPE = {"FAREBOX_STRIPE_SECRET_KEY": "sk_test_hidden", "FAREBOX_STRIPE_WEBHOOK_SECRET": "whsec_hidden"}


@pytest.mark.parametrize(
    ("environment", "reported"),
    [
        ({"FAREBOX_STRIPE_SECRET_KEY": "sk_test_1"}, "FAREBOX_STRIPE_WEBHOOK_SECRET is empty"),
        (STRIPE | {"FAREBOX_STRIPE_API_BASE": "http://stripe.example"}, "must begin with https://"),
        ({"FAREBOX_FEE_PERCENT": "-1"}, "write a percentage"),
        ({"FAREBOX_FEE_PERCENT": "5%"}, "write a percentage"),
        ({"FAREBOX_TOPUP_MIN_CENTS": "5000", "FAREBOX_TOPUP_MAX_CENTS": "4000"}, "is above"),
        ({"FAREBOX_SMTP_URL": "smtp://mail.example"}, "FAREBOX_SMTP_FROM is empty"),
        ({"FAREBOX_SMTP_URL": "http://mail.example", "FAREBOX_SMTP_FROM": "a@b.example"}, "smtp://"),
    ],
)
def test_invalid_settings_refuse_to_start(environment: dict[str, str], reported: str) -> None:
    with pytest.raises(SettingsError, match=reported):
        load(environment)


def test_secrets_are_not_shown() -> None:
    smtp = {"FAREBOX_SMTP_URL": "smtps://me:hidden@mail.example", "FAREBOX_SMTP_FROM": "a@b.example"}
    shown = repr(load(STRIPE | smtp | {"FAREBOX_SECRET_KEY": "hidden", "FAREBOX_PORT": "8000"}))
    assert "hidden" not in shown
    assert "8000" in shown


@pytest.mark.parametrize(("text", "ppm"), [("0", 0), ("5", 50_000), ("2.5", 25_000), ("0.0001", 1), ("19.25", 192_500)])
def test_the_fee_is_exact(text: str, ppm: int) -> None:
    assert Settings(fee_percent=text).fee_ppm == ppm
