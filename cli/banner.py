"""The isolation tier (SPEC §8), as the executor of this machine found it; loud when it isn't the full one."""

import json
from contextlib import suppress
from pathlib import Path

_FILE = "isolation.json"  # in `run_dir`; executor/tier.py writes it
_LOUD = {
    "reduced": "REDUCED ISOLATION: don't run strangers' code here. `runmesh doctor` tells more.",
    "none": "NO ISOLATION: user code runs as you, on your files and your network. For development only.",
}
_WIDTH = 100


def banner(run_dir: Path) -> list[str]:
    """Lines to show; none where no executor of ours tells."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads((run_dir / _FILE).read_text())
        return _lines(str(told["name"]), list(told["lacks"]))
    return []


def _lines(tier: str, lacks: list[str]) -> list[str]:
    lines = [f"isolation: {tier}", *(f"  - {lack}" for lack in lacks)]
    if tier in _LOUD:
        rule = "!" * _WIDTH
        lines = [rule, f"!! {_LOUD[tier]}", *lines, rule]
    return lines
