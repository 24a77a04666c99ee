"""What went wrong, underneath what Ray wrapped round it."""

from __future__ import annotations

from pipeline.errors import T1Error


def root_cause(error: BaseException) -> BaseException:
    """The error of ours that caused `error`, freed of Ray's wrapping; `error` itself where there is none."""
    seen: BaseException | None = error
    while seen is not None:
        inner = getattr(seen, "cause", None)
        for candidate in (seen, inner):
            if isinstance(candidate, T1Error):
                # Ray's wrapper is both its own error and ours; give back a clean one
                plain = next(c for c in type(candidate).__mro__ if c.__module__ == "pipeline.errors")
                return candidate if type(candidate) is plain else plain(_last_sentence(candidate))
        seen = seen.__cause__ or (inner if isinstance(inner, BaseException) else None)
    return error


def _last_sentence(error: BaseException) -> str:
    """What a remote error says, without the remote traceback above it."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[-1].partition(": ")[2] or lines[-1]) if lines else type(error).__name__
