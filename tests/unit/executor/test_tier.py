"""executor.tier: which tier a host gives, and how it is told."""

import json
from pathlib import Path

import pytest

from executor import tier


@pytest.mark.parametrize(
    ("uid", "no_cgroups", "no_slots", "name", "lacks"),
    [
        (0, "", "", "standard", 0),
        (0, "read-only", "", "reduced", 1),
        (1000, "", "", "reduced", 1),
        (1000, "not delegated", "", "reduced", 2),
        (0, "", "no overlays", "standard", 1),
        (1000, "not delegated", "no overlays", "reduced", 3),
    ],
)
def test_tiers(uid: int, no_cgroups: str, no_slots: str, name: str, lacks: int) -> None:
    found = tier.of_bubblewrap(uid, no_cgroups, no_slots)
    assert (found.name, len(found.lacks)) == (name, lacks)
    for reason in (no_cgroups, no_slots):
        assert reason in " ".join(found.lacks)


def test_the_tier_of_gvisor() -> None:
    assert tier.of_gvisor(0, "", "") == tier.Tier("gvisor")
    found = tier.of_gvisor(1000, "not delegated", "runsc 1 is 400 days old")
    assert (found.name, len(found.lacks)) == ("gvisor", 3)
    assert "not delegated" in found.lacks[1]
    assert found.lacks[2] == "runsc 1 is 400 days old: install a newer one"


def test_it_is_told_beside_the_sockets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for found in (tier.NONE, tier.of_bubblewrap(0, "")):
        tier.announce(found, tmp_path / "run")
    assert json.loads((tmp_path / "run" / tier.FILE).read_text()) == {"name": "standard", "lacks": []}
    assert [path.name for path in (tmp_path / "run").iterdir()] == [tier.FILE]
    assert "none" in capsys.readouterr().err
