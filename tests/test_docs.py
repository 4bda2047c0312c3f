"""Links of the documentation lead somewhere."""

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
