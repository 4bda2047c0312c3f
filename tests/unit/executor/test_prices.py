"""By which name a model has its price."""

import pytest

from executor.prices import known_as

KNOWN = {"gpt-4o", "gpt-4o-mini", "gpt-4o-2024-05-13", "claude-3-5-haiku", "claude-sonnet-4", "gemini-2.0-flash"}


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-4o", "gpt-4o"),
        ("GPT-4o-Mini", "gpt-4o-mini"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("gpt-4o-2030-05-13", "gpt-4o"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("claude-3-5-haiku-20241022", "claude-3-5-haiku"),
        ("claude-3-5-haiku@20241022", "claude-3-5-haiku"),
        ("claude-sonnet-4-latest", "claude-sonnet-4"),
        ("models/gemini-2.0-flash-001", "gemini-2.0-flash"),
        ("gemini-2.0-flash-preview-05-20", "gemini-2.0-flash"),
        ("gemini-2.0-flash-preview-tts", None),
        ("claude-sonnet-4-9", None),
        ("gpt-4o-audio", None),
        ("gpt-4o-audio-2024-10-01", None),
        ("gpt-4o-latestx", None),
        ("gpt-4", None),
        ("-2024", None),
        ("", None),
    ],
)
def test_an_edition_of_a_model_costs_what_the_model_does(model: str, name: str | None) -> None:
    assert known_as(model, KNOWN.__contains__) == name


def test_a_long_name_takes_no_long() -> None:
    asked: list[str] = []

    def unknown(name: str) -> bool:
        asked.append(name)
        return False

    assert known_as("a" + "-2024" * 40, unknown) is None
    assert len(asked) == 41
