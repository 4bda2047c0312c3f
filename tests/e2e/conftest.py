"""One mesh for all end-to-end tests of a session, and the environments of the published clients."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from executor.egress.authority import roots
from tests.e2e.mesh import ROOT, RUNMESH, Mesh, library_of, mesh_up, own_address
from tests.fakes.certificates import Authority
from tests.mail_server import MailServer, mail_server

UV = Path(sys.executable).parent / "uv"
SERVICES = ("schedule_runs", "openai", "anthropic", "gemini", "redis_coordinator", "send_email", "user_login")
CLIENTS = ROOT / ".venv" / "clients"


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs the certificates of the tests' servers."""
    return Authority(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def mails() -> Iterator[MailServer]:
    """The operator's, on this machine."""
    with mail_server(login=False) as server:
        yield server


@pytest.fixture(scope="session")
def mesh(world: Authority, mails: MailServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Its operator allows this machine's own address, where the tests' servers are, no other private one; trusts the
    tests' authority besides the system's; has a mail server; and is soon to try a delivery again.
    """
    bundle = tmp_path_factory.mktemp("roots") / "roots.pem"
    bundle.write_text(roots(os.environ).read_text() + world.certificate)
    env = {
        "RUNMESH_EGRESS_ALLOW_PRIVATE": own_address(),
        "RUNMESH_LIBRARY": str(library_of(tmp_path_factory.mktemp("library"), *SERVICES)),
        "RUNMESH_CALLBACK_RETRIES": "0.3,0.6,30",
        "RUNMESH_SEND_EMAIL_SMTP_URL": f"smtp://127.0.0.1:{mails.port}",
        "RUNMESH_SEND_EMAIL_FROM": "Runmesh <runmesh@example.com>",
        "SSL_CERT_FILE": str(bundle),
    }
    with mesh_up(env=env) as running:
        running.deploy("probe")
        yield running


@pytest.fixture(scope="session")
def python_client() -> Callable[[str], Path]:
    """The interpreter of an environment that holds just this version of codewords-client."""

    def made(version: str) -> Path:
        home = CLIENTS / f"codewords-client-{version}"
        if not (home / "ready").exists():
            subprocess.run([UV, "venv", "--quiet", "--clear", "--python", sys.executable, home], check=True)
            subprocess.run(
                [UV, "pip", "install", "--quiet", "--python", home / "bin" / "python", f"codewords-client=={version}"],
                check=True,
            )
            (home / "ready").touch()
        return home / "bin" / "python"

    return made


@pytest.fixture(scope="session")
def npm_client() -> Path:
    """A folder with @codewords/client 0.1.6 in its node_modules."""
    home = CLIENTS / "npm"
    if not (home / "ready").exists():
        home.mkdir(parents=True, exist_ok=True)
        (home / "package.json").write_text("{}")
        subprocess.run(
            ["npm", "install", "--silent", "--no-fund", "--no-audit", "@codewords/client@0.1.6"], cwd=home, check=True
        )
        (home / "ready").touch()
    return home


@pytest.fixture(scope="session")
def for_everybody() -> Iterator[Path]:
    """A `runmesh` that any user may start: this one's interpreter and code may lie in somebody's private home."""
    directory = Path(tempfile.mkdtemp(prefix="everybody-", dir="/var/tmp"))
    directory.chmod(0o755)
    code, venv, uv = directory / "code", directory / "venv", RUNMESH.parent / "uv"
    shutil.copytree(ROOT, code, ignore=shutil.ignore_patterns(".*", "__pycache__", "tests"))
    subprocess.run([uv, "venv", "--quiet", "--python", "/usr/bin/python3", venv], check=True)
    install: list[str | Path] = [uv, "pip", "install", "--quiet", "--compile-bytecode", "-e", code]
    subprocess.run([*install, "--python", venv / "bin" / "python"], check=True)
    yield venv / "bin" / "runmesh"
    shutil.rmtree(directory, ignore_errors=True)
