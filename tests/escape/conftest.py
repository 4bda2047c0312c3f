"""One mesh for all attacks, with a canary in its environment, home and on a port; and a neighbour of the attacker, a
workflow of its own, that must be served after each attack.
"""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.mesh import Mesh, mesh_up
from tests.escape import on_gvisor
from tests.escape.attacks import ATTACKER, CANARY, COLD, NEIGHBOUR, Attacker, none_left, serves


def _isolation() -> dict[str, str]:
    """Ours, so that `make escape-gvisor` besieges another kind than the default."""
    return {name: os.environ[name] for name in ("RUNMESH_ISOLATION",) if name in os.environ}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if _isolation().get("RUNMESH_ISOLATION") == "gvisor":
        for item in items:
            if item.path.parent == Path(__file__).parent:
                _expect_of_gvisor(item)


def _expect_of_gvisor(item: pytest.Item) -> None:
    different = on_gvisor.DIFFERENT
    reason = different.get(item.name) or different.get(getattr(item, "originalname", item.name))
    if item.path.name in on_gvisor.ABOUT_TEMPLATES:
        item.add_marker(pytest.mark.xfail(reason="there are no templates on gVisor", run=False))
    elif reason is not None:
        item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


@pytest.fixture(scope="session")
def besieged() -> Iterator[Mesh]:
    """The mesh, with a canary where it must not be found."""
    with mesh_up(env={"SECRET_CANARY": CANARY, **_isolation()}) as mesh:
        (mesh.home / "canary").write_text(CANARY)
        for name, code in (("attacker", ATTACKER), ("cold", COLD), ("neighbour", NEIGHBOUR)):
            mesh.deploy(name, code)
        yield mesh
        none_left(mesh)
        assert not [line for line in mesh.output if "report.dropped" in line or "report.failed" in line]


@pytest.fixture(autouse=True)
def neighbour(request: pytest.FixtureRequest) -> Iterator[None]:
    """Goes on being served, whatever was tried on the mesh."""
    yield
    if "besieged" in request.fixturenames:
        serves(request.getfixturevalue("besieged"))


@pytest.fixture
def attacker(besieged: Mesh) -> Attacker:
    """In slots that are forked from a template, as workflows are unless they ask for something else."""
    return Attacker(besieged)


@pytest.fixture(params=["attacker", "cold"])
def either(request: pytest.FixtureRequest, besieged: Mesh) -> Attacker:
    """In a slot, and in a process of its own."""
    return Attacker(besieged, request.param)


@pytest.fixture(scope="session")
def canary_port() -> Iterator[int]:
    """Where somebody on this host tells a secret to whoever connects, on all addresses and on an abstract socket."""
    with (
        socket.create_server(("0.0.0.0", 0)) as listening,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        port = int(listening.getsockname()[1])
        abstract.bind(f"\0{CANARY}-{port}")
        abstract.listen(64)
        for sock in (listening, abstract):
            threading.Thread(target=_tell, args=(sock,), daemon=True).start()
        yield port
        for sock in (listening, abstract):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _tell(listening: socket.socket) -> None:
    with suppress(OSError):
        while True:
            sock, _ = listening.accept()
            with sock, suppress(OSError):
                sock.sendall(CANARY.encode())
