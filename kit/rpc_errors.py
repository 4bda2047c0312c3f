"""One table between the kinds of kit.errors and gRPC statuses, used by servers and clients alike."""

from datetime import timedelta

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from kit.errors import (
    Conflict,
    Denied,
    Exhausted,
    Invalid,
    NotFound,
    Precondition,
    Problem,
    Unauthenticated,
    Unavailable,
)

DETAILS_KEY = "grpc-status-details-bin"

_STATUS: dict[type[Problem], grpc.StatusCode] = {
    Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    Denied: grpc.StatusCode.PERMISSION_DENIED,
    NotFound: grpc.StatusCode.NOT_FOUND,
    Conflict: grpc.StatusCode.ABORTED,
    Precondition: grpc.StatusCode.FAILED_PRECONDITION,
    Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
}
_KIND = {status: kind for kind, status in _STATUS.items()} | {
    grpc.StatusCode.ALREADY_EXISTS: Conflict,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,
}


def to_status(problem: Problem) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """(status, message, trailing metadata with google.rpc.ErrorInfo and RetryInfo)."""
    code = _STATUS[type(problem)]
    status = status_pb2.Status(code=code.value[0], message=problem.message)
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason=problem.code, domain="runmesh"))
    status.details.append(info)
    if problem.retry_after is not None:
        retry = any_pb2.Any()
        delay = duration_pb2.Duration()
        delay.FromTimedelta(problem.retry_after)
        retry.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        status.details.append(retry)
    return code, problem.message, ((DETAILS_KEY, status.SerializeToString()),)


def from_rpc_error(error: grpc.aio.AioRpcError) -> Problem | None:
    """The kind that the server raised; None when it was none (a bug there: INTERNAL, UNKNOWN)."""
    kind = _KIND.get(error.code())
    if kind is None:
        return None
    code, retry_after = "", None
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            code, retry_after = _details(value)
    return kind(error.details() or kind.__name__, code=code, retry_after=retry_after)


def _details(value: bytes) -> tuple[str, timedelta | None]:
    code, retry_after = "", None
    for detail in status_pb2.Status.FromString(value).details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            code = info.reason
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta()
    return code, retry_after
