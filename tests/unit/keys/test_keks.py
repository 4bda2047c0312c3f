"""KEKs as they are written down: variable, file, rotation of a file. Nothing that is said repeats one."""

import base64
from pathlib import Path

import pytest

from keys.keks import MOST, Keks, new_kek, parse_keks
from keys.rotate_kek import rotate
from keys.sealing import kek_id, shown
from keys.settings import Settings
from kit.settings import BadSettings, load

ONE, TWO = b"1" * 32, b"\xff" * 32
WORD, OTHER = (base64.b64encode(kek).decode() for kek in (ONE, TWO))


@pytest.mark.parametrize(
    "text",
    [f"{WORD}\n{OTHER}\n", f"# a note\n{WORD}\n\n  # {WORD}\n{OTHER}", f"{WORD},{OTHER}", f" {WORD} {OTHER} {WORD} "],
)
def test_keks_are_words_of_base64(text: str) -> None:
    assert parse_keks(text) == (ONE, TWO)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no key"),
        ("# only a note", "no key"),
        (f"{WORD} {WORD[:-5]}", "entry 2 is not the base64 of 32 bytes"),
        (ONE.hex(), "entry 1 is not"),
        (WORD.replace("=", ""), "entry 1 is not"),
        ("*" * 44, "entry 1 is not"),
        (" ".join(base64.b64encode(new_kek()).decode() for _ in range(MOST + 1)), "17 keys; 16 are allowed"),
    ],
)
def test_what_is_wrong_is_told_without_repeating_it(text: str, told: str) -> None:
    with pytest.raises(BadSettings, match=told) as caught:
        load(Settings, {"RUNMESH_KEK": text or "#"})
    assert "RUNMESH_KEK" in str(caught.value)
    assert not [word for word in text.split() if len(word) > 20 and word in str(caught.value)]


def test_where_they_come_from(tmp_path: Path) -> None:
    home = {"RUNMESH_HOME": str(tmp_path)}
    own = load(Settings, home).keks
    assert not own.there
    assert own.read() == own.read()
    assert (tmp_path / "secrets" / "kek").stat().st_mode & 0o777 == 0o600
    given = load(Settings, home | {"RUNMESH_KEK": f"{WORD} {OTHER}"})
    assert given.keks.read() == (ONE, TWO)
    assert WORD not in repr(given)
    assert repr(ONE) not in repr(given)
    (file := tmp_path / "file").write_text(f"{OTHER}\n")
    assert load(Settings, home | {"RUNMESH_KEK_FILE": str(file)}).keks.read() == (TWO,)
    with pytest.raises(BadSettings, match="set one"):
        load(Settings, home | {"RUNMESH_KEK_FILE": str(file), "RUNMESH_KEK": WORD}).keks  # noqa: B018
    with pytest.raises(BadSettings, match="nowhere can't be read: No such file"):
        load(Settings, home | {"RUNMESH_KEK_FILE": str(tmp_path / "nowhere")}).keks.read()
    assert not (tmp_path / "nowhere").exists()
    for wrong in (b"\xfe" * 40, b"", WORD.encode()[:-2]):
        file.write_bytes(wrong)
        with pytest.raises(BadSettings, match="file: it"):
            load(Settings, home | {"RUNMESH_KEK_FILE": str(file)}).keks.read()


def test_a_rotation_puts_a_new_one_in_front_and_keeps_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = {"RUNMESH_HOME": str(tmp_path)}
    keks = load(Settings, home).keks
    assert rotate([], home) == 2
    assert "there is no" in capsys.readouterr().err
    (first,) = keks.read()
    assert rotate([], home) == 0
    second, kept = keks.read()
    assert (kept, len({first, second})) == (first, 2)
    assert keks.path is not None
    assert keks.path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in keks.path.parent.iterdir()] == ["kek"]
    told = capsys.readouterr().out
    assert shown(kek_id(second)) in told
    assert base64.b64encode(second).decode() not in told
    # A service that hasn't looked since would seal what comes next by the first one.
    assert rotate(["--drop-old"], home) == 1
    assert "only just changed: try again in" in capsys.readouterr().err
    assert rotate([], home) == 0
    assert keks.read()[1:] == (second, first)


def test_a_file_keeps_its_mode_and_place(tmp_path: Path) -> None:
    (real := tmp_path / "real").mkdir()
    (real / "kek").write_bytes(ONE)
    (real / "kek").chmod(0o640)
    (link := tmp_path / "kek").symlink_to(real / "kek")
    assert rotate([], {"RUNMESH_HOME": str(tmp_path), "RUNMESH_KEK_FILE": str(link)}) == 0
    assert link.is_symlink()
    assert (real / "kek").stat().st_mode & 0o777 == 0o640
    assert ONE in Keks(tmp_path / "no", link).read()[1:]


def test_what_isnt_a_file_of_ours_isnt_rotated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = {"RUNMESH_HOME": str(tmp_path)}
    assert rotate([], home | {"RUNMESH_KEK": WORD}) == 2
    assert "RUNMESH_KEK holds the keys" in capsys.readouterr().err
    assert rotate([], home | {"RUNMESH_KEK_FILE": str(tmp_path / "nowhere" / "kek")}) == 2
    assert "there is no" in capsys.readouterr().err
    assert rotate([], home | {"RUNMESH_KEK": "short"}) == 2
    assert "entry 1" in capsys.readouterr().err
