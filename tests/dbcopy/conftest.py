import shutil
from pathlib import Path

import pytest

from tests.dbcopy.kit import Sample, sample_installation


@pytest.fixture(scope="session")
def sample_original(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return sample_installation(tmp_path_factory.mktemp("moving") / "data")


@pytest.fixture
def sample(sample_original: Sample, tmp_path: Path) -> Sample:
    """A copy of the sample for one test."""
    folder = tmp_path / "sample"
    shutil.copytree(sample_original.folder, folder)
    return Sample(
        folder, sample_original.account_id, sample_original.token, sample_original.log_ids, sample_original.reported
    )
