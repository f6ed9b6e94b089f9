"""A test without a folder runs on one engine, so it must not open a database."""

import tempfile
from pathlib import Path

import pytest

from farebox.storage.sqlite.database import SqliteDatabase
from tests.engines import CHOSEN, ON_BOTH_ENGINES, settings_for

pytestmark = ON_BOTH_ENGINES


@pytest.mark.skipif(CHOSEN != "", reason="the whole run has one engine")
def test_a_test_for_both_engines_that_runs_on_one_opens_no_database() -> None:
    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(AssertionError, match="request tmp_path"):
            settings_for(Path(folder))
        with pytest.raises(AssertionError, match="request tmp_path"):
            SqliteDatabase(Path(folder) / "farebox.db")


def test_a_test_with_a_folder_may_open_one(tmp_path: Path) -> None:
    assert settings_for(tmp_path).data_dir == str(tmp_path)
