"""cli.doctor and cli.banner: what a reader sees, and the exit status."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from cli import doctor
from cli.banner import banner

OK = {"name": "bubblewrap", "level": "ok", "found": "bubblewrap 0.8.0", "remedy": ""}
SLOW = {"name": "overlays", "level": "warning", "found": "no overlays", "remedy": "another file system"}
FAULT = {"name": "user namespaces", "level": "fault", "found": "EPERM", "remedy": "sysctl x=1"}


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for program in ("envoy", "nats-server", "uv"):
        (tmp_path / program).touch(0o755)
    monkeypatch.setattr(doctor, "BIN", tmp_path)
    return tmp_path


def finds(monkeypatch: pytest.MonkeyPatch, tier: str, *findings: dict[str, str]) -> None:
    monkeypatch.setattr(doctor, "ask", lambda: {"tier": tier, "findings": list(findings)})


@pytest.mark.parametrize(("tier", "status"), [("standard", 0), ("reduced", 0), ("gvisor", 0), ("none", 1), ("", 1)])
def test_the_exit_status(
    programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tier: str, status: int
) -> None:
    finds(monkeypatch, tier, OK, SLOW)
    assert doctor.examine(as_json=False) == status
    assert f"isolation: {tier or 'none can be had'}: " in capsys.readouterr().out


def test_the_worst_comes_first_with_its_remedy(
    programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finds(monkeypatch, "", OK, SLOW, FAULT)
    doctor.examine(as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "FAULT   user namespaces: EPERM",
        "        → sysctl x=1",
        "better  overlays: no overlays",
        "        → another file system",
        "ok      bubblewrap: bubblewrap 0.8.0",
    ]


def test_as_json(programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    finds(monkeypatch, "standard", OK)
    doctor.examine(as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert report["tier"] == "standard"
    assert [finding["name"] for finding in report["findings"]] == ["bubblewrap", "envoy", "nats", "uv"]


@pytest.mark.parametrize("program", ["envoy", "nats-server", "uv"])
def test_a_mesh_without_one_of_its_programs_runs_nothing(
    programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], program: str
) -> None:
    (programs / program).chmod(0o644)
    if (programs / program).stat().st_uid == 0:
        (programs / program).unlink()
    finds(monkeypatch, "standard", OK)
    assert doctor.examine(as_json=False) == 1
    assert "make setup" in capsys.readouterr().out


def test_bad_settings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RUNMESH_ISOLATION", "hope")
    assert doctor.examine(as_json=False) == 2
    assert "RUNMESH_ISOLATION" in capsys.readouterr().out


def test_an_examination_that_breaks_is_a_fault(
    programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert doctor.examine(as_json=False) == 1
    assert "FAULT   examination: it ended with 1" in capsys.readouterr().out


def tells(run_dir: Path, **content: Any) -> None:
    (run_dir / "isolation.json").write_text(json.dumps(content))


def test_a_quiet_banner(tmp_path: Path) -> None:
    assert banner(tmp_path) == []
    tells(tmp_path, name="standard", lacks=[])
    assert banner(tmp_path) == ["isolation: standard"]


@pytest.mark.parametrize(("tier", "word"), [("reduced", "REDUCED ISOLATION"), ("none", "NO ISOLATION")])
def test_a_loud_banner(tmp_path: Path, tier: str, word: str) -> None:
    tells(tmp_path, name=tier, lacks=["no control groups"])
    lines = banner(tmp_path)
    assert word in lines[1]
    assert lines[2:4] == [f"isolation: {tier}", "  - no control groups"]
    assert lines[0] == lines[-1] == "!" * 100


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"name": 1}', "\xff"])
def test_a_file_that_is_broken_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "isolation.json").write_bytes(text.encode("latin-1"))
    assert banner(tmp_path) == []
