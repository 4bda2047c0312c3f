"""How well this host separates what it runs (SPEC §8), as the executor found it when it started.

`runmesh up` and `runmesh doctor` show it; they read the file that `announce` leaves beside the sockets.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from kit.settings import private_dir
from kit.telemetry import announce as say

FILE = "isolation.json"


@dataclass(frozen=True)
class Tier:
    """`name` is one of standard, reduced, gvisor, none; `lacks`: what would be better otherwise, a sentence each, with
    the remedy.
    """

    name: str
    lacks: tuple[str, ...] = ()


NONE = Tier("none", ("user code runs as this user, with no sandbox: it can read and change whatever Runmesh can",))


def of_bubblewrap(uid: int, no_cgroups: str, no_slots: str = "") -> Tier:
    """What bubblewrap gives when `uid` runs Runmesh; the others say why there are none, empty where there are."""
    lacks = _lacks(uid, no_cgroups)
    tier = "reduced" if lacks else "standard"
    if no_slots:
        lacks.append(f"every run is started from nothing, which is slow ({no_slots})")
    return Tier(tier, tuple(lacks))


def of_gvisor(uid: int, no_cgroups: str, complaint: str) -> Tier:
    """What gVisor gives when `uid` runs Runmesh; `complaint` is about runsc itself."""
    return Tier("gvisor", (*_lacks(uid, no_cgroups), *([f"{complaint}: install a newer one"] if complaint else [])))


def _lacks(uid: int, no_cgroups: str) -> list[str]:
    lacks = []
    if uid:
        lacks.append("all sandboxes share this user's uid, so that limits by user count for all: start Runmesh as root")
    if no_cgroups:
        lacks.append(
            "no control groups, so that memory and processors have no limit of their own "
            f"({no_cgroups}): start Runmesh as root, or as a service with Delegate=yes"
        )
    return lacks


def announce(tier: Tier, run_dir: Path) -> None:
    """Tells whoever reads the log, and whoever has started us."""
    say("isolation", tier=tier.name, lacks=list(tier.lacks))
    file = private_dir(run_dir) / FILE
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(tier)))
    os.replace(fresh, file)  # noqa: PTH105  # whole or not at all
