"""A driver that dies at every point of a run, and at any moment: the same command again ends in the same table."""

from __future__ import annotations

import random

import pytest

from tests.crash.conftest import NewTrial
from tests.crash.harness import Table, Trial, assert_as_if_undisturbed
from tests.crash.points import STEPS

pytestmark = [pytest.mark.ray, pytest.mark.s3]  # S3, as the cluster's workers can reach that, too

# In the order that a run reaches them, so that each run gets as far as its point.
FIRST = [
    "quarantine:after",
    "begin:after",
    "append:before:2",
    "append:after:2",
    "merge:before",
    "merge:after",
    "indexes:after",
    "gate:before",
    "first-live:before",
]
SECOND = ["scan-cache:before", "fence:after", "append:after", "deletion-file:after", "delete:after",
          "fence:before:2", "live:before", "upkeep:before", "runs:before"]  # fmt: skip
# Steps that a run may take several times.
REPEATED = {"quarantine": 2, "append": 3, "deletion-file": 2, "fence": 2}
# Lines said, windows encoded, and files of a local database: an object store's are not counted.
EVENTS_OF_A_RUN, EVENTS_WITHOUT_FILES = 120, 50


def _crash(trial: Trial, undisturbed: dict[int, Table], first: list[str], second: list[str]) -> None:
    for edition, points in ((1, first), (2, second)):
        if edition > 1:
            trial.begin(edition)
        for point in points:
            assert trial.ends_at(point), f"{point} was not reached{trial.tail()}"
        trial.finishes()
        assert_as_if_undisturbed(trial, undisturbed, edition=edition)


@pytest.mark.timeout(900)
def test_at_every_point_of_a_run(new_trial: NewTrial, undisturbed: dict[int, Table]) -> None:
    _crash(new_trial(), undisturbed, FIRST, SECOND)


@pytest.mark.timeout(900)
def test_with_everything_in_an_object_store(new_trial: NewTrial, s3: str, undisturbed: dict[int, Table]) -> None:
    _crash(new_trial(s3), undisturbed, ["append:after:2"], ["append:before", "delete:after"])


@pytest.mark.timeout(900)
def test_without_a_pool(new_trial: NewTrial, undisturbed: dict[int, Table]) -> None:
    # what it writes is committed at once, so that all fragments are left to the end
    first = ["append:after", "compact:before", "compact:after"]
    _crash(new_trial(direct=10_000), undisturbed, first, ["append:before", "delete:before"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_with_the_ray_that_it_started(new_trial: NewTrial, undisturbed: dict[int, Table]) -> None:
    trial = new_trial(address=None)
    assert trial.ends_after(random.Random(1).randrange(30, 60))
    assert trial.ends_after(random.Random(2).randrange(30, 60), whole=True)
    trial.finishes()
    assert_as_if_undisturbed(trial, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("seed", range(20))
def test_ten_times_at_any_moment(
    seed: int, new_trial: NewTrial, request: pytest.FixtureRequest, undisturbed: dict[int, Table]
) -> None:
    chooser = random.Random(seed)
    trial = new_trial(request.getfixturevalue("s3") if seed % 2 else "")
    edition = 1
    while trial.num_kills < 10:
        if chooser.random() < 0.5:
            step = chooser.choice(list(STEPS))
            number = chooser.randint(1, REPEATED.get(step, 1))
            died = trial.ends_at(f"{step}:{chooser.choice(['before', 'after'])}:{number}")
        else:
            died = trial.ends_after(chooser.randrange(EVENTS_WITHOUT_FILES if seed % 2 else EVENTS_OF_A_RUN))
        if not died:
            assert_as_if_undisturbed(trial, undisturbed, edition=edition)
            edition = 3 - edition
            trial.begin(edition)
    trial.finishes()
    assert_as_if_undisturbed(trial, undisturbed, edition=edition)
