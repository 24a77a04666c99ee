"""Whether a difference between two modes could be chance. Knows numbers, not rankings. Called by `compare`.

The paired randomisation test, as Smucker, Allan and Carterette recommend for retrieval (CIKM 2007), with Holm's
correction where several differences are reported together (Scandinavian Journal of Statistics 6, 1979).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

_SEED = 20_070_611
# Up to so many differing queries every change of signs is tried; beyond, so many are drawn.
_EXACT_UP_TO = 14
_NUM_SAMPLES = 50_000
_BATCH = 5_000
# Sums of the same numbers in another order differ by rounding.
_TOLERANCE = 1e-12


def paired_p_value(differences: Sequence[float]) -> float:
    """The two-sided p-value of a mean difference between paired measurements, in (0, 1].

    Were the two the same, each difference could as well have the other sign: the share of sign changes whose sum is
    as far from zero as the one that was seen. Exact where few queries differ, else drawn with a fixed seed.

    Args:
        differences: One a query; zeros change nothing.
    """
    values = np.array([value for value in differences if value != 0.0], dtype=np.float64)
    if not len(values):
        return 1.0
    seen = abs(values.sum()) - _TOLERANCE * np.abs(values).sum()
    if len(values) <= _EXACT_UP_TO:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(values))))
        return float(np.mean(np.abs(signs @ values) >= seen))
    draw = np.random.default_rng(_SEED)
    as_far = 0
    for _ in range(_NUM_SAMPLES // _BATCH):
        signs = draw.integers(0, 2, size=(_BATCH, len(values)), dtype=np.int8) * 2.0 - 1.0
        as_far += int(np.count_nonzero(np.abs(signs @ values) >= seen))
    # what was seen is one of the possible outcomes, so the value is never 0
    return (as_far + 1) / (_NUM_SAMPLES + 1)


def correct_by_holm(p_values: Sequence[float]) -> list[float]:
    """The same p-values, each raised so that together they err as rarely as one alone would; in the given order."""
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected
