"""cli.inputs: what -d and fields make of a body."""

import json

import pytest

from cli.inputs import body, content_type, json_value
from cli.problem import Misuse


@pytest.mark.parametrize(
    ("data", "sent"),
    [
        ([], {}),
        (['{"a": [1]}'], {"a": [1]}),
        (["3"], 3),
        (["null"], None),
        (['"text"'], "text"),
        (["name=Ada"], {"name": "Ada"}),
        (["name=a=b"], {"name": "a=b"}),
        (["empty="], {"empty": ""}),
        (["n:=3", "t=3", "l:=[1]", "x:=null"], {"n": 3, "t": "3", "l": [1], "x": None}),
        (["url=https://example.com/?a=b"], {"url": "https://example.com/?a=b"}),
        (["text=two\nlines"], {"text": "two\nlines"}),
        (["a=1", "a=2"], {"a": "2"}),
        (["x-y.z=grüße"], {"x-y.z": "grüße"}),
    ],
)
def test_data(data: list[str], sent: object) -> None:
    assert json.loads(body(data)) == sent
    assert json_value(data) == sent


@pytest.mark.parametrize(
    "data", [["text"], ["{a: 1}"], ["[1"], ["=x"], ["n:="], ["n:=x"], ["1", "2"], ["{}", "a=1"], ["@no", "a=1"], [""]]
)
def test_what_is_no_data_is_refused_before_anything_is_sent(data: list[str]) -> None:
    with pytest.raises(Misuse):
        body(data)


def test_json_goes_as_it_was_written() -> None:
    assert body(['{"a":  1.0}']) == b'{"a":  1.0}'


def test_the_content_type_is_that_of_the_bytes() -> None:
    assert content_type(b'{"a": 1}') == "application/json"
    assert content_type(b"\xff\xfe") == content_type(b"text") == "application/octet-stream"
