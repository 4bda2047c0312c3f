"""`runmesh doctor`: what this machine lacks to run user code safely.

The executor looks at the host itself (`python -m executor.doctor`, a program of its own); here are the mesh's other
programs, and what is made of it all for a reader.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cli.settings import read_settings
from cli.supervise import say
from kit.settings import BadSettings

BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 120.0
_PROGRAMS = {"envoy": "envoy", "nats": "nats-server", "uv": "uv"}
_TIERS = {
    "standard": "user code runs here, each run in a sandbox of its own with limits of its own",
    "reduced": "user code runs here, but don't let strangers bring it: sandboxes share one uid or have no limits",
    "gvisor": "user code runs here, each run on a gVisor of its own, in a sandbox of its own",
    "none": "user code runs WITHOUT A SANDBOX: for development only",
    "": "user code can't run here",
}
_MARKS = {"ok": "ok", "warning": "better", "fault": "FAULT"}


def examine(*, as_json: bool) -> int:
    """Prints what was found. Exit status 0: user code can run in a sandbox; 2: bad settings; else 1."""
    try:
        read_settings()
        report = with_programs(ask(), BIN)
    except BadSettings as bad:
        say("runmesh", str(bad))
        return 2
    print(json.dumps(report, indent=2) if as_json else "\n".join(rendered(report)))
    return 0 if report["tier"] in {"standard", "reduced", "gvisor"} else 1


def ask() -> dict[str, Any]:
    """What the executor finds. Errors: BadSettings."""
    try:
        asked = subprocess.run(
            [sys.executable, "-m", "executor.doctor"],
            capture_output=True,
            text=True,
            env=dict(os.environ),
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _failed(f"it took more than {PATIENCE_SECONDS:.0f} s")
    if asked.returncode == 2:
        raise BadSettings(asked.stderr.strip().splitlines())
    try:
        report: dict[str, Any] = json.loads(asked.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return _failed(asked.stderr.strip()[-1000:] or f"it ended with {asked.returncode}")
    return report


def _failed(why: str) -> dict[str, Any]:
    told = {"name": "examination", "level": "fault", "found": why, "remedy": "this is a bug: tell us"}
    return {"tier": "", "findings": [told]}


def with_programs(report: dict[str, Any], directory: Path) -> dict[str, Any]:
    """The same with the programs in `directory` that the mesh is made of; without one of them nothing runs."""
    findings = list(report["findings"])
    for name, program in _PROGRAMS.items():
        found = {"name": name, "level": "ok", "found": str(directory / program), "remedy": ""}
        if not os.access(directory / program, os.X_OK):
            found |= {"level": "fault", "found": f"{directory / program} isn't there", "remedy": "run `make setup`"}
        findings.append(found)
    works = all(finding["level"] != "fault" for finding in findings)
    return {**report, "tier": report["tier"] if works or report["tier"] == "none" else "", "findings": findings}


def rendered(report: dict[str, Any]) -> list[str]:
    """Lines for a reader: faults first, then what would be better, then what is well."""
    lines = []
    order = list(_MARKS)
    for finding in sorted(report["findings"], key=lambda finding: -order.index(finding["level"])):
        lines.append(f"{_MARKS[finding['level']]:7} {finding['name']}: {finding['found']}")
        if finding["remedy"]:
            lines.append(f"{'':7} → {finding['remedy']}")
    tier = report["tier"]
    return [*lines, "", f"isolation: {tier or 'none can be had'}: {_TIERS[tier]}"]
