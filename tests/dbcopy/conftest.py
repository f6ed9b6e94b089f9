import shutil
from pathlib import Path

import pytest

from tests.dbcopy.kit import Rich, rich_installation


@pytest.fixture(scope="session")
def rich_original(tmp_path_factory: pytest.TempPathFactory) -> Rich:
    return rich_installation(tmp_path_factory.mktemp("moving") / "data")


@pytest.fixture
def rich(rich_original: Rich, tmp_path: Path) -> Rich:
    """A copy of the test's own."""
    folder = tmp_path / "rich"
    shutil.copytree(rich_original.folder, folder)
    return Rich(folder, rich_original.account_id, rich_original.token, rich_original.log_ids, rich_original.told)
