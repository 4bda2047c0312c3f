from pathlib import Path

import pytest

from filestore.settings import MIB, Settings
from kit.settings import BadSettings, load


def test_defaults() -> None:
    settings = load(Settings, {"RUNMESH_HOME": "/data"})
    assert (settings.storage, settings.file_days) == (Path("/data"), 7)
    assert (settings.max_file_bytes, settings.max_blob_bytes) == (5 * 1024 * MIB, 110 * MIB)


def test_bytes_may_lie_elsewhere() -> None:
    settings = load(Settings, {"RUNMESH_FILES_URL": "file:///mnt/big%20disk", "RUNMESH_FILE_DAYS": "1"})
    assert (settings.storage, settings.file_days) == (Path("/mnt/big disk"), 1)


def test_all_faults_are_told() -> None:
    with pytest.raises(BadSettings) as caught:
        load(Settings, {"RUNMESH_FILES_URL": "s3://b", "RUNMESH_FILE_DAYS": "0", "RUNMESH_MAX_FILE_BYTES": "many"})
    assert len(caught.value.faults) == 3
