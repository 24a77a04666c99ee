"""Tables that Ray Data must not cut, as one value each: it goes by bytes, and would part the chunks of a document.

Half a document in one commit and half in the next is what a kill between them would leave for ever. Used between the
stages.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

_COLUMN = "packed"


def pack(table: pa.Table) -> pa.Table:
    """One row that holds a table, as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    values = sink.getvalue()
    offsets = pa.py_buffer(np.array([0, values.size], np.int64))
    return pa.table({_COLUMN: pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, values])})


def unpack(block: pa.Table) -> pa.Table:
    """The tables that a block holds, at least one, one below the other."""
    return pa.concat_tables(pa.ipc.open_stream(value.as_buffer()).read_all() for value in block.column(_COLUMN))
