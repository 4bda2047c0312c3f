"""What was measured of some calls, and a table's row of it."""

from dataclasses import dataclass, field

HEADER = "| rung | connections | calls | p50 ms | p99 ms | calls/s | CPU-ms/call | errors |\n" + "|---" * 8 + "|"


@dataclass(frozen=True)
class Calls:
    """Of the calls that were answered the latencies in ms, in any order."""

    taken: list[float]
    seconds: float  # for all of them
    errors: dict[str, int] = field(default_factory=dict)  # by status or code
    reached: list[float] = field(default_factory=list)  # ms until user code ran, of an app that tells

    def __add__(self, other: "Calls") -> "Calls":
        """As if these had followed those."""
        kinds = self.errors.keys() | other.errors.keys()
        errors = {kind: self.errors.get(kind, 0) + other.errors.get(kind, 0) for kind in kinds}
        seconds = self.seconds + other.seconds
        return Calls(self.taken + other.taken, seconds, errors, self.reached + other.reached)

    @property
    def p50(self) -> float:
        return sorted(self.taken)[len(self.taken) // 2]

    @property
    def p99(self) -> float:
        return sorted(self.taken)[int(len(self.taken) * 0.99)]

    @property
    def per_second(self) -> float:
        return len(self.taken) / self.seconds

    @property
    def inside(self) -> float:
        """ms until user code ran, the median."""
        return sorted(self.reached)[len(self.reached) // 2]


@dataclass(frozen=True)
class Figure:
    """A rung of a ladder."""

    rung: str
    connections: int
    done: Calls
    cpu_ms: float  # of all processes of the rung, for all calls

    def row(self) -> str:
        done = self.done
        return (
            f"| {self.rung} | {self.connections} | {len(done.taken)} | {done.p50:.2f} | {done.p99:.2f} "
            f"| {done.per_second:.0f} | {self.cpu_ms / len(done.taken):.2f} | {done.errors or ''} |"
        )
