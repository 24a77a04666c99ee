"""CPU that short tasks reserve of a node.

Apart from `cluster`, which a process of Ray's need not load before it can compare or read.
"""

from __future__ import annotations

# Of one read task, and of one write task; both mostly wait for storage.
READ_CPUS = 0.5
WRITE_CPUS = 0.25
