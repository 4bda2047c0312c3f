"""cli.settings and kit.settings: what is refused before anything starts, and whether the sentence names the fix."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from cli.settings import Settings, read_settings, refuse_taken_port
from kit.settings import BadSettings, load, private_dir


def settings(**environ: str) -> Settings:
    return load(Settings, environ)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("RUNMESH_PORT", "abc"),
        ("RUNMESH_EXAMPLE", "perhaps"),
        ("RUNMESH_PORT", "0"),
        ("RUNMESH_PORT", "65536"),
        ("RUNMESH_PORT", "-1"),
        ("RUNMESH_PORT", "٣"),
        ("RUNMESH_HOST", "localhost"),
        ("RUNMESH_HOST", "300.1.1.1"),
        ("RUNMESH_PUBLIC_URL", "runmesh.example.com"),
        ("RUNMESH_PUBLIC_URL", "ftp://example.com"),
        ("RUNMESH_PUBLIC_URL", "http://example.com:port"),
        ("RUNMESH_LOG_LEVEL", "loud"),
        ("RUNMESH_DRAIN_SECONDS", "nan"),
        ("RUNMESH_DRAIN_SECONDS", "-1"),
        ("RUNMESH_CORS_ORIGINS", "https://a.example, *"),
        ("RUNMESH_CORS_ORIGINS", "https://a.example/"),
        ("RUNMESH_CORS_ORIGINS", "a.example"),
        ("RUNMESH_ISOLATION", "hope"),
    ],
)
def test_a_bad_value_is_told_with_its_name(name: str, text: str) -> None:
    with pytest.raises(BadSettings) as bad:
        settings(**{name: text})
    assert len(bad.value.faults) == 1
    assert bad.value.faults[0].startswith(f"{name}: ")


def test_all_faults_are_told_together() -> None:
    with pytest.raises(BadSettings) as bad:
        settings(RUNMESH_PORT="abc", RUNMESH_HOST="here")
    assert [fault.split(":")[0] for fault in bad.value.faults] == ["RUNMESH_HOST", "RUNMESH_PORT"]


@pytest.mark.parametrize(
    ("environ", "public", "local"),
    [
        ({}, "http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ({"RUNMESH_PORT": "81"}, "http://127.0.0.1:81", "http://127.0.0.1:81"),
        ({"RUNMESH_HOST": "0.0.0.0"}, "http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ({"RUNMESH_HOST": "::"}, "http://[::1]:8080", "http://[::1]:8080"),
        ({"RUNMESH_HOST": "192.0.2.1"}, "http://192.0.2.1:8080", "http://192.0.2.1:8080"),
        ({"RUNMESH_TLS_CERT": "/c"}, "https://127.0.0.1:8080", "https://127.0.0.1:8080"),
        ({"RUNMESH_PUBLIC_URL": "https://x.example/"}, "https://x.example", "http://127.0.0.1:8080"),
    ],
)
def test_the_addresses(environ: dict[str, str], public: str, local: str) -> None:
    assert settings(**environ).public_url == public
    assert settings(**environ).local_url == local


def test_origins_and_levels() -> None:
    found = settings(RUNMESH_CORS_ORIGINS="https://a.example, http://localhost:3000", RUNMESH_LOG_LEVEL="warning")
    assert found.cors_origins == ("https://a.example", "http://localhost:3000")
    assert found.log_level == "WARNING"


def test_a_database_under_any_path() -> None:
    home = "/a b/ü %41 ? # \\ ' \""
    assert make_url(settings(RUNMESH_HOME=home).database_url("keys")).database == f"{home}/data/keys.db"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("postgresql://u:p%40@db.example/mesh", "postgresql://u:p%40@db.example/mesh?schema=keys"),
        ("postgres://[::1]:5433/mesh?sslmode=require", "postgresql://[::1]:5433/mesh?sslmode=require&schema=keys"),
        ("postgresql:///mesh?host=/run/pg&pool_size=2", "postgresql:///mesh?host=/run/pg&pool_size=2&schema=keys"),
    ],
)
def test_a_postgresql_database_for_all(given: str, url: str) -> None:
    assert settings(RUNMESH_DATABASE_URL=given).database_url("keys") == url


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("mysql://me:secret@db/mesh", "postgresql://user:password@host/database"),
        ("sqlite:////tmp/secret.db", "leave it unset for SQLite"),
        ("postgresql+asyncpg://me:secret@db/mesh", "postgresql://user:password@host/database"),
        ("postgresql://me:secret@db", "names no database"),
        ("postgresql://me:secret@db/", "names no database"),
        ("postgresql://me:se@cret@db/mesh", "postgresql://user:password@host/database"),
        ("postgresql://me:sec/ret@db/mesh", "in a password as %40, %2F"),
        ("postgresql://me:secret@a:1,b:2/mesh", "one host"),
        ("postgresql://me@db/mesh?password=secret", "it has password in it"),
        ("postgresql://me@db/mesh?schema=secret", "it has schema in it"),
        ("postgresql://me:secret@db/mesh?options", "postgresql://user:password@host/database"),
        ("postgresql://me:secret@db/mesh?pool_size=1", "2 or more"),
        ("postgresql://me:secret@db/mesh?pool_size=many", "2 or more"),
        ("host=db password=secret", "postgresql://user:password@host/database"),
    ],
)
def test_any_other_database_is_refused_without_its_password(text: str, why: str) -> None:
    with pytest.raises(BadSettings) as bad:
        settings(RUNMESH_DATABASE_URL=text)
    (fault,) = bad.value.faults
    assert fault.startswith("RUNMESH_DATABASE_URL: ")
    assert why in fault
    assert "secret" not in fault


def test_settings_dont_show_a_password() -> None:
    assert "secret" not in repr(settings(RUNMESH_DATABASE_URL="postgresql://me:secret@db/mesh"))


def test_sockets_of_a_long_home_lie_elsewhere(tmp_path: Path) -> None:
    assert settings(RUNMESH_HOME=str(tmp_path)).run_dir == tmp_path / "run"
    long = settings(RUNMESH_HOME=str(tmp_path / ("x" * 90)))
    assert len(long.address("scheduler")) < 107
    assert long.run_dir != settings(RUNMESH_HOME=str(tmp_path / ("y" * 90))).run_dir


def refused(monkeypatch: pytest.MonkeyPatch, **environ: Any) -> str:
    for name, value in environ.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(BadSettings) as bad:
        read_settings()
    return str(bad.value)


def test_certificate_and_key_go_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "go together" in refused(monkeypatch, RUNMESH_TLS_CERT=tmp_path / "cert.pem")


def test_a_certificate_that_is_not_there_or_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    key.write_text("not a key")
    said = refused(monkeypatch, RUNMESH_TLS_CERT=cert, RUNMESH_TLS_KEY=key)
    assert said == f"RUNMESH_TLS_CERT: can't read {cert}: No such file or directory"
    cert.write_text("not a certificate")
    assert "not a PEM certificate and its key" in refused(monkeypatch)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_no_isolation_is_for_this_machine_alone(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    said = refused(monkeypatch, RUNMESH_ISOLATION="none", RUNMESH_HOST=host)
    assert f"refused on {host}" in said
    for local in ("127.0.0.1", "127.0.0.9", "::1"):
        monkeypatch.setenv("RUNMESH_HOST", local)
        assert read_settings().isolation == "none"


@pytest.mark.parametrize("sign", ["%41", "?", "#"])
def test_a_home_that_reads_as_a_url(monkeypatch: pytest.MonkeyPatch, sign: str) -> None:
    assert refused(monkeypatch, RUNMESH_HOME=f"/x{sign}y").startswith("RUNMESH_HOME: ")


def test_a_taken_port_names_the_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(BadSettings, match="it is taken; set RUNMESH_PORT"):
            refuse_taken_port(settings(RUNMESH_PORT=str(taken.getsockname()[1])))


def test_an_address_of_another_machine_names_the_setting() -> None:
    with pytest.raises(BadSettings, match="set RUNMESH_HOST"):
        refuse_taken_port(settings(RUNMESH_HOST="192.0.2.1"))


def test_somebody_elses_link_is_not_followed(tmp_path: Path) -> None:
    if os.getuid():
        return  # giving a link away takes root
    (tmp_path / "ours").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "ours")
    assert private_dir(link) == link
    os.chown(link, 12345, 12345, follow_symlinks=False)
    with pytest.raises(BadSettings, match="another user; set RUNMESH_HOME"):
        private_dir(link)
