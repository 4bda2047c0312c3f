"""Why a run failed, in the codes of SPEC §2. Pure."""

from executor.model import Outcome
from executor.receive import TooMuchOutput
from executor.sandbox import Crashed, StartFailed
from kit.errors import Problem, Unavailable
from kit.telemetry import log

# Problems whose code means the same to the run's caller.
_TOLD_AS_THEY_ARE = frozenset({"missing_secret", "not_supported", "payment_required", "too_large", "too_many_runs"})


def outcome_of(error: Exception) -> Outcome:
    """The outcome of a run that `error` ended. What nobody foresaw is a bug of ours: its text stays in our log."""
    match error:
        case StartFailed():
            where = f" (line {error.line})" if error.line else ""
            return Outcome.failed("workflow_failed_to_start", f"{error.kind}: {error.detail}{where}")
        case TooMuchOutput():
            return Outcome.failed("too_much_output", str(error))
        case Crashed():
            return Outcome.failed("workflow_crashed", str(error) or "the workflow's process ended")
        case Problem():
            return Outcome.failed(_code(error), error.message)
    log().error("run.broke", exc_info=error)
    return Outcome.failed("runtime_error", "internal error")


def in_our_log(error: BaseException) -> str:
    """Why something of a workflow's failed, for the platform's own log: the workflow's words may hold its secrets."""
    match error:
        case StartFailed():
            return error.kind
        case Problem():
            return error.message
    return type(error).__name__


def _code(problem: Problem) -> str:
    if problem.code in _TOLD_AS_THEY_ARE:
        return problem.code
    if problem.code == "invalid_workflow":
        return "workflow_failed_to_start"
    return "unavailable" if isinstance(problem, Unavailable) else "runtime_error"
