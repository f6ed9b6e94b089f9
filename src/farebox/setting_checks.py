"""Validation of settings that depend on each other."""

import re
from typing import Protocol

from farebox.quoting import quoted

_PERCENT = re.compile(r"[0-9]{1,2}(\.[0-9]{1,4})?")
_URL = re.compile(r"https?://[!-~]+")


class _Settings(Protocol):
    """The fields of settings.Settings that are checked here."""

    @property
    def database_url(self) -> str: ...
    @property
    def stripe_secret_key(self) -> str: ...
    @property
    def stripe_webhook_secret(self) -> str: ...
    @property
    def stripe_api_base(self) -> str: ...
    @property
    def fee_percent(self) -> str: ...
    @property
    def topup_min_cents(self) -> int: ...
    @property
    def topup_max_cents(self) -> int: ...
    @property
    def smtp_url(self) -> str: ...
    @property
    def smtp_from(self) -> str: ...
    @property
    def guardrails_url(self) -> str: ...
    @property
    def guardrails_key(self) -> str: ...
    @property
    def guardrails_model(self) -> str: ...
    @property
    def classifier_url(self) -> str: ...
    @property
    def classifier_key(self) -> str: ...
    @property
    def oidc_issuer(self) -> str: ...
    @property
    def oidc_client_id(self) -> str: ...
    @property
    def oidc_client_secret(self) -> str: ...
    @property
    def oidc_client_secret_file(self) -> str: ...


def check_combinations(settings: _Settings) -> None:
    """Raises ValueError, which names the invalid setting."""
    if settings.database_url and not settings.database_url.startswith(("sqlite:///", "postgresql://", "postgres://")):
        raise ValueError(
            f"FAREBOX_DATABASE_URL begins with {quoted(settings.database_url.split(':')[0])}: write sqlite:///PATH or "
            "postgresql://USER:PASSWORD@HOST:PORT/NAME"
        )
    _check_payments(settings)
    _check_scorer(settings)
    _check_classifier(settings)
    _check_single_sign_on(settings)


def _check_payments(settings: _Settings) -> None:
    """Check the settings for payments and messages."""
    if settings.stripe_secret_key and not settings.stripe_webhook_secret:
        raise ValueError(
            "FAREBOX_STRIPE_WEBHOOK_SECRET is empty: anyone could then claim that a payment was made. Take the signing "
            "secret of the webhook endpoint from Stripe's dashboard, or leave FAREBOX_STRIPE_SECRET_KEY empty too"
        )
    if not settings.stripe_api_base.startswith(("https://", "http://127.0.0.1", "http://localhost", "http://[::1]")):
        raise ValueError("FAREBOX_STRIPE_API_BASE must begin with https:// (http:// only on this machine)")
    if not _PERCENT.fullmatch(settings.fee_percent):
        raise ValueError(f"FAREBOX_FEE_PERCENT is {quoted(settings.fee_percent)}: write a percentage such as 5 or 2.5")
    if settings.topup_min_cents > settings.topup_max_cents:
        raise ValueError("FAREBOX_TOPUP_MIN_CENTS is above FAREBOX_TOPUP_MAX_CENTS")
    if settings.smtp_url and not settings.smtp_url.startswith(("smtp://", "smtps://")):
        raise ValueError("FAREBOX_SMTP_URL must begin with smtp:// or smtps://")
    if settings.smtp_url and not settings.smtp_from:
        raise ValueError("FAREBOX_SMTP_FROM is empty: e-mail needs a sender")


def _check_scorer(settings: _Settings) -> None:
    if settings.guardrails_url and not _URL.fullmatch(settings.guardrails_url):
        raise ValueError("FAREBOX_GUARDRAILS_URL must begin with https:// or http://")
    if (settings.guardrails_key or settings.guardrails_model) and not settings.guardrails_url:
        raise ValueError("FAREBOX_GUARDRAILS_URL is empty: without it there is no scorer to call")


def _check_classifier(settings: _Settings) -> None:
    if settings.classifier_url and not _URL.fullmatch(settings.classifier_url):
        raise ValueError("FAREBOX_CLASSIFIER_URL must begin with https:// or http://")
    if settings.classifier_key and not settings.classifier_url:
        raise ValueError("FAREBOX_CLASSIFIER_URL is empty: without it there is no classifier to call")


def _check_single_sign_on(settings: _Settings) -> None:
    if bool(settings.oidc_issuer) != bool(settings.oidc_client_id):
        raise ValueError("FAREBOX_OIDC_ISSUER and FAREBOX_OIDC_CLIENT_ID need each other: set both, or neither")
    if settings.oidc_issuer and not _URL.fullmatch(settings.oidc_issuer):
        raise ValueError("FAREBOX_OIDC_ISSUER must begin with https:// or http://")
    if settings.oidc_client_secret and settings.oidc_client_secret_file:
        raise ValueError("FAREBOX_OIDC_CLIENT_SECRET and FAREBOX_OIDC_CLIENT_SECRET_FILE are both set: set one")
