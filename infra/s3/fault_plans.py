"""What a fault proxy does to which request: by rules that count requests, or at random from a seed.

Knows methods and paths, and nothing of connections. Called by `infra.s3.faults`, and by tests to write plans.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

PATIENCE_S = 60.0


class Fault(StrEnum):
    """What can be done to a request."""

    SLOW_DOWN = "slow_down"  # 503 as S3 says it; the request is not passed on
    INTERNAL = "internal"  # 500, likewise
    FORBIDDEN = "forbidden"  # 403, likewise
    NO_BUCKET = "no_bucket"  # 404 NoSuchBucket, likewise; a server that makes buckets when they are named never says it
    RESET = "reset"  # the connection is reset, and the request not passed on
    LOST = "lost"  # the request takes effect; its answer is lost in a reset
    LOST_ERROR = "lost_error"  # the request takes effect; its answer is a 500
    TRUNCATED = "truncated"  # half of the answer's body, then the end of the connection
    LATENCY = "latency"  # passed on after `seconds`
    HANG = "hang"  # not passed on; silence until the client goes, or for `seconds`
    LOST_HANG = "lost_hang"  # the request takes effect; then silence
    LATE = "late"  # the connection is reset at once; the request takes effect after `seconds`


@dataclass(frozen=True, slots=True)
class Injection:
    """A fault, and how long it takes where it takes time."""

    fault: Fault
    seconds: float = PATIENCE_S


@dataclass(frozen=True, slots=True)
class Rule:
    """A fault for the `nth` request (counted from 1) that matches, and `times` - 1 after it.

    Attributes:
        fault: What is done.
        method: "" for any.
        path: Regular expression, searched in the decoded path and query.
        nth: The first match that fails.
        times: How many matches fail.
        seconds: Length of a LATENCY, HANG, LOST_HANG or LATE.
    """

    fault: Fault
    method: str = ""
    path: str = ""
    nth: int = 1
    times: int = 1
    seconds: float = PATIENCE_S


# What is to be done to (method, path); called under a lock.
Plan = Callable[[str, str], Injection | None]


def harmless(method: str, path: str) -> None:
    """The plan that lets everything pass."""


def scripted(*rules: Rule) -> Plan:
    """The first rule that is due decides; every rule counts every request that matches it."""
    counts = [0] * len(rules)

    def choose(method: str, path: str) -> Injection | None:
        chosen = None
        for number, rule in enumerate(rules):
            if rule.method in ("", method) and re.search(rule.path, path):
                counts[number] += 1
                if chosen is None and 0 <= counts[number] - rule.nth < rule.times:
                    chosen = Injection(rule.fault, rule.seconds)
        return chosen

    return choose


def at_random(rates: Mapping[Fault, float], *, seed: int, seconds: float) -> Plan:
    """Each fault strikes a share of all requests.

    Args:
        rates: Share of requests per fault; together at most 1. TRUNCATED strikes only GET.
        seed: Of the choice, which depends on it and on how many requests came before.
        seconds: Length of a LATENCY, HANG, LOST_HANG or LATE.
    """
    generator = random.Random(seed)

    def choose(method: str, path: str) -> Injection | None:
        point = generator.random()
        for fault, rate in rates.items():
            if point < rate:
                return Injection(fault, seconds) if fault is not Fault.TRUNCATED or method == "GET" else None
            point -= rate
        return None

    return choose
