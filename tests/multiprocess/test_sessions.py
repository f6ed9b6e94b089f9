"""Sessions of every kind in several processes: exactly as many are admitted as credit covers."""

from functools import partial

import pytest

from tests.long import times
from tests.multiprocess.conftest import NewInstallation
from tests.multiprocess.kit import Caller, Installation
from tests.websockets import kinds
from tests.websockets.conversations import Address, Stage, halting
from tests.websockets.kit import providing

pytestmark = pytest.mark.slow

K = times(3, 12)
TRIED = 10 * K
"""Sessions that are opened at once."""


def test_exactly_as_many_sessions_are_admitted_as_credit_covers(new_installation: NewInstallation) -> None:
    installation = new_installation(hold_wait_ms="100")
    with providing() as provider:
        installation.write(partial(kinds.prepare, url=provider.url))
        with installation.serving():
            stage = Stage(provider)
            for kind in kinds.KINDS:
                probe = installation.caller()
                with halting(stage, kind, [_address(installation, probe)]):
                    _, hold = installation.balance(probe)
                poor = installation.caller(nanos=K * hold)
                with halting(stage, kind, [_address(installation, poor)] * TRIED) as had:
                    assert sum(one.stopped for one in had) == K, kind
                    assert installation.balance(poor) == (K * hold, K * hold)
            owners = installation.read("SELECT DISTINCT owner FROM holds")
            assert len(owners) == 3, "all processes had sessions"
    assert installation.differences() == []


def _address(installation: Installation, caller: Caller) -> Address:
    return f"{installation.url}/v1/{caller.account_id}/default", caller.token
