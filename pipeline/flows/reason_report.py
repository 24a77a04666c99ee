"""What a reasoning run did: its counts, for the summary and the line on stdout."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class ReasonReport:
    """The account of one run.

    Attributes:
        num_queries: Asked about, repeated ones included.
        num_trajectories: Distinct ones that they have, samples included.
        num_cached: Of these, found in the cache, at first or when their turn came: another run, or an actor of this one
            that died, may have written them meanwhile.
        num_generated: Written by this run, whatever they came to.
        num_retried: Of these, tried a second time.
        num_failed: Given up by the engine; not cached.
        last_failure: Why, of one of them.
        finish_reasons: How those of all queries ended, found ones included.
        num_fallback: Queries that will be searched without reasoning, as no trajectory of theirs is usable.
        num_encoded: Vectors that were computed for trajectories found without one.
        num_not_encoded: Trajectories found without one that the encoder failed on.
        num_tokens: Written by this run.
        reasoners: Fingerprints, one a task's instruction.
        source: The model.
        seconds: From the first look-up to the last write.
        startup_seconds: Of these, until the first reasoner had its model in memory.
    """

    source: str
    num_queries: int
    num_trajectories: int = 0
    num_cached: int = 0
    num_generated: int = 0
    num_retried: int = 0
    num_failed: int = 0
    last_failure: str = ""
    finish_reasons: dict[str, int] = field(default_factory=dict)
    num_fallback: int = 0
    num_encoded: int = 0
    num_not_encoded: int = 0
    num_tokens: int = 0
    reasoners: list[str] = field(default_factory=list)
    seconds: float = 0.0
    startup_seconds: float = 0.0

    @property
    def failure(self) -> str:
        """Why the run is none, in a sentence; "" where it came to something."""
        if self.num_failed and not self.num_generated:
            return (
                f"none of the {self.num_failed:,} trajectories that {self.source} was asked for could be generated "
                f"({self.last_failure}); mend that, then run the same command again"
            )
        if not self.num_cached and not self.num_generated:
            return (
                f"none of the {self.num_queries:,} queries has a trajectory of {self.source}; check --reasoner, and "
                "`t1 cache stats` for what was imported"
            )
        return ""

    def sentences(self) -> list[str]:
        """The summary for a person."""
        ended = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.finish_reasons.items()))
        lines = [
            f"{self.num_queries:,} queries have {self.num_trajectories:,} trajectories: {self.num_cached:,} cached, "
            f"{self.num_generated:,} generated, {self.num_failed:,} failed; {ended or 'none'}; "
            f"{self.num_fallback:,} queries are searched without reasoning"
        ]
        if self.num_not_encoded:
            lines.append(f"{self.num_not_encoded:,} trajectories could not be encoded; they are not searched with")
        if self.num_generated:
            busy = max(self.seconds - self.startup_seconds, 1e-9)
            lines.append(f"{self.num_tokens:,} tokens, {self.num_tokens / busy:,.0f} tokens/s, "
                         f"{self.num_generated / busy:.2f} trajectories/s, {self.seconds:,.1f} s in all")  # fmt: skip
        return lines
