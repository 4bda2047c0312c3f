"""`runmesh down`."""

import os
import signal
import time

from cli.lock import owner
from cli.supervise import say
from kit.settings import BadSettings, MeshSettings, load

PATIENCE_SECONDS = 60.0


def stop() -> int:
    """Exit status: 0 when it has stopped or nothing ran, 1 when it didn't stop within a minute, 2 for bad settings."""
    try:
        home = load(MeshSettings, os.environ).home
        running = owner(home)
        if running is None:
            say("runmesh", f"nothing runs on {home}")
            return 0
        if running:
            os.kill(running, signal.SIGTERM)
        say("runmesh", "stopping; calls and runs under way have 10 s each to end")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while owner(home) is not None:
            if time.monotonic() > deadline:
                say("runmesh", f"process {running} did not stop within a minute; its output says what it waits for")
                return 1
            time.sleep(0.1)
    except BadSettings as bad:
        say("runmesh", str(bad))
        return 2
    except ProcessLookupError:
        pass  # it ended between the look and the signal
    say("runmesh", "stopped")
    return 0
