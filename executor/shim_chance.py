"""Chance in forks of one process: what was seeded before the fork would repeat itself in each of them.

Standard library only, beside shim.py in the sandbox.
"""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any


def be_unique(*, forks: bool = False) -> None:
    """What two forks of one process must not share: random streams, names, caches of who they are. One that `forks`
    itself goes on to remember what has to be made unique.

    OpenSSL sees to it by itself, by the changed pid (bubblewrap.py).
    """
    if not forks:
        for undo in _undo:
            undo()
    random.seed()
    for instance in _seeded_by_chance:
        instance.seed()
    for generator in _generators:
        generator.state = type(generator)().state
    if not forks:
        for remembered in (_undo, _drawn):
            remembered.clear()
    numpy_random: Any = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    tempfile: Any = sys.modules.get("tempfile")
    if tempfile is not None:
        tempfile._name_sequence = None  # noqa: SLF001  # it looks at the pid, which is the same in every pid namespace
    uuid: Any = sys.modules.get("uuid")
    if uuid is not None:
        uuid._last_timestamp = None  # noqa: SLF001  # there is no public way, here and below
        uuid._node = random.getrandbits(48) | (1 << 40)  # noqa: SLF001  # uuid1's: the host's own is none of its business


def repeat(seed: str) -> None:
    """From now on chance is what this seed makes of it, for each generator on its own."""
    random.seed(seed)
    for number, instance in enumerate(_seeded_by_chance):
        with suppress(Exception):  # a subclass that wants other seeds
            instance.seed(f"{seed} {number}")
    numpy_random: Any = sys.modules.get("numpy.random")
    if numpy_random is not None:
        number = random.Random(seed).getrandbits(128)  # noqa: S311  # no secret: it is to be repeated
        numpy_random.seed([number >> shift & 0xFFFFFFFF for shift in (0, 32, 64, 96)])
        for place, generator in enumerate(_generators):
            generator.state = type(generator)([number, place]).state


_seeded_by_chance: list[random.Random] = []
_undo: list[Callable[[], None]] = []  # a slot has no use for what a template remembers
_drawn: set[int] = set()  # what NumPy has drawn to seed generators with
_generators: list[Any] = []  # NumPy's that are seeded with that


def watch_randomness() -> None:
    """Remembers generators that user code makes without a seed, to reseed them in each slot."""
    original = random.Random.seed
    _undo.append(lambda: setattr(random.Random, "seed", original))

    def seed(self: random.Random, a: Any = None, version: int = 2) -> None:
        original(self, a, version)
        known = any(one is self for one in _seeded_by_chance)
        if a is None and not known:
            _seeded_by_chance.append(self)
        elif a is not None and known:
            _seeded_by_chance[:] = [one for one in _seeded_by_chance if one is not self]

    random.Random.seed = seed  # type: ignore[method-assign]


def watch_numpy(module: Any) -> None:
    """Of numpy.random.bit_generator: remembers what seeds come from chance. `default_rng()` at import is common."""
    draw = getattr(module, "randbits", None)
    if draw is None:
        return

    _undo.append(lambda: setattr(module, "randbits", draw))

    def randbits(count: int) -> int:
        number: int = draw(count)
        _drawn.add(number)
        return number

    module.randbits = randbits


def find_generators() -> None:
    """NumPy's generators that were seeded by chance, to be seeded anew in each slot."""
    module: Any = sys.modules.get("numpy.random.bit_generator")
    if module is None or not _drawn:
        return
    for candidate in gc.get_objects():
        if issubclass(type(candidate), module.BitGenerator):  # not `isinstance`, which asks foreign proxies
            seed = getattr(candidate, "seed_seq", None) or getattr(candidate, "_seed_seq", None)
            entropy = getattr(seed, "entropy", None)
            if isinstance(entropy, int) and entropy in _drawn:
                _generators.append(candidate)
