import pytest

from tests.support import Farebox


@pytest.fixture(scope="session")
def seed_account(farebox: Farebox) -> str:
    """The account of Cloudflare's example programs; its id is one that an operator chose."""
    return farebox.create_account(account_id="account_id")
