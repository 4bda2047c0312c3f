"""What the server does for a check or a deploy, while it does it: lines of the log of a provisioned id."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING

from cli.logs import lines
from cli.problem import Problem, Refused

if TYPE_CHECKING:
    from cli.client import Api

# The log ends with the answer, which isn't held up where it doesn't.
_LAST_SECONDS = 1.0


@contextmanager
def steps(api: "Api", tell: Callable[[str], None]) -> Iterator[dict[str, str]]:
    """Gives the headers for a request, and `tell` its steps. A key that may start no runs isn't told any."""
    try:
        log_id = api.ask("POST", "/provision-request")["request_id"]
    except Refused:
        yield {}
        return
    follower = Thread(target=_follow, args=(api, log_id, tell), daemon=True)
    follower.start()
    try:
        yield {"X-Provisioned-Request-Id": log_id}
    finally:
        follower.join(_LAST_SECONDS)


def _follow(api: "Api", log_id: str, tell: Callable[[str], None]) -> None:
    # The answer itself says what is wrong; RuntimeError: the client is closed already.
    with suppress(Problem, RuntimeError):
        for line in lines(api, log_id):
            tell(str(line["message"]))
