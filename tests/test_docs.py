"""Links of the documentation lead somewhere; settings that are read are described, those described are read."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("library/**/*.md")]


def anchors(page: Path) -> set[str]:
    """As the headings of a page are named in addresses."""
    headings = re.findall(r"(?m)^#+ (.*)$", page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def dead(page: Path) -> Iterator[str]:
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        to = page.parent / path if path else page
        if re.match(r"[a-z]+:", target):
            continue
        if not to.exists() or (anchor and anchor not in anchors(to)):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_is_dead(page: Path) -> None:
    assert list(dead(page)) == []


def test_a_dead_one_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# One thing\n[x](b.md) [y](#one-thing) [z](#another) [w](https://example.com)")
    assert list(dead(tmp_path / "a.md")) == ["b.md", "#another"]


def test_each_page_is_named_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    missing = [page.name for page in ROOT.glob("docs/*.md") if f"(docs/{page.name})" not in readme]
    assert missing == []


CODE = [
    file
    for part in ("kit", "edge", "keys", "scheduler", "executor", "filestore", "cli")
    for file in ROOT.glob(f"{part}/**/*.py")
]


def described() -> str:
    return "".join(page.read_text() for page in PAGES if page.parent.name != "decisions")


def test_each_setting_is_described() -> None:
    """By its whole name: `RUNMESH_MAX_…` tells nobody what there is."""
    read = {name for file in CODE for name in re.findall(r'\benv\(\s*"([A-Z0-9_]+)"', file.read_text())}
    assert len(read) > 40
    assert sorted(read - set(re.findall(r"[A-Z0-9_]+", described()))) == []


def test_each_setting_that_is_described_is_read() -> None:
    files = [*CODE, *ROOT.glob("library/**/*.py"), *ROOT.glob("deploy/*")]
    code = "".join(file.read_text() for file in files if file.is_file())
    names = set(re.findall(r"RUNMESH_[A-Z0-9_]*[A-Z0-9]\b(?!_)", described()))
    assert sorted(name for name in names if name not in code) == []
