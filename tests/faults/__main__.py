"""`make soak MINUTES=10 [SEED=n]`: the mesh under load and faults for so many minutes, then judged. Exit status 1 when
a promise was broken; the seed that is printed makes the same faults in the same order.
"""

import argparse
import random
import sys
import time

from tests.faults.campaign import campaign
from tests.faults.faults import planned
from tests.faults.promise import summary, violations

# Seconds between two faults; runs a minute.
EVERY = (2.0, 8.0)
ASYNCHRONOUS, SYNCHRONOUS = 60, 24


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, help="of a soak before, to have its faults again")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    seconds = 60 * options.minutes
    faults, passed = [], 0.0
    for fault in planned(seed, 10_000, EVERY, slow=True):
        passed += fault.after
        if passed > seconds:
            break
        faults.append(fault)
    print(f"seed {seed}: {len(faults)} faults in {options.minutes:g} minutes", flush=True)
    asynchronous, synchronous = round(ASYNCHRONOUS * options.minutes), round(SYNCHRONOUS * options.minutes)
    started = time.monotonic()
    history = campaign(seed, asynchronous, synchronous, seconds, faults, say=lambda text: print(text, flush=True))
    print(f"\n{summary(history)}\ntook           {time.monotonic() - started:.0f} s, seed {seed}")
    broken = violations(history)
    print("\n".join(broken) if broken else "every promise was kept")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
