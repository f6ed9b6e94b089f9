"""When tokens and keys were last used, recorded by several processes and written when they stop."""

import json

import pytest

from tests.calls.wire import chat_body
from tests.multiprocess.conftest import NewInstallation
from tests.multiprocess.kit import call, calls

pytestmark = pytest.mark.slow

USED = "SELECT used_at FROM last_uses WHERE account_id = $1 AND kind = $2 AND key_id = $3"
BEGUN = "SELECT max(created_at) FROM calls WHERE account_id = $1"


async def test_the_latest_use_counts_whichever_process_writes_last(new_installation: NewInstallation) -> None:
    installation = new_installation()
    with installation.serving(workers=2) as server:
        caller = installation.caller()
        assert {response.status for response in await calls(installation, caller, chat_body(), 20)} == {200}
        [(earlier,)] = installation.read(BEGUN, caller.account_id)
        assert (await call(installation, caller, chat_body())).status == 200
        assert server.stop() == 0
    [(latest,)] = installation.read(BEGUN, caller.account_id)
    [(token_used,)] = installation.read(USED, caller.account_id, "token", caller.token_id)
    [(key_used,)] = installation.read(USED, "", "provider", "demo")
    assert earlier <= token_used <= latest <= key_used
    (shown,) = json.loads(installation.command("token", "list", "--account", caller.account_id, "--json").stdout)
    assert shown["last_used_at"] is not None
