"""Packages that attack where they are built, installed or cleaned up after: the executor outlives them."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from executor import staging
from executor.driver import open_driver
from executor.environments import Environments
from kit.errors import Invalid
from tests.fakes.host_commands import HostCommands
from tests.fakes.package_index import PackageIndex
from tests.fakes.real_sandboxes import until

# More than `shutil.rmtree` and `os.walk` of Python 3.11 follow, and than fits into one path.
DEEP = """
import os
here = os.getcwd()
os.chdir(os.path.dirname(directory))
for _ in range(2000):
    os.mkdir("d" * 60)
    os.chdir("d" * 60)
os.chdir(here)
"""
CLOSED = """
import os
top = os.path.dirname(directory)
os.mkdir(top + "/closed")
os.symlink({target!r}, top + "/closed/link")
os.mkfifo(top + "/fifo")
os.chmod(top + "/closed", 0)
os.chmod(top, 0)
"""


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    with PackageIndex() as index:
        yield index


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Not pytest's own, which keeps it for a while and can't remove such trees either."""
    home = Path(tempfile.mkdtemp(prefix="builds-"))
    yield home
    staging.remove(home)


@pytest.fixture
async def environments(index: PackageIndex, tmp_path: Path) -> AsyncIterator[Environments]:
    async with open_driver(tmp_path, "http://127.0.0.1:8080") as driver:
        environments = Environments(tmp_path, driver.programs, index.environ)
        yield environments
        index.add_raw_wheel("ordinary", "1", {"ordinary.py": ""})
        assert list((await install(environments, "ordinary")).rglob("ordinary.py"))  # others are still served
        await environments.close()


def left_over(home: Path) -> list[Path]:
    """Of builds."""
    return [*(home / "builds").iterdir(), *(home / "packages" / "making").iterdir()]


async def install(environments: Environments, name: str) -> Path:
    python = await environments.choose("")
    return (await environments.ensure(python, await environments.resolve(python, [name]))).path


async def test_a_build_leaves_a_tree_without_end(
    index: PackageIndex, environments: Environments, tmp_path: Path
) -> None:
    index.add_sdist("deep", "1", probe=DEEP)
    await install(environments, "deep")
    assert left_over(tmp_path) == []


def test_a_dead_executor_left_a_tree_without_end(index: PackageIndex, tmp_path: Path) -> None:
    making = tmp_path / "packages" / "making"
    (making / "left").mkdir(parents=True)
    here = Path.cwd()
    exec(DEEP, {"directory": str(making / "left" / "dist")})
    assert Path.cwd() == here
    Environments(tmp_path, HostCommands(), index.environ)
    assert left_over(tmp_path) == []


async def test_a_build_closes_its_directories(index: PackageIndex, environments: Environments, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("kept")
    outside.chmod(0o640)
    index.add_sdist("closed", "1", probe=CLOSED.format(target=str(outside)))
    with pytest.raises(Invalid):
        await install(environments, "closed")
    assert left_over(tmp_path) == []
    assert (outside.read_text(), outside.stat().st_mode & 0o777) == ("kept", 0o640)


async def test_a_wheel_with_a_deep_tree(index: PackageIndex, environments: Environments, tmp_path: Path) -> None:
    index.add_raw_wheel("deep", "1", {"a/" * 1200 + "x.py": ""})
    made = await install(environments, "deep")
    assert [path for path in made.parent.iterdir() if path != made] == []


async def test_a_wheel_whose_code_would_run_outside(
    index: PackageIndex, environments: Environments, tmp_path: Path
) -> None:
    """Installed as build requirement and as dependency: nothing of it may run but in a sandbox."""
    cache = tmp_path / "packages" / "cache"  # which only we and uv can write to
    plant = f"import os; os.path.isdir({str(cache)!r}) and open({str(cache / 'out')!r}, 'a')\n"
    index.add_raw_wheel("trap", "1", {"trap.pth": plant, "sitecustomize.py": plant, "usercustomize.py": plant})
    index.add_sdist("user", "1", build_requires=("trap",), requires=("trap",))
    await install(environments, "user")
    await install(environments, "trap")
    assert cache.is_dir()
    assert not (cache / "out").exists()


@pytest.mark.parametrize(
    "path", ["{home}/out", "../../../../out", "trap-1.data/data/../../out", "trap-1.data/scripts/python"]
)
async def test_a_wheel_that_writes_elsewhere(
    index: PackageIndex, environments: Environments, tmp_path: Path, path: str
) -> None:
    index.add_raw_wheel("trap", "1", {path.format(home=tmp_path): "#!/bin/sh\n"})
    try:
        made = await install(environments, "trap")
    except Invalid:
        return
    assert (made / "bin" / "python").resolve().stat().st_size > 100
    unpacked = tmp_path / "packages" / "cache" / "archive-v0"
    await until(lambda: not list((tmp_path / "runs").iterdir()))  # uv's own /tmp goes a moment after it
    places = [place for place in tmp_path.rglob("out") if not place.is_relative_to(made)]
    assert [place for place in places if place.parent.parent != unpacked] == []
