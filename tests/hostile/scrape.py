"""Parses a scrape of `/metrics`."""

from prometheus_client.parser import text_string_to_metric_families

from tests.http.support import http

NANOS = 10**9
TOKEN = "metrics-token-of-the-test"
BEARER = {"authorization": f"Bearer {TOKEN}"}

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Scrape:
    """One response of `/metrics`."""

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        response = http.get(f"{url}/metrics", headers=headers or {})
        assert response.status_code == 200, response.text
        self.text = response.text
        self.samples = parsed(response.text)

    def __call__(self, name: str, **labels: str) -> float:
        return self.samples[name, frozenset(labels.items())]

    def has(self, name: str) -> bool:
        return any(known == name for known, _ in self.samples)

    def usd(self, kind: str) -> int:
        """The value of a metric in USD, as nano-dollars."""
        return round(self("farebox_money_usd_total", kind=kind) * NANOS)
