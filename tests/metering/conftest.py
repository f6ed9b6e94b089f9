from collections.abc import Callable, Iterator
from datetime import datetime

import pytest

from farebox.providers.catalogue import PROVIDERS
from tests.calls.kit import set_provider
from tests.metering.cases import Case, load
from tests.metering.drive import MOMENT, Bench, Outcome
from tests.metering.pace import PacedLoop, Pauses, PinnedClock
from tests.metering.upstream import ScriptedUpstream
from tests.support import running_on

Outcomes = Callable[[Case], list[Outcome]]


@pytest.fixture(scope="session")
def bench(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One server for the folder, with the scripted upstream in place of every provider."""
    clock = PinnedClock(int(datetime.fromisoformat(MOMENT).timestamp() * 1000))
    folder = tmp_path_factory.mktemp("metering")
    # No keep-alive comments: the loop's time jumps, while a charge may wait for a count. The database gets as much time
    # as a busy machine needs.
    with running_on(
        PacedLoop, clock, folder, stream_comment_ms=0, database_timeout_ms=60_000, unseen_input="prompt=window"
    ) as farebox:

        async def start() -> tuple[Pauses, ScriptedUpstream, str]:
            pauses = Pauses()
            upstream = ScriptedUpstream(pauses)
            return pauses, upstream, await upstream.start()

        pauses, upstream, url = farebox.run(start())
        for provider in PROVIDERS:
            if provider.slug != "demo" and not provider.bound:  # these have their own tests
                set_provider(farebox, provider.slug, base_url=url)
        yield Bench(farebox, upstream, pauses, clock)
        farebox.run(upstream.close())


@pytest.fixture(scope="session")
def outcomes(bench: Bench) -> Outcomes:
    """The runs of a case, by its ID. The cases of a file are driven together when the first is requested."""
    files: dict[str, list[Case]] = {}
    for case in load():
        files.setdefault(case.file, []).append(case)
    found: dict[str, list[Outcome]] = {}

    def of(case: Case) -> list[Outcome]:
        if case.id not in found:
            found.update(bench.drive(files[case.file]))
        return found[case.id]

    return of
