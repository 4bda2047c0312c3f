"""The isolation tier that `runmesh up` shows."""

from tests.e2e.mesh import Mesh


def test_the_tier_of_a_full_mesh(mesh: Mesh) -> None:
    said = "".join(mesh.output)
    assert "isolation: standard" in said or "isolation: reduced" in said
