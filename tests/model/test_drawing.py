"""Drawing a token: the distribution is the one that was asked for, and a row does not depend on its neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.model.drawing import draw_tokens, uniform
from pipeline.query_settings import SamplingSettings

torch = pytest.importorskip("torch")

SETTINGS = st.builds(
    SamplingSettings,
    temperature=st.sampled_from([0.2, 0.7, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 100]),
    top_p=st.sampled_from([0.1, 0.5, 0.95, 1.0]),
)


def _allowed(row: np.ndarray, sampling: SamplingSettings) -> np.ndarray:
    """Probabilities as the settings' documentation has them, one token after another."""
    scaled = row / sampling.temperature
    order = sorted(range(len(row)), key=lambda n: -scaled[n])
    if 0 < sampling.top_k < len(row):
        least = scaled[order[sampling.top_k - 1]]
        scaled = np.where(scaled < least, -np.inf, scaled)
    weights = np.exp(scaled - scaled.max())
    weights /= weights.sum()
    before = 0.0
    for n in order:
        if before >= sampling.top_p:
            weights[n] = 0.0
        before += weights[n]
    return weights / weights.sum()


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingSettings(temperature=1.0),
        SamplingSettings(temperature=0.5),
        SamplingSettings(temperature=1.0, top_k=3),
        SamplingSettings(temperature=2.0, top_p=0.8),
        SamplingSettings(temperature=2.0, top_k=4, top_p=0.9),
    ],
)
def test_tokens_are_as_frequent_as_they_are_likely(sampling: SamplingSettings) -> None:
    row = np.random.default_rng(3).normal(size=7).astype(np.float32)
    num = 4_000
    numbers = [(n + 0.5) / num for n in range(num)]  # evenly, so that each token gets its share to a draw
    tokens = draw_tokens(torch.tensor(row).repeat(num, 1), [sampling] * num, numbers)
    share = np.bincount(tokens.numpy(), minlength=7) / num
    assert np.abs(share - _allowed(row, sampling)).max() <= 2 / num


@given(
    rows=st.lists(st.tuples(SETTINGS, st.integers(0, 2**32), st.floats(1e-6, 1 - 1e-6)), min_size=1, max_size=6),
    size=st.integers(2, 40),
)
@settings(max_examples=150, deadline=None)
def test_a_row_is_drawn_as_if_it_were_alone(rows: list[tuple[SamplingSettings, int, float]], size: int) -> None:
    logits = torch.tensor(np.stack([np.random.default_rng(seed).normal(size=size) for _, seed, _ in rows]))
    logits = logits.float().index_fill(1, torch.tensor([size - 1]), float("-inf"))
    samplings, numbers = [row[0] for row in rows], [row[2] for row in rows]
    together = draw_tokens(logits.clone(), samplings, numbers).tolist()
    for n, token in enumerate(together):
        assert draw_tokens(logits[n : n + 1].clone(), [samplings[n]], [numbers[n]]).tolist() == [token]
        assert token != size - 1
        assert _allowed(logits[n].double().numpy(), samplings[n])[token] > 0


def test_what_may_not_come_does_not_even_at_the_ends() -> None:
    logits = torch.tensor([[float("-inf"), 0.0, 0.0, float("-inf")]]).repeat(2, 1)
    ends = [0.5 / 256**6, 1 - 0.5 / 256**6]
    assert draw_tokens(logits, [SamplingSettings(temperature=1.0)] * 2, ends).tolist() == [1, 2]


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_request_on_which_the_model_broke_down_spoils_no_other(broken: float) -> None:
    logits = torch.tensor([[0.0, broken, 1.0], [0.0, 9.0, 0.0]])
    spoilt, other = draw_tokens(logits, [SamplingSettings(temperature=0.5)] * 2, [0.999, 0.5]).tolist()
    assert 0 <= spoilt < 3
    assert other == 1


@pytest.mark.parametrize("temperature", [1e-3, 1e-38, 1e-46])
def test_the_coldest_draw_is_the_likeliest_token(temperature: float) -> None:
    logits = torch.tensor([[30.0, 31.0, -5.0, float("-inf")]])
    assert draw_tokens(logits, [SamplingSettings(temperature=temperature)], [0.999]).tolist() == [1]


def test_numbers_are_even_and_stay_what_they_are() -> None:
    numbers = np.array([uniform(seed, written) for seed in range(40) for written in range(100)])
    assert len(set(numbers.tolist())) == len(numbers)
    assert np.histogram(numbers, bins=10, range=(0, 1))[0].min() > 320
    # a change would give every seeded trajectory another text
    assert uniform(7, 11) == pytest.approx(0.9323479849067393, abs=1e-12)
