from executor.model import Limits

DEFAULT = Limits(1, 2, 3, 4, 5, 1.5, 7, 8)


def test_a_version_sets_what_it_says_and_the_default_the_rest() -> None:
    assert Limits().over(DEFAULT) == DEFAULT
    assert Limits(stream_bytes=9, cpu=0.5).over(DEFAULT) == Limits(1, 2, 9, 4, 5, 0.5, 7, 8)


def test_a_ceiling_lowers_what_is_above_it_and_sets_nothing() -> None:
    most = Limits(memory_bytes=3, cpu=2, disk_bytes=100)
    assert DEFAULT.within(most) == Limits(1, 2, 3, 4, 3, 1.5, 7, 8)
    assert Limits().within(most) == Limits()
    assert DEFAULT.within(Limits()) == DEFAULT
