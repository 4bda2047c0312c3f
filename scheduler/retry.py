"""When another attempt follows one that failed, and after which pause. Standard library only."""

from datetime import timedelta

# Ends of an attempt that are no doing of the workflow's: an asynchronous run gets another attempt.
OURS = frozenset({"runtime_error", "unavailable"})
# Ends that the next attempt would come to as well.
FINAL = frozenset({"payment_required"})
# So often a run may lose its attempt to us; one time more, and it is dead.
MOST_LOSSES = 5
FIRST_PAUSE = timedelta(seconds=1)
LONGEST_PAUSE = timedelta(minutes=1)


def pause(failures: int) -> timedelta:
    """Before the next attempt, after so many that failed: 1, 2, 4, … seconds, a minute at most."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * (1 << min(failures - 1, 10)))
