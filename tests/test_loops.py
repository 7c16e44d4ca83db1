"""Loop closure: the pairs around a pair say where it must lie."""

from __future__ import annotations

import numpy as np
import pytest

from mosaicreg.loops import LOOSE, STRAY, loop_evidence
from mosaicreg.pairs import ACCEPTED, MEASURED, NO_SIGNAL, Pairs, judge

WINDOW = 26
TRUTH = np.array([[0, 0], [3, 460], [455, -4], [458, 463], [911, 2], [909, 466]], dtype=float)
"""Six tiles, two in a row."""
PAIRS = np.array([[0, 1], [0, 2], [1, 3], [2, 3], [2, 4], [3, 5], [4, 5]])
MIDDLE = 3
"""Pair 2-3, which closes two squares."""


def offsets() -> np.ndarray:
    """The true offset of each pair."""
    return TRUTH[PAIRS[:, 1]] - TRUTH[PAIRS[:, 0]]


def gained(found: np.ndarray, sure: list[int]) -> np.ndarray:
    mask = np.isin(np.arange(len(PAIRS)), sure)
    return loop_evidence(PAIRS[:, 0], PAIRS[:, 1], found, mask, WINDOW)


def log_odds(*pixels_off: float) -> float:
    """What so many loops say that close to so many px: the mean of their normal densities."""
    normal = np.exp(-0.5 * np.square(np.divide(pixels_off, LOOSE))) / (2 * np.pi * LOOSE**2)
    return float(np.log((1 - STRAY) * normal.mean() * (2 * WINDOW + 1) ** 2 + STRAY))


def test_an_offset_that_closes_its_loop_gains_and_one_that_does_not_loses() -> None:
    around = [0, 1, 2]
    for off in (0.0, 0.8, 14.0):
        found = offsets()
        found[MIDDLE] += (0, off)
        assert gained(found, around)[MIDDLE] == pytest.approx(log_odds(off))
    assert log_odds(0.0) > 5 > 0 > log_odds(14.0)


def test_loops_that_contradict_each_other_speak_alike() -> None:
    found = offsets()
    found[6] += (12, 0)  # the lower square is wrong
    assert gained(found, [0, 1, 2, 4, 5, 6])[MIDDLE] == pytest.approx(log_odds(0.0, 12.0))


def test_a_triangle_is_a_loop_too() -> None:
    pairs = np.array([[0, 1], [1, 3], [0, 3]])
    found = TRUTH[pairs[:, 1]] - TRUTH[pairs[:, 0]]
    sure = np.array([True, True, False])
    gain = loop_evidence(pairs[:, 0], pairs[:, 1], found, sure, WINDOW)
    assert gain[2] == pytest.approx(log_odds(0.0))
    assert np.isnan(gain[:2]).all()


@pytest.mark.parametrize("sure", [[], [0], [0, 1], [1, 2, 4]])
def test_nothing_is_said_without_a_loop(sure: list[int]) -> None:
    assert np.isnan(gained(offsets(), sure)[MIDDLE])


def test_nothing_is_said_of_what_was_not_found() -> None:
    found = offsets()
    found[MIDDLE] = np.nan
    assert np.isnan(gained(found, [0, 1, 2])[MIDDLE])
    none = np.empty(0, dtype=np.int64)
    assert loop_evidence(none, none, np.empty((0, 2)), none.astype(bool), WINDOW).shape == (0,)


def test_where_sections_are_bent_loops_may_gape() -> None:
    """How far the loops of sure pairs gape is how far those of others may."""
    found = offsets()
    found[[1, 5]] += (0, 9)
    everything = list(range(len(PAIRS)))
    bent, straight = gained(found, everything), gained(offsets(), everything)
    assert (bent > 0).all()
    assert (bent < straight).all()


def judged(off: float, z: float) -> Pairs:
    """Six pairs beyond doubt around one of height ``z`` that lies ``off`` px beside the truth."""
    found = offsets()
    found[MIDDLE] += (0, off)
    table = {name: np.full(len(PAIRS), 1.0) for name in MEASURED}
    table |= {"dy": found[:, 0], "dx": found[:, 1]}
    table |= {"sigma": np.full(len(PAIRS), 0.1), "lead": np.full(len(PAIRS), np.inf)}
    table["z"] = np.full(len(PAIRS), 40.0)
    table["z"][MIDDLE] = z
    table["correlation"][MIDDLE] = 0.3
    stage = TRUTH.round(-1)
    told = stage[PAIRS[:, 1]] - stage[PAIRS[:, 0]]
    return judge(PAIRS[:, 0], PAIRS[:, 1], table, np.empty(0), told, WINDOW)


def test_a_faint_pair_that_its_loops_confirm_is_accepted() -> None:
    assert judged(off=0.3, z=5.0).status[MIDDLE] == ACCEPTED
    assert judged(off=14.0, z=5.0).status[MIDDLE] != ACCEPTED
    assert judged(off=14.0, z=3.2).status[MIDDLE] == NO_SIGNAL


def test_what_is_beyond_doubt_needs_no_loop() -> None:
    """Of a pair that contradicts its neighbours the solver says which is wrong."""
    assert (judged(off=14.0, z=40.0).status == ACCEPTED).all()
