from pathlib import Path

import pytest

from filestore.bucket import Place
from filestore.settings import MIB, Settings
from filestore.sigv4 import Credentials
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
        load(Settings, {"RUNMESH_FILES_URL": "ftp://b", "RUNMESH_FILE_DAYS": "0", "RUNMESH_MAX_FILE_BYTES": "many"})
    assert len(caught.value.faults) == 3


S3 = {"RUNMESH_FILES_URL": "s3://mesh/some/prefix", "AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "hidden"}


def test_a_bucket_with_awss_own_variables() -> None:
    settings = load(Settings, S3 | {"AWS_ENDPOINT_URL": "http://minio:9000/", "AWS_REGION": "eu-north-1"})
    bucket = settings.s3
    assert bucket is not None
    assert (bucket.place, bucket.region, bucket.endpoint) == (
        Place("mesh", "some/prefix"),
        "eu-north-1",
        "http://minio:9000",
    )
    assert bucket.public_url("files/aa/b") == "http://minio:9000/mesh/some/prefix/files/aa/b"
    assert bucket.credentials is not None
    assert bucket.credentials() == Credentials("AKID", "hidden")
    assert "hidden" not in repr(settings) + repr(bucket.credentials())


def test_where_callers_reach_it_may_differ() -> None:
    environ = S3 | {"RUNMESH_S3_PUBLIC_ENDPOINT": "https://files.example.com", "RUNMESH_S3_PATH_STYLE": "no"}
    bucket = load(Settings, environ).s3
    assert bucket is not None
    assert bucket.public_url("k") == "https://mesh.files.example.com/some/prefix/k"
    assert bucket.url("k") == "https://mesh.s3.us-east-1.amazonaws.com/some/prefix/k"
    assert bucket.url("") == "https://mesh.s3.us-east-1.amazonaws.com/"


def test_no_bucket_no_need_for_credentials() -> None:
    assert load(Settings, {"AWS_ACCESS_KEY_ID": "AKID", "AWS_ENDPOINT_URL": "nonsense"}).s3 is None
    bucket = load(Settings, {"RUNMESH_FILES_URL": "s3://mesh"}).s3
    assert bucket is not None
    assert bucket.credentials is None


@pytest.mark.parametrize("url", ["s3://", "s3://b", "s3://UPPER", "s3://mesh/a b", "s3://mesh/../x", "s3://mesh?x=1"])
def test_what_is_no_bucket(url: str) -> None:
    with pytest.raises(BadSettings):
        load(Settings, {"RUNMESH_FILES_URL": url})


@pytest.mark.parametrize(
    "wrong",
    [
        {"AWS_SECRET_ACCESS_KEY": ""},
        {"AWS_ENDPOINT_URL_S3": "minio:9000"},
        {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SHARED_CREDENTIALS_FILE": "/nowhere"},
    ],
)
def test_what_cant_be_used_is_told(wrong: dict[str, str]) -> None:
    with pytest.raises(BadSettings):
        _ = load(Settings, S3 | wrong).s3


def test_a_shared_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("[mesh]\naws_access_key_id = A1\naws_secret_access_key = s%1\n")
    environ = {"RUNMESH_FILES_URL": "s3://mesh", "AWS_SHARED_CREDENTIALS_FILE": str(file), "AWS_PROFILE": "mesh"}
    bucket = load(Settings, environ).s3
    assert bucket is not None
    assert bucket.credentials is not None
    assert bucket.credentials() == Credentials("A1", "s%1")
    file.write_text("[mesh]\naws_access_key_id = A22\naws_secret_access_key = s2\naws_session_token = t\n")
    assert bucket.credentials() == Credentials("A22", "s2", "t")
    file.write_text("[other]\nsecret")
    with pytest.raises(ValueError, match="no credentials of profile 'mesh'") as caught:
        bucket.credentials()
    assert "secret" not in str(caught.value)
