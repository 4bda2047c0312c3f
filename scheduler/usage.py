"""What a run used. Standard library only."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Usage:
    """What a run used in all its attempts, nested calls not included: seconds of a processor, seconds of its sandbox's
    life, the most bytes of memory at once, bytes sent and received on its way to the internet, tokens of models.
    """

    cpu_seconds: float = 0
    wall_seconds: float = 0
    memory_peak_bytes: int = 0
    egress_bytes: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def plus(self, other: "Usage | None") -> "Usage":
        """Of both, one after the other."""
        if other is None:
            return self
        return Usage(
            self.cpu_seconds + other.cpu_seconds,
            self.wall_seconds + other.wall_seconds,
            max(self.memory_peak_bytes, other.memory_peak_bytes),
            self.egress_bytes + other.egress_bytes,
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
        )
