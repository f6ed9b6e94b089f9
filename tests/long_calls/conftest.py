from collections.abc import Iterator

import pytest

from farebox import periodic_jobs
from tests.calls.kit import set_provider
from tests.calls.upstream import Upstream, serving
from tests.long_calls.openai_objects import OpenAIObjects
from tests.support import Farebox, running_farebox


@pytest.fixture(scope="package")
def upstream() -> Iterator[Upstream]:
    with serving() as served:
        yield served


@pytest.fixture(scope="package")
def farebox(engine: str, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farebox]:
    """One server for the package; its operator has a key for the scripted provider. Its own worker rests: the tests run
    it themselves (`kit.look`), and count what the provider is asked.
    """
    with pytest.MonkeyPatch.context() as patch:
        for interval in ("QUEUE_SECONDS", "TICK_SECONDS"):
            patch.setattr(periodic_jobs, interval, 3_600.0)
        with running_farebox(tmp_path_factory.mktemp("long_calls"), unseen_input="prompt=window") as served:
            set_provider(served, "openai", base_url=upstream.url + "/v1", api_key="key-of-the-operator")
            set_provider(served, "anthropic", base_url=upstream.url, api_key="key-of-the-operator")
            set_provider(served, "mistral", base_url=upstream.url + "/v1", api_key="key-of-the-operator")
            set_provider(served, "google-ai-studio", base_url=upstream.url, api_key="key-of-the-operator")
            yield served


@pytest.fixture
def provider(upstream: Upstream) -> OpenAIObjects:
    """OpenAI without stored objects; it returns any object to the operator's key."""
    upstream.status, upstream.headers, upstream.content_type = 200, {}, ""
    upstream.sent.clear()
    made = OpenAIObjects(upstream)
    upstream.response = made.answer
    return made


@pytest.fixture(autouse=True)
def _nothing_goes_on(farebox: Farebox) -> Iterator[None]:
    """End unfinished long calls of a test, so that they are not polled while the next test counts requests."""
    yield
    farebox.run(
        farebox.services.database.write(
            lambda connection: connection.execute("DELETE FROM long_calls WHERE bucket = 0")
        )
    )
