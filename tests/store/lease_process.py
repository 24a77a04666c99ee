"""A holder in a process of its own, to be paused, killed and asked; run as a script.

Its arguments are the database, a run id and the time to live. It takes the lease and says so, then obeys one word a
line: `check`, `release`.
"""

from __future__ import annotations

import sys

from pipeline.errors import LeaseHeld, LeaseLost
from pipeline.store import lease as lease_module
from pipeline.store import lease_holder
from pipeline.store.database import Database
from pipeline.store.lease import Lease


def main(uri: str, run_id: str, ttl_s: str) -> None:
    # signs of life come often, so that however long the lease lasts nobody has to watch it for long
    lease_module._RENEW_SHARE = 0.1 / float(ttl_s)
    lease_holder._MAX_POLL_S = 0.05
    try:
        lease = Lease.acquire(Database.at(uri), run_id=run_id, ttl_s=float(ttl_s))
    except LeaseHeld as error:
        print(f"held: {error}", flush=True)
        return
    print(f"acquired {lease.token}", flush=True)
    for line in sys.stdin:
        try:
            lease.check() if line.strip() == "check" else lease.release()
        except LeaseLost as error:
            print(f"lost: {error}", flush=True)
        else:
            print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
