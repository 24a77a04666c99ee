"""What went wrong, underneath what Ray wrapped round it."""

from __future__ import annotations

import re

from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    WorkerCrashedError,
)

from pipeline import errors
from pipeline.errors import T1Error
from pipeline.retry import Failure, classify, explain

# How the traceback of another process ends that Ray Data handed over as text only.
_IN_TRACEBACK = re.compile(r"^\s*pipeline\.errors\.(?P<name>\w+): (?P<message>.+)$", re.MULTILINE)
# What Ray says once it has given up replacing it.
_LOST = (LocalRayletDiedError, NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError)
# So it begins of an actor that could not be made: nothing was lost, and the traceback in it is what helps.
_NEVER_MADE = "The actor died because of an error raised in its creation task"


def root_cause(error: BaseException) -> BaseException:
    """The error of ours that caused `error`, or that says it, freed of Ray's wrapping; else `error` itself."""
    seen: BaseException | None = error
    while seen is not None:
        inner = getattr(seen, "cause", None)
        for candidate in (inner, seen):
            # Ray's wrapper is both its own error and ours: only the one within is what was raised
            if isinstance(candidate, T1Error) and type(candidate).__module__ == errors.__name__:
                return _without_advice(candidate)
        seen = seen.__cause__ or (inner if isinstance(inner, BaseException) else None)
    return _as_told(str(error)) or _as_store(error) or _as_loss(error) or error


def _as_loss(error: BaseException) -> T1Error | None:
    """A part of the cluster that is gone for good."""
    if not isinstance(error, _LOST) or str(error).startswith(_NEVER_MADE):
        return None
    said = str(error).strip().partition("\n")[0].rstrip(".")
    return errors.ClusterLost(
        f"Ray lost a part of the cluster: {said}; what was committed is kept, and the same command goes on"
    )


def _as_store(error: BaseException) -> T1Error | None:
    """A store's failure that nobody on the way has put into words."""
    if not isinstance(error, Exception) or classify(error) is Failure.PERMANENT:
        return None
    return errors.StorageError(explain(error, "the run"))


def _without_advice(error: T1Error) -> T1Error:
    """The error with our one sentence, without the lines on retries that Ray Data adds to it."""
    sentence, _, more = str(error).partition("\n")
    return type(error)(sentence) if more else error


def _as_told(text: str) -> T1Error | None:
    """The last error of ours that a traceback tells of."""
    told = list(_IN_TRACEBACK.finditer(text))
    kind = getattr(errors, told[-1]["name"], None) if told else None
    return kind(told[-1]["message"].strip()) if kind is not None and issubclass(kind, T1Error) else None
