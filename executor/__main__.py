"""`python -m executor`: starts the spawner first, before anything imports grpc (grpcio and fork hang together)."""

import sys
from functools import partial

from executor.spawner_client import launch


def run() -> None:
    """Serves until told to stop. What imports grpc is imported after the spawner has started."""
    launched = None if "--check" in sys.argv else launch()
    from executor.main import build  # noqa: PLC0415  # see above
    from executor.settings import Settings  # noqa: PLC0415
    from kit.lifecycle import main  # noqa: PLC0415

    main("executor", Settings, partial(build, launched=launched))


if __name__ == "__main__":
    run()
