"""scheduler.library: one file of what several share."""

from pathlib import Path

from scheduler.library import text_of


def test_what_is_shared_is_written_in_once_with_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.py").write_text("A = 1\n")
    (tmp_path / "parts" / "b.py").write_text("from library.parts.a import A\n\nB = A + 1\n")
    service = tmp_path / "service.py"
    service.write_text("from library.parts.b import B\nfrom library.parts.a import (\n    A,\n)\n\nSUM = A + B\n")
    text = text_of(service, tmp_path)
    found: dict[str, int] = {}
    exec(text, found)
    assert (found["SUM"], text.count("A = 1"), "import" in text) == (3, 1, False)
