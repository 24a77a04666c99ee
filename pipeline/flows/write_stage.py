"""The last stage of an index run: rows that encoders made become fragments, and an account of them.

What `EncodeStage` yields comes in; what the driver commits goes out.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from pipeline.flows.packing import unpack
from pipeline.records import QUARANTINE_TEXT_CHARS, Reason
from pipeline.store.fragments import write_rows


class WriteStage:
    """An actor round `write_fragments`.

    Ray ends a task's process that is idle for a second: tasks would start one a window, at two seconds of a core each.
    """

    def __init__(self, uri: str, schema: pa.Schema) -> None:
        self.uri = uri
        self.schema = schema

    def __call__(self, block: pa.Table) -> pa.Table:
        """What `write_fragments` does."""
        return write_fragments(unpack(block), uri=self.uri, schema=self.schema)


def write_fragments(block: pa.Table, *, uri: str, schema: pa.Schema) -> pa.Table:
    """Writes a block's good rows as fragments; returns one row that tells the committer about them."""
    reasons = block.column("reject_reason").to_pylist()
    good = block.filter(pa.array([not reason for reason in reasons]))
    written = write_rows(good, uri, schema=schema)
    stats = [json.loads(text) for text in block.column("stats").to_pylist() if text]
    totals = {name: sum(s[name] for s in stats) for name in ("tokens", "slots", "flops", "seconds")}
    result = {
        "fragments": written.fragments,
        "num_rows": written.num_rows,
        "size_bytes": written.size_bytes,
        "num_chunks": block.num_rows,
        "windows": [s["window"] for s in stats],
        "num_documents": sum(1 for c in good.column("chunk").to_pylist() if c == 0),
        "rejected": [
            _rejected(row) for row in block.filter(pa.array(map(bool, reasons))).to_pylist() if row["chunk"] == 0
        ],
        "ready_at": min((s["ready_at"] for s in stats), default=None),
        **totals,
    }
    return pa.table({"result": [json.dumps(result)]})


def _rejected(row: dict[str, Any]) -> dict[str, Any]:
    details = {
        Reason.OUT_OF_MEMORY: "the text does not fit in memory even alone; lower --chunk-tokens or use a larger device",
        Reason.NOT_FINITE: "the model gave values that are not finite for this text",
        Reason.CRASHED: "the encoder's process died each time it worked on this document alone",
    }
    reason = Reason(row["reject_reason"])
    return {
        "shard": row["shard"], "offset": row["offset"], "id": row["id"], "reason": str(reason),
        "detail": details.get(reason, ""), "text": row["text"][:QUARANTINE_TEXT_CHARS],
    }  # fmt: skip
