"""The end of the drain: calls that are still under way then are told, so that they end with an answer of ours."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Ending:
    """Knows the calls under way, and tells them once that their time is up."""

    def __init__(self) -> None:
        self._open: dict[object, Callable[[], None]] = {}
        self._over = False

    @contextmanager
    def watching(self, on_end: Callable[[], None]) -> Iterator[None]:
        """`on_end` is called when the end comes within the block, or at once when it has come before."""
        mine = object()
        self._open[mine] = on_end
        if self._over:
            on_end()
        try:
            yield
        finally:
            del self._open[mine]

    def come(self) -> None:
        """The end."""
        self._over = True
        for on_end in list(self._open.values()):
            on_end()
