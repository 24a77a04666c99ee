"""What a run did: the counts that must add up, for the summary, the `runs` table and the line on stdout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pipeline.records import Reason, Rejected
from pipeline.storage import redact
from pipeline.store.schema import QUARANTINE, RUNS


@dataclass(slots=True)
class RunReport:
    """The account of one run: read = encoded + unchanged + duplicate + quarantined.

    Attributes:
        status: "published"; "refused" when the gate said no; "failed" for any other end; `t1 rollback` leaves
            "rolled_back".
        version: The version in which every row of the run is, once there is one.
        documents_read: Rows of the corpus that were looked at.
        documents_encoded: Documents whose vectors this run wrote.
        documents_unchanged: Documents that were in the table already.
        documents_duplicate: Documents whose id another one had before them.
        documents_quarantined: Rows set aside with a reason.
        documents_deleted: Documents that left the table because the corpus no longer has them.
        shards_unreadable: Files that could not be read to their end; with one of these nothing is deleted.
        num_chunks: Rows written.
        num_tokens: Tokens encoded, frame included.
        num_slots: Token positions computed.
        flops: Useful floating-point operations.
        encode_seconds: Busy seconds of all encoders together.
        stream_seconds: Wall time from the first read task to the last commit.
        startup_seconds: Of these, until the first encoder had its model in memory.
    """

    run_id: str
    model: str
    fingerprint: str
    started_at: datetime
    status: str = "running"
    version: int | None = None
    documents_read: int = 0
    documents_encoded: int = 0
    documents_unchanged: int = 0
    documents_duplicate: int = 0
    documents_quarantined: int = 0
    documents_deleted: int = 0
    shards_unreadable: int = 0
    num_chunks: int = 0
    num_tokens: int = 0
    num_slots: int = 0
    flops: int = 0
    encode_seconds: float = 0.0
    stream_seconds: float = 0.0
    startup_seconds: float = 0.0
    finished_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    error: str = ""

    def add(self, result: Mapping[str, Any]) -> list[Rejected]:
        """Counts what `write_fragments` says of one window; returns the documents that were set aside in it."""
        rejected = [Rejected(**row | {"reason": Reason(row["reason"])}) for row in result["rejected"]]
        self.documents_encoded += result["num_documents"]
        self.documents_quarantined += len(rejected)
        self.num_chunks += result["num_rows"]
        self.num_tokens += result["tokens"]
        self.num_slots += result["slots"]
        self.flops += result["flops"]
        self.encode_seconds += result["seconds"]
        return rejected

    @property
    def unaccounted(self) -> int:
        """Documents read that are in no other count; 0 in a run that ended well."""
        return self.documents_read - (
            self.documents_encoded + self.documents_unchanged + self.documents_duplicate + self.documents_quarantined
        )

    def as_json(self) -> dict[str, Any]:
        """For the one line on stdout."""
        values = asdict(self)
        seconds = (self.finished_at - self.started_at).total_seconds()
        values["started_at"] = self.started_at.isoformat(timespec="seconds")
        values["finished_at"] = self.finished_at.isoformat(timespec="seconds")
        for name in ("encode_seconds", "stream_seconds", "startup_seconds"):
            values[name] = round(values[name], 3)
        return values | {"seconds": round(seconds, 3)}

    def as_row(self, settings: str) -> pa.Table:
        """One row of the `runs` table.

        Args:
            settings: JSON of the resolved settings.
        """
        known = asdict(self) | {"settings": redact(settings)}
        return pa.Table.from_pylist([{name: known[name] for name in RUNS.names}], schema=RUNS)

    def sentences(self) -> list[str]:
        """The summary for a person."""
        seconds = (self.finished_at - self.started_at).total_seconds()
        lines = [
            f"{self.documents_read:,} documents read = {self.documents_encoded:,} encoded + "
            f"{self.documents_unchanged:,} unchanged"
            f" + {self.documents_duplicate:,} duplicate + {self.documents_quarantined:,} quarantined"
            + (f"; {self.documents_deleted:,} deleted" if self.documents_deleted else "")
        ]
        if self.num_tokens and self.stream_seconds:
            lines.append(
                f"{self.num_chunks:,} chunks, {self.num_tokens:,} tokens, "
                f"{self.num_tokens / self.stream_seconds:,.0f} tokens/s, "
                f"{self.num_slots / self.num_tokens:.2f} slots a token, {seconds:,.1f} s in all"
            )
        else:
            lines.append(f"nothing to encode; {seconds:,.1f} s in all")
        return lines


def quarantine_rows(rejected: list[Rejected], run_id: str) -> pa.Table:
    """Rows of the quarantine table."""
    now = datetime.now(UTC)
    return pa.Table.from_pylist(
        [
            {
                "run_id": run_id, "shard": r.shard, "offset": r.offset, "id": r.id, "reason": str(r.reason),
                "detail": r.detail, "text": r.text, "created_at": now,
            }
            for r in rejected
        ],
        schema=QUARANTINE,
    )  # fmt: skip
