"""An executor in which no slot ever waits: each call forks its own.

`python -m tests.bench.on_demand`, in the executor's place.
"""

from datetime import timedelta
from functools import partial

from executor.spawner_client import launch


def run() -> None:
    """As `python -m executor`: what imports grpc is imported after the spawner has started."""
    launched = launch()
    from executor import templates  # noqa: PLC0415  # see above
    from executor.main import build  # noqa: PLC0415
    from executor.settings import Settings  # noqa: PLC0415
    from kit.lifecycle import main  # noqa: PLC0415

    templates.HOT = timedelta(seconds=-1)
    main("executor", Settings, partial(build, launched=launched))


if __name__ == "__main__":
    run()
