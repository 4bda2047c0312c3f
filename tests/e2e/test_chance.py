"""Chance that is asked for while a workflow is imported doesn't repeat in its runs: keys, tokens, samples."""

import pytest

from tests.e2e.mesh import PACKAGES, Mesh

CODE = """# /// script
# dependencies = PACKAGES
# ///
import os, random, secrets, ssl, tempfile, uuid, weakref
import numpy, uvicorn
from cryptography.hazmat.primitives.asymmetric import ed25519
from fastapi import FastAPI

app = FastAPI()
generator, seeded, own = numpy.random.default_rng(), numpy.random.default_rng(7), random.Random()
child = generator.spawn(1)[0]
listed = numpy.random.default_rng([1, 2, 3])  # a seed that can't be hashed
gone = weakref.proxy(type("Gone", (), {})())  # asking it for anything raises


def drawn():
    return [
        random.random(), own.random(), secrets.token_hex(8), ssl.RAND_bytes(8).hex(), os.urandom(8).hex(),
        str(uuid.uuid4()), str(uuid.uuid1()), tempfile.mktemp(),
        ed25519.Ed25519PrivateKey.generate().private_bytes_raw().hex(),
        float(generator.random()), float(child.random()), float(numpy.random.random()),
    ]


AT_IMPORT = drawn()


@app.post("/")
def draw():
    return {"drawn": [AT_IMPORT, drawn()], "seeded": [float(seeded.random()), float(listed.random())]}


if __name__ == "__main__":
    uvicorn.run(app)
""".replace("PACKAGES", PACKAGES)


@pytest.mark.timeout(200)
def test_no_two_runs_draw_the_same(mesh: Mesh) -> None:
    mesh.deploy("chance", CODE)
    with mesh.http() as client:
        answers = [client.post("/run/chance").json() for _ in range(3)]
    (imported, first), (again, second), (_, third) = (answer["drawn"] for answer in answers)
    assert imported == again  # they are forks of one template
    everything = [*imported, *first, *second, *third]
    assert len(set(everything)) == len(everything) == 48
    mesh.deploy("chance-too", CODE + "# another template of the same base")
    with mesh.http() as client:
        other = client.post("/run/chance-too").json()["drawn"]
    assert len({*everything, *other[0], *other[1]}) == 48 + 24
    assert answers[0]["seeded"] == answers[1]["seeded"] == answers[2]["seeded"]  # what was asked to repeat does
