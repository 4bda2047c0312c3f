"""What stays of an attempt, besides how it ended. Standard library only."""

from dataclasses import dataclass

from scheduler.usage import Usage


@dataclass(frozen=True)
class Answer:
    """What is kept of an answer. `head` is a serialized mesh.runs.v1.AnswerHead, opaque here; `size` in bytes."""

    head: bytes
    content: bytes = b""
    digest: str = ""
    size: int = 0


@dataclass(frozen=True)
class Result:
    """What an executor says about the end of an attempt, besides its outcome."""

    answer: Answer | None = None
    log_digest: str = ""
    egress_digest: str = ""
    usage: Usage | None = None
    recording_digest: str = ""
    # SHA-256 (hex) of the bodies of request and answer.
    input_sha256: str = ""
    output_sha256: str = ""
    # The workflow answered 400 or more, or something that is no result: under /api/v1 that is no success.
    refused: bool = False


NOTHING = Result()


@dataclass(frozen=True)
class Earlier:
    """An attempt that another followed."""

    number: int
    executor: str
    code: str
    detail: str
    log_digest: str
    egress_digest: str
