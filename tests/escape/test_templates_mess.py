"""A template's mess in its slots' furniture goes with the mesh: one of its own, which ends."""

import shutil
import tempfile
from pathlib import Path

from tests.e2e.mesh import mesh_up
from tests.escape.test_templates import FURNITURE, deployed


def test_its_mess_goes_with_the_mesh() -> None:
    home = Path(tempfile.mkdtemp(prefix="mesh-", dir="/var/tmp"))
    try:
        with mesh_up(home=home) as mesh:
            attacker = deployed(mesh, FURNITURE["files"])
            for _ in range(3):
                assert attacker.run("").status_code in {200, 502, 503}
        said = [line for line in mesh.output if "spawner" in line]
        assert list((home / "runs").rglob("*")) == [], "".join(said)
    finally:
        shutil.rmtree(home)
