"""From requirements to a lock, by `uv pip compile`, without running anything of a package outside of a sandbox.

uv may use wheels only. Where a package has none, it is offered *stubs*: empty wheels, one for each version that would
have to be built. So uv chooses the version by all that is required of it; that one is built, takes its stub's place
with its real requirements, and uv is asked again, until no stub is chosen.
"""

import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from packaging.utils import canonicalize_name

from executor import lock
from executor.commands import Completed, Uv, open_tree, read_plain, readable
from executor.header import check_requirement
from executor.index_page import Sdist
from executor.interpreters import Interpreter
from executor.sdist import SourceWheels
from kit.errors import Invalid, Unavailable

MAX_SDISTS = 20
MAX_STUBS = 300

_NEEDS_BUILD = re.compile(r"Wheels are required for `([A-Za-z0-9._-]+)`")
_NO_WHEEL = re.compile(r"(?:all versions of )?([A-Za-z0-9._-]+?)(?:[=<>!~][^ ]*)? ha(?:s|ve) no usable wheels")
_UNKNOWN = re.compile(r"([A-Za-z0-9._-]+) was not found in the package registry")


class Resolver:
    """Makes locks."""

    def __init__(self, uv: Uv, wheels: SourceWheels) -> None:
        self._uv = uv
        self._wheels = wheels

    async def resolve(self, interpreter: Interpreter, requirements: list[str]) -> str:
        """The lock. Errors: Invalid (invalid_workflow) with uv's reason; Unavailable."""
        if not requirements:
            return ""
        try:
            wanted = "".join(check_requirement(entry) + "\n" for entry in requirements)
        except ValueError as error:
            raise _invalid(str(error)) from None
        async with self._uv.workplace() as (here, made):
            return await self._search(interpreter, wanted, here, made / "requirements.txt")

    async def _search(self, interpreter: Interpreter, wanted: str, here: Path, made: Path) -> str:
        (here / "requirements.in").write_text(wanted)
        (here / "requirements.in").chmod(0o644)
        offer = _Offer()
        for turn in range(4 * MAX_SDISTS):
            done = await self._compile(interpreter, here, offer.write(here / str(turn)), made)
            if done.returncode != 0:
                if not await self._offer_more(interpreter, done.text, offer) and not offer.widen():
                    raise _invalid(explain(done.text))
                continue
            archives = {key: sdist.sha256 for key, sdist in offer.sdists.items()}
            pins = lock.from_uv(_written(made), archives)
            missing = [key for pin in pins if pin.is_sdist and (key := (pin.name, pin.version)) not in offer.built]
            if not missing:
                return lock.dump(pins)
            if len(offer.built) + len(missing) > MAX_SDISTS:
                break
            for key in missing:
                offer.built[key] = await self._wheels.wheel(offer.sdists[key], interpreter)
            offer.narrow = True
        raise _invalid(f"more than {MAX_SDISTS} packages have no usable wheel and would have to be built")

    async def _compile(self, interpreter: Interpreter, here: Path, links: Path, made: Path) -> Completed:
        return await self._uv.run(
            "pip",
            "compile",
            "--generate-hashes",
            "--no-build",
            "--no-annotate",
            "--no-header",
            "--no-sources",
            "--python",
            interpreter.path,
            "--find-links",
            links,
            "--output-file",
            made,
            here / "requirements.in",
            cwd=here,
            shown=[interpreter.base_prefix],
        )

    async def _offer_more(self, interpreter: Interpreter, output: str, offer: "_Offer") -> bool:
        """Offers the packages that uv misses wheels of; False when there are none."""
        known = {name for name, _ in offer.sdists}
        found = {canonicalize_name(name) for name in [*_NEEDS_BUILD.findall(output), *_NO_WHEEL.findall(output)]}
        for name in sorted(found - known):
            available = await self._wheels.available(name, interpreter)
            offer.sdists.update({(sdist.name, sdist.version): sdist for sdist in available[:MAX_STUBS]})
        return len({name for name, _ in offer.sdists}) > len(known)


@dataclass
class _Offer:
    """What uv may choose besides the index's wheels. By (name, version): `sdists` could be built, `built` are."""

    sdists: dict[tuple[str, str], Sdist] = field(default_factory=dict)
    built: dict[tuple[str, str], Path] = field(default_factory=dict)
    # Once a version of a package is built, stubs of its other versions, which seem to require nothing, are offered
    # only when there is no other way: else uv would go back to one rather than miss what the built one requires.
    narrow: bool = True

    def widen(self) -> bool:
        """Offers those, too; False when there is nothing more to offer."""
        hidden = self.narrow and len(self._stubs()) + len(self.built) < len(self.sdists)
        self.narrow = False
        return hidden

    def write(self, directory: Path) -> Path:
        """For `--find-links`; a new directory each time, since uv remembers a wheel by its path."""
        directory.mkdir()
        for name, version in self._stubs():
            stub(directory, name, version)
        for wheel in self.built.values():
            (directory / wheel.name).symlink_to(wheel)
        open_tree(directory)
        return directory

    def _stubs(self) -> list[tuple[str, str]]:
        done = {name for name, _ in self.built} if self.narrow else set()
        return [key for key in self.sdists if key not in self.built and key[0] not in done]


def explain(output: str) -> str:
    """uv's reason in a sentence."""
    unknown = _UNKNOWN.search(output)
    if unknown is not None:
        return f"there is no package named {unknown[1]} in the package index"
    told = readable(output).removeprefix("No solution found when resolving dependencies").strip()
    return f"the dependencies can't be resolved: {told}"


def stub(directory: Path, name: str, version: str) -> None:
    """A wheel that holds nothing and requires nothing."""
    stem = f"{name.replace('-', '_')}-{version}"
    with zipfile.ZipFile(directory / f"{stem}-py3-none-any.whl", "w") as wheel:
        info = f"{stem}.dist-info"
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def _written(made: Path) -> str:
    """Errors: Unavailable."""
    try:
        return read_plain(made, 2 * lock.MAX_LOCK).decode()
    except (OSError, ValueError) as error:
        raise Unavailable(f"uv gave no lock: {error}") from None


def _invalid(message: str) -> Invalid:
    return Invalid(message, code="invalid_workflow")
