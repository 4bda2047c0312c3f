"""`runmesh up`: the whole mesh on one machine, in the foreground.

Order: nats-server, migrations, filestore + keys + scheduler + executor, Envoy, edge. The edge is stopped first, so that
calls under way still find their way out through Envoy.
"""

import asyncio
import io
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import httpx

from cli import nats
from cli.banner import banner
from cli.envoy import EnvoySettings, render
from cli.lock import InUse, locked
from cli.settings import Settings, read_settings, refuse_taken_port
from cli.supervise import Program, StartFailed, Supervisor, say
from kit.settings import BadSettings, private_dir, read_key

BIN = Path(sys.executable).parent
EXAMPLE = Path(__file__).parent.parent / "deploy" / "examples" / "hello.py"
MODULES = {name: name for name in ("filestore", "keys", "scheduler", "executor", "edge")}
HAVE_A_DATABASE = ("filestore", "keys", "scheduler")
# What secrets are sealed under: for the keys service alone.
KEK_SETTING = re.compile(r"RUNMESH_KEK(_FILE)?")
# The credentials of the bucket: for the filestore alone.
BUCKET_SETTING = re.compile(r"AWS_\w+")
SIGNING_KEY = "RUNMESH_USER_LOGIN_SIGNING_KEY"
# Its passwords are random, and in a file for us alone: a hash in their place would make no difference.
NATS_SAYS = ("[INF]", "Plaintext passwords detected")
SERVICE_READY = '"event": "service.ready"'


def run() -> int:
    """Exit status: 0 after a clean stop, 1 when the start failed or the data is in use, 2 for bad settings."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path, or what a service says, may be beyond its encoding
    try:
        settings = read_settings()
        with locked(settings.home):
            return asyncio.run(_up(settings))
    except BadSettings as bad:
        say("runmesh", str(bad))
        return 2
    except InUse as problem:
        say("runmesh", str(problem))
        return 1


async def _up(settings: Settings) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup means it
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, stopping.set)
    supervisor = Supervisor(stop_seconds=settings.drain_seconds + 5)
    status = 0
    starting = asyncio.create_task(_start(settings, supervisor))
    stopped = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await stopping.wait()
    except (StartFailed, BadSettings, OSError) as error:
        say("runmesh", f"did not start: {error}")
        status = 1
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        say("runmesh", f"stopping; calls and runs under way have {settings.drain_seconds:.0f} s each to end")
        await supervisor.stop_all()
        shutil.rmtree(settings.run_dir, ignore_errors=True)
        say("runmesh", "stopped")
    return status


async def _start(settings: Settings, supervisor: Supervisor) -> None:
    await start(settings, supervisor, os.environ)
    # For the other commands, which find the mesh by its directory. A certificate is for the public name.
    address = settings.public_url if settings.tls_cert else settings.local_url
    (settings.run_dir / "address").write_text(address)
    key_file = settings.home / "admin.key"
    key = key_file.read_text().strip() if key_file.exists() else ""  # some keep it elsewhere
    example = settings.example and bool(key) and await _deploy_example(settings, key)
    _welcome(settings, key, example)


async def start(
    settings: Settings, supervisor: Supervisor, environ: Mapping[str, str], modules: Mapping[str, str] = MODULES
) -> None:
    """Starts every program and returns when the mesh answers. `modules`: what runs as which service."""
    refuse_taken_port(settings)
    private_dir(settings.run_dir)
    mesh_env, own = apart(environ, settings.library)
    mesh_env |= {"RUNMESH_HOME": str(settings.home), "PYTHONUNBUFFERED": "1"}
    mesh_env.pop("PYTHONDONTWRITEBYTECODE", None)  # compiling every import again would cost seconds at each start
    own["executor"] = {SIGNING_KEY: _hex_key(settings, "user_login")} | own["executor"]
    if not settings.nats_url:
        port = _free_port()
        mesh = _hex_key(settings, "nats")
        keepers = {keeper.name: _hex_key(settings, f"nats_{keeper.name}") for keeper in nats.KEEPERS}
        mesh_env["RUNMESH_NATS_URL"] = nats.address(port, "mesh", mesh)
        ours = {each.setting: nats.address(port, each.name, keepers[each.name]) for each in nats.KEEPERS}
        own["executor"] = ours | own["executor"]
        config = settings.run_dir / "nats.conf"
        nats.write_config(config, settings.home / "nats", port, mesh, keepers)
        argv = [str(BIN / "nats-server"), "-c", str(config)]
        await supervisor.start(Program("nats", argv, mesh_env, ready_line="Server is ready", hides=NATS_SAYS))
    await supervisor.finish(Program("migrate", [sys.executable, "-m", "migrations"], mesh_env | own["migrate"]))
    services = {name: _service(name, module, mesh_env | own.get(name, {})) for name, module in modules.items()}
    edge = services.pop("edge")
    await supervisor.start(*services.values())
    await supervisor.start(_envoy(settings, mesh_env), edge)
    await _until_ready(settings)


def apart(environ: Mapping[str, str], library: Path) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """What of the environment everybody gets, and what only these: passwords and keys are nobody else's business.
    What the services in `library` are told by the operator, RUNMESH_<SERVICE>_…, is for the executor, which hands each
    to its service.
    """
    everybodys = dict(environ)

    def taken(which: re.Pattern[str]) -> dict[str, str]:
        return {name: everybodys.pop(name) for name in environ if which.fullmatch(name)}

    database = taken(re.compile("RUNMESH_DATABASE_URL"))
    own = dict.fromkeys((*HAVE_A_DATABASE, "migrate"), database)
    own["keys"] = database | taken(KEK_SETTING)
    own["filestore"] = database | taken(BUCKET_SETTING)
    services = [re.sub("[^A-Z0-9]", "_", file.stem.upper()) for file in library.glob("*.py")]
    own["executor"] = taken(re.compile(rf"RUNMESH_({'|'.join(services)})_\w+")) if services else {}
    return everybodys, own


def _service(name: str, module: str, environ: dict[str, str]) -> Program:
    return Program(name, [sys.executable, "-m", module], environ, ready_line=SERVICE_READY)


def _hex_key(settings: Settings, name: str) -> str:
    """Made when it is missing."""
    return read_key(settings.key_file(name)).hex()


def _envoy(settings: Settings, environ: dict[str, str]) -> Program:
    config = settings.run_dir / "envoy.yaml"
    config.write_text(
        render(
            EnvoySettings(
                run_dir=settings.run_dir,
                host=settings.host,
                port=settings.port,
                cors_origins=settings.cors_origins,
                tls_cert=str(settings.tls_cert or ""),
                tls_key=str(settings.tls_key or ""),
                otlp_endpoint=settings.otlp_endpoint,
                flood_per_second=settings.flood_per_second,
                flood_per_address=settings.flood_per_address,
            )
        )
    )
    argv = [str(BIN / "envoy"), "-c", str(config), "--disable-hot-restart", "--concurrency", "2", "-l", "warning"]

    async def listening() -> bool:
        return await _answers(settings, "/healthz", anything=True)

    return Program("envoy", argv, environ, probe=listening, hides=["caught ENVOY_SIGTERM"])


async def _answers(settings: Settings, path: str, *, anything: bool = False) -> bool:
    with suppress(httpx.HTTPError):
        async with _client(settings) as client:
            answer = await client.get(path, timeout=2)
            return anything or answer.status_code == 200
    return False


def _client(settings: Settings, **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=settings.local_url,
        headers=headers,
        verify=False,  # noqa: S501  # our own listener on this machine, whose certificate may name another host
        trust_env=False,
        timeout=120,
    )


async def _until_ready(settings: Settings) -> None:
    for _ in range(300):
        if await _answers(settings, "/readyz"):
            return
        await asyncio.sleep(0.1)
    raise StartFailed("the mesh was not ready 30 s after its processes were")


async def _deploy_example(settings: Settings, key: str) -> bool:
    """Deploys `hello`, once in the life of `home`: whoever deletes it doesn't want it back. Whether it is there. A
    machine without a package index still gets a running mesh.
    """
    deployed = settings.home / "example.deployed"
    async with _client(settings, Authorization=f"Bearer {key}") as client:
        try:
            if (await client.get("/workflows/hello")).status_code == 200:
                deployed.touch()
                return True
            if deployed.exists():
                return False
            answer = await client.post("/deploy", json={"code": EXAMPLE.read_text(), "name": "hello"})
        except httpx.HTTPError as error:
            say("runmesh", f"the example was not deployed: {error!r}")
            return False
    if answer.status_code != 200:
        say("runmesh", f"the example was not deployed: {answer.text[:500]}")
        return False
    deployed.touch()
    return True


def _welcome(settings: Settings, key: str, example: bool) -> None:
    url = settings.public_url
    lines = [f"Runmesh is ready on {url}", f"data: {settings.home}", *banner(settings.run_dir)]
    if key:
        lines.append(f"admin key: {key}")
    if example:
        lines.append("try it:")
        lines.append(
            f"""  curl -X POST {url}/run/hello -H 'Authorization: Bearer {key}' """
            """-H 'Content-Type: application/json' -d '{"name": "Ada"}'"""
        )
    lines.append("Ctrl-C stops it; the data stays")
    say("runmesh", "\n".join(lines))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
