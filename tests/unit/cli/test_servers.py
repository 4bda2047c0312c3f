"""cli.servers: whose address and key a command takes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.lock import locked
from cli.problem import Misuse, Problem
from cli.servers import Profiles, address, chosen, profiles_file, read_profiles, write_profiles
from kit.settings import MeshSettings


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No settings but a test's own."""
    for name in ("RUNMESH_URL", "RUNMESH_API_KEY", "RUNMESH_PROFILE", "RUNMESH_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def keep(current: str = "", **urls: str) -> None:
    write_profiles(Profiles(current, {name: {"url": url, "key": f"key of {name}"} for name, url in urls.items()}))


@contextmanager
def mesh(home: Path, url: str = "http://127.0.0.1:8080") -> Iterator[None]:
    """What a running one leaves in its directory."""
    with locked(home):
        run_dir = MeshSettings(home=home).run_dir
        run_dir.mkdir(exist_ok=True)
        (run_dir / "address").write_text(url)
        (home / "admin.key").write_text("key of the mesh\n")
        yield


def taken(profile: str | None = None) -> tuple[str, str]:
    server = chosen(profile)
    return server.url, server.key


def test_each_goes_before_the_next(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mesh(alone / ".runmesh"):
        assert taken() == ("http://127.0.0.1:8080", "key of the mesh")
        keep("a", a="http://a", b="http://b")
        assert taken() == ("http://a", "key of a")
        monkeypatch.setenv("RUNMESH_PROFILE", "b")
        assert taken() == ("http://b", "key of b")
        monkeypatch.setenv("RUNMESH_URL", "http://c/")
        monkeypatch.setenv("RUNMESH_API_KEY", "key of c")
        assert taken() == ("http://c", "key of c")
        assert taken("a") == ("http://a", "key of a")


def test_a_key_alone_is_for_the_server_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    keep("a", a="http://a")
    monkeypatch.setenv("RUNMESH_API_KEY", "another key")
    assert taken() == ("http://a", "another key")


def test_an_address_alone_takes_the_key_that_is_for_it(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep("a", a="http://a", b="http://b")
    monkeypatch.setenv("RUNMESH_URL", "http://b/")
    assert taken() == ("http://b", "key of b")
    monkeypatch.setenv("RUNMESH_URL", "http://127.0.0.1:8080")
    with mesh(alone / ".runmesh"):
        assert taken() == ("http://127.0.0.1:8080", "key of the mesh")
    monkeypatch.setenv("RUNMESH_URL", "http://elsewhere")
    (alone / ".runmesh" / "admin.key").unlink()
    with pytest.raises(Misuse, match="RUNMESH_API_KEY isn't set"):
        taken()


def test_the_mesh_of_a_folder_above_is_found(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (alone / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(alone / "a" / "b")
    with mesh(alone / ".runmesh"):
        assert taken()[1] == "key of the mesh"


def test_a_mesh_that_has_stopped_is_told(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mesh(alone / "data"):
        pass
    monkeypatch.setenv("RUNMESH_HOME", str(alone / "data"))
    with pytest.raises(Problem, match="no Runmesh runs on") as told:
        taken()
    assert told.value.status == 4


def test_a_mesh_that_somebody_else_planted_is_not_used(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mesh(alone / ".runmesh"):
        monkeypatch.setattr(os, "getuid", lambda: 54321)
        with pytest.raises(Problem, match="belongs to another user"):
            taken()


def test_profiles_are_for_their_owner_alone() -> None:
    keep("a", a="http://a")
    assert profiles_file().stat().st_mode & 0o777 == 0o600
    assert profiles_file().parent.stat().st_mode & 0o777 == 0o700
    assert [file.name for file in profiles_file().parent.iterdir()] == ["profiles.json"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"servers": []}', '{"servers": {"a": {"url": "u"}}}', '{"servers": 3}']
)
def test_a_broken_file_is_told_with_its_name(text: str) -> None:
    profiles_file().parent.mkdir(parents=True)
    profiles_file().write_text(text)
    with pytest.raises(Misuse, match=r"profiles\.json"):
        read_profiles()


def test_a_key_is_in_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNMESH_URL", "http://c")
    monkeypatch.setenv("RUNMESH_API_KEY", "key of c")
    assert "key of c" not in f"{chosen()} {chosen()!r}"


@pytest.mark.parametrize(
    "text", ["", "mesh", "ftp://mesh", "http://", "http://mesh:0", "http://mesh:x", "http://m?a=b"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(Misuse, match="is not an address"):
        address(text)
