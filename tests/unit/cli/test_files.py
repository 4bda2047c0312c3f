"""`runmesh files get`: what a file is called here is for somebody else to say, where it goes isn't."""

import pytest

from cli.files import _name


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ('attachment; filename="report.txt"', "report.txt"),
        ("attachment; filename*=utf-8''r%C3%A9port.txt", "réport.txt"),
        ('attachment; filename="/etc/passwd"', "passwd"),
        ("attachment; filename*=utf-8''..%2F..%5C.bashrc", "download"),
        ('attachment; filename=".."', "download"),
        ('attachment; filename="-"', "download"),  # it would go to the terminal, as it is
        ("attachment", "download"),
        ("", "download"),
    ],
)
def test_a_files_own_name_is_never_a_path(told: str, name: str) -> None:
    assert _name(told) == name
