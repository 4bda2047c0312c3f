"""Packages that have only a source distribution: chosen by uv, built in a sandbox, locked by the archive's hash."""

import ast
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from executor.driver import open_driver
from executor.environments import Environments
from executor.sdist import read_json, take_wheel
from executor.syntax import Syntax
from kit.errors import Invalid
from tests.fakes.host_commands import HostCommands
from tests.fakes.package_index import PackageIndex

PROBE = """
import os, socket, pathlib
def attempt(call):
    try:
        return "did " + str(call())[:50]
    except Exception as error:
        return type(error).__name__
found["network"] = attempt(lambda: socket.create_connection(("127.0.0.1", {port}), 2))
found["interfaces"] = [name for _, name in socket.if_nameindex()]
found["home"] = attempt(lambda: pathlib.Path({home!r}).read_text())
found["write"] = attempt(lambda: pathlib.Path("/usr/x").write_text("x"))
found["environ"] = sorted(set(os.environ) - {{"PWD", "LC_CTYPE"}})
"""


@pytest.fixture(params=["json", "html"])
def index(request: pytest.FixtureRequest) -> Iterator[PackageIndex]:
    with PackageIndex(as_html=request.param == "html") as index:
        yield index


@pytest.fixture
def plain() -> Iterator[PackageIndex]:
    with PackageIndex() as index:
        yield index


def opened(home: Path, index: PackageIndex, commands: HostCommands | None = None) -> Environments:
    return Environments(home, commands or HostCommands(), index.environ)


async def resolve(environments: Environments, *requirements: str) -> str:
    return await environments.resolve(await environments.choose(""), list(requirements))


async def built(environments: Environments, *requirements: str, module: str) -> dict[str, Any]:
    """What the module of a built package says about its build."""
    lock = await resolve(environments, *requirements)
    environment = await environments.ensure(await environments.choose(""), lock)
    text = next(environment.path.rglob(f"{module}.py")).read_text()
    found = ast.literal_eval(text.removeprefix("found = "))
    assert isinstance(found, dict)
    return found


async def test_it_is_built_without_network_or_host(index: PackageIndex, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    digest = index.add_sdist("only-source", "1.0", probe=PROBE.format(port=index.port, home=str(secret)))
    environments = opened(tmp_path / "home", index)
    found = await built(environments, "only-source", module="only_source")
    assert found == {
        "network": "ConnectionRefusedError",
        "interfaces": ["lo"],
        "home": "FileNotFoundError",
        "write": "OSError",
        "environ": ["HOME", "LANG", "PATH", "SOURCE_DATE_EPOCH"],
    }
    assert await resolve(environments, "only-source") == f"only-source==1.0 --hash=sha256:{digest}  # sdist\n"
    assert [path.name for path in (tmp_path / "home" / "wheels").iterdir()] == [digest]


async def test_by_the_spawner_where_each_step_may_have_a_uid_of_its_own(plain: PackageIndex, tmp_path: Path) -> None:
    plain.add_wheel("asked", "1", asked="name = 'asked'")
    plain.add_sdist("only-source", "1", probe="import asked; found['name'] = asked.name", more=("asked",))
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    async with open_driver(home, "http://127.0.0.1:1") as driver:
        environments = Environments(home, driver.programs, plain.environ)
        assert await built(environments, "only-source", module="only_source") == {"name": "asked"}
        fault = await Syntax(home, driver.programs, environments.interpreters)(b"x = (", "")
    assert fault is not None
    assert not [*(home / "builds").iterdir(), *(home / "packages" / "making").iterdir()]


async def test_the_lock_works_on_a_host_that_has_not_built_it(plain: PackageIndex, tmp_path: Path) -> None:
    plain.add_sdist("only-source", "1.0", probe="import uuid; found['id'] = str(uuid.uuid4())")
    here = opened(tmp_path / "here", plain)
    python, lock = await here.choose(""), await resolve(here, "only-source")
    one = await here.ensure(python, lock)
    other = await opened(tmp_path / "there", plain).ensure(python, lock)
    texts = [next(made.path.rglob("only_source.py")).read_text() for made in (one, other)]
    assert texts[0] != texts[1]  # really built twice, to different bytes


async def test_a_wheel_is_built_once(plain: PackageIndex, tmp_path: Path) -> None:
    plain.add_sdist("only-source", "1.0")
    plain.add_wheel("wheeled", "1", wheeled="")
    commands = HostCommands()
    environments = opened(tmp_path, plain, commands)
    await built(environments, "only-source", module="only_source")
    steps = len(commands.sandboxed)
    assert steps == 2
    await built(environments, "only-source", "wheeled", module="only_source")
    assert len(commands.sandboxed) == steps


async def test_uv_chooses_the_version_by_all_that_is_required(plain: PackageIndex, tmp_path: Path) -> None:
    plain.add_wheel("app-lib", "1", requires=("mid-lib<2",), app_lib="")
    plain.add_sdist("mid-lib", "1.4", requires=("low-lib", "leaf-lib"))
    plain.add_sdist("mid-lib", "1.2")
    plain.add_sdist("mid-lib", "2.0", probe="raise SystemExit('never built')")
    plain.add_sdist("low-lib", "0.1", requires=("leaf-lib<5",))
    plain.add_wheel("leaf-lib", "4", leaf_lib="")
    plain.add_wheel("leaf-lib", "5", leaf_lib="")
    lock = await resolve(opened(tmp_path, plain), "app-lib")
    assert [line.split(" ")[0] for line in lock.splitlines()] == [
        "app-lib==1",
        "leaf-lib==4",
        "low-lib==0.1",
        "mid-lib==1.4",
    ]
    assert [line.split("==")[0] for line in lock.splitlines() if line.endswith("# sdist")] == ["low-lib", "mid-lib"]


async def test_an_older_version_is_built_when_the_newest_cannot_go_with_the_rest(
    plain: PackageIndex, tmp_path: Path
) -> None:
    plain.add_sdist("mid-lib", "2", requires=("leaf-lib>=5",))
    plain.add_sdist("mid-lib", "1", requires=("leaf-lib>=4",))
    plain.add_wheel("leaf-lib", "4", leaf_lib="")
    plain.add_wheel("leaf-lib", "5", leaf_lib="")
    lock = await resolve(opened(tmp_path, plain), "mid-lib", "leaf-lib<5")
    assert [line.split(" ")[0] for line in lock.splitlines()] == ["leaf-lib==4", "mid-lib==1"]
    with pytest.raises(Invalid, match=r"leaf-lib"):
        await resolve(opened(tmp_path, plain), "mid-lib", "leaf-lib<4")


async def test_wheels_first(plain: PackageIndex, tmp_path: Path) -> None:
    plain.add_wheel("mixed", "1.0", mixed="")
    plain.add_sdist("mixed", "1.1", probe="raise SystemExit('never built')")
    assert (await resolve(opened(tmp_path, plain), "mixed")).startswith("mixed==1.0 ")


async def test_build_requirements_are_installed_before_and_those_the_backend_asks_for(
    plain: PackageIndex, tmp_path: Path
) -> None:
    plain.add_wheel("declared", "1", declared="name = 'declared'")
    plain.add_wheel("asked", "1", asked="name = 'asked'")
    probe = "import declared, asked; found['names'] = [declared.name, asked.name]"
    plain.add_sdist("only-source", "1", probe=probe, build_requires=("declared",), more=("asked",))
    found = await built(opened(tmp_path, plain), "only-source", module="only_source")
    assert found == {"names": ["declared", "asked"]}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"probe": "print('the compiler said no'); raise SystemExit(3)"},
            "only_source-1.tar.gz, .*the compiler said no",
        ),
        ({"build_requires": ("nowhere",)}, "its build needs .*nowhere"),
        ({"build_requires": ("x @ file:///etc",)}, "points at an address"),
        ({"more": ("--index-url=x",)}, "not a requirement"),
        ({"probe": "import os; os.rmdir(directory); os.symlink('/tmp', directory)"}, "it made no wheel"),
        ({"probe": "import backend; backend.NAME = 'other'"}, "it made a wheel of other 1"),
        ({"probe": "open(directory + '/other-1-py3-none-any.whl', 'w')"}, "it made no wheel"),
    ],
)
async def test_a_build_that_fails(plain: PackageIndex, tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    plain.add_sdist("only-source", "1", **options)
    with pytest.raises(Invalid, match=f"(?s){reason}") as raised:
        await resolve(opened(tmp_path, plain), "only-source")
    assert raised.value.code == "invalid_workflow"
    assert not list((tmp_path / "wheels").iterdir())
    assert not list((tmp_path / "envs").iterdir())
    assert not list((tmp_path / "builds").iterdir())


async def test_an_archive_that_is_not_the_announced_one(plain: PackageIndex, tmp_path: Path) -> None:
    plain.add_sdist("only-source", "1")
    good = plain.page("only-source")
    plain.files["only_source-1.tar.gz"] += b"x"
    plain.pages["only-source"] = good
    with pytest.raises(Invalid, match="SHA-256 differs"):
        await resolve(opened(tmp_path, plain), "only-source")


async def test_an_archive_that_is_none(plain: PackageIndex, tmp_path: Path) -> None:
    plain.add_sdist("only-source", "1")
    plain.files["only_source-1.tar.gz"] = b"not an archive"
    with pytest.raises(Invalid, match="can't be built"):
        await resolve(opened(tmp_path, plain), "only-source")


async def test_a_lock_whose_archive_is_gone(plain: PackageIndex, tmp_path: Path) -> None:
    plain.add_sdist("only-source", "1")
    environments = opened(tmp_path, plain)
    lock = f"only-source==1 --hash=sha256:{hashlib.sha256(b'').hexdigest()}  # sdist\n"
    with pytest.raises(Invalid, match="no longer has the source distribution of only-source"):
        await environments.ensure(await environments.choose(""), lock)


@pytest.mark.parametrize("trap", ["link", "directory link", "fifo", "directory", "two", "none"])
def test_what_a_sandbox_leaves_for_a_wheel_is_not_trusted(tmp_path: Path, trap: str) -> None:
    dist, target, name = tmp_path / "dist", tmp_path / "kept", "a-1-py3-none-any.whl"
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / name).write_text("secret")
    target.mkdir()
    if trap == "directory link":
        dist.symlink_to(tmp_path / "outside")
    else:
        dist.mkdir()
    if trap == "link":
        (dist / name).symlink_to(tmp_path / "outside" / name)
    elif trap == "fifo":
        os.mkfifo(dist / name)
    elif trap == "directory":
        (dist / name).mkdir()
    elif trap == "two":
        (dist / name).touch()
        (dist / "b-1-py3-none-any.whl").touch()
    assert take_wheel(dist, target) is None
    assert list(target.iterdir()) == []


def test_what_a_sandbox_says_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "good").write_text('{"requires": ["a"]}')
    (tmp_path / "link").symlink_to(tmp_path / "good")
    (tmp_path / "long").write_text('"' + "x" * 100_000 + '"')
    (tmp_path / "deep").write_text("[" * 60_000)
    (tmp_path / "bytes").write_bytes(b"\xff")
    os.mkfifo(tmp_path / "fifo")
    assert read_json(tmp_path / "good", "requires") == ["a"]
    assert [read_json(tmp_path / name) for name in ("link", "long", "deep", "bytes", "fifo", "none")] == [None] * 6


async def test_a_real_package_of_the_public_index(tmp_path: Path) -> None:
    """docopt 0.6.2 has only a source distribution, with a setup.py and no pyproject.toml."""
    commands = HostCommands()
    environments = Environments(tmp_path, commands, os.environ)
    python = await environments.choose("")
    lock = await environments.resolve(python, ["docopt==0.6.2"])
    digest = "49b3a825280bd66b3aa83585ef59c4a8c82f2c8a522dbe754a8bc8d08c85c491"
    assert lock == f"docopt==0.6.2 --hash=sha256:{digest}  # sdist\n"
    environment = await environments.ensure(python, lock)
    done = await commands.run_sandboxed(
        [str(environment.interpreter), "-c", "import docopt; print(docopt.__version__)"],
        binds_ro=[environment.path, environment.base_prefix],
        binds_rw=[],
        env={},
        cwd=Path("/"),
        timeout=20,
    )
    assert done.text.strip() == "0.6.2"


@pytest.mark.parametrize(
    ("source", "message", "line"),
    [
        (b"x = 1\ndef f(:\n", "SyntaxError: ", 2),
        (b"if x:\nprint()\n", "IndentationError: ", 2),
        (b"x = " + b"(" * 100_000, "", 1),
        (b"x = " + b"-" * 500_000 + b"1", "", 0),
    ],
)
async def test_syntax(plain: PackageIndex, tmp_path: Path, source: bytes, message: str, line: int) -> None:
    commands = HostCommands()
    environments = opened(tmp_path, plain, commands)
    syntax = Syntax(tmp_path, commands, environments.interpreters)
    fault = await syntax(source, "")
    assert fault is not None
    assert fault.message.startswith(message)
    assert fault.line == line or not message
    assert await syntax(b"import os\nassert (1, 'x')  # warns\n", await environments.choose("")) is None
    assert not list((tmp_path / "builds").iterdir())
