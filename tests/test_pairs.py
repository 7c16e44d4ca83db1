"""Trust: what chance reaches, and what is accepted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaicreg.pairs import (
    ACCEPTED,
    CHANCE,
    NO_SIGNAL,
    PRIOR_LOCATION,
    PRIOR_SCALE,
    REJECTED,
    TURNED_PRIOR,
    Pairs,
    chance_of,
    evidence_of,
    fit_gumbel,
    judge,
)


def measured(**columns: list[float]) -> dict[str, np.ndarray]:
    count = len(next(iter(columns.values())))
    usual = {
        "dy": 1.0,
        "dx": 2.0,
        "sigma": 0.01,
        "correlation": 0.9,
        "z": 30.0,
        "ratio": 5.0,
        "lead": 0.0,
    }
    return {k: np.array(columns.get(k, [v] * count), dtype=float) for k, v in usual.items()}


def judged(window: float = 50, **columns: list[float]) -> Pairs:
    table = measured(**columns)
    count = len(table["z"])
    numbers = np.arange(count)
    return judge(0 * numbers, numbers + 1, table, np.empty(0), np.zeros((count, 2)), window)


@given(st.integers(0, 100), st.floats(2, 6), st.floats(0.2, 1.0))
def test_the_law_of_many_chance_peaks_is_found(seed, location, scale) -> None:
    null = np.random.default_rng(seed).gumbel(location, scale, 5000)
    found = fit_gumbel(null)
    np.testing.assert_allclose(found, (location, scale), atol=0.08)


def test_without_null_pairs_the_prior_speaks() -> None:
    np.testing.assert_allclose(fit_gumbel(np.empty(0)), (PRIOR_LOCATION, PRIOR_SCALE), atol=0.02)


@given(st.integers(0, 100), st.floats(0.2, 1.0))
def test_a_lower_peak_is_never_better_evidence(seed, scale) -> None:
    null = np.random.default_rng(seed).gumbel(3.4, scale, 100)
    evidence = evidence_of(np.linspace(0, 40, 200), null)
    assert (np.diff(evidence) >= -1e-9).all()


def test_where_angles_were_tried_too_few_values_of_chance_are_taken_for_higher() -> None:
    """A mosaic of a few tiles gives hardly any; what is faint is then judged by the prior."""
    table = measured(z=[6.4, *[40.0] * 8])
    turns = {"angle": np.zeros(9), "angle_sigma": np.full(9, 0.1)}
    numbers, told = np.arange(9), np.zeros((9, 2))
    plain, turned = (
        judge(0 * numbers, numbers + 1, t, np.empty(0), told, 50).score[0]
        for t in (table, table | turns)
    )
    assert np.log(turned / (1 - turned)) < np.log(plain / (1 - plain)) - 1
    law = fit_gumbel(np.empty(0), TURNED_PRIOR)
    np.testing.assert_allclose(law, (PRIOR_LOCATION + TURNED_PRIOR, PRIOR_SCALE), atol=0.02)


def test_chance_reaches_what_it_reached() -> None:
    null = np.random.default_rng(0).gumbel(4.0, 0.5, 20_000)
    for share in (0.5, 0.1, 0.01):
        height = np.quantile(null, 1 - share)
        assert chance_of(np.array([height]), null)[0] == pytest.approx(share, rel=0.1)


def test_verdicts_follow_height_lead_and_precision() -> None:
    pairs = judged(
        z=[30.0, 30.0, 30.0, 5.0, 3.3, np.nan],
        ratio=[5.0, 1.05, 5.0, 5.0, 5.0, np.nan],
        sigma=[0.01, 0.01, 3.0, 0.01, 0.01, np.nan],
    )
    assert pairs.status.tolist() == [
        ACCEPTED,  # high, alone, sharp
        REJECTED,  # one of several equal peaks: a lattice
        REJECTED,  # its offset is hardly known
        REJECTED,  # chance gets there now and then
        NO_SIGNAL,  # chance gets there every time
        NO_SIGNAL,  # nothing was found at all
    ]
    assert pairs.accepted.tolist() == [True] + [False] * 5


def test_a_faint_peak_is_worth_more_among_good_pairs_than_among_noise() -> None:
    noise = np.random.default_rng(0).gumbel(PRIOR_LOCATION, PRIOR_SCALE, 200).tolist()
    among_noise = judged(z=[*noise, 5.2]).score[-1]
    among_matches = judged(z=[*np.geomspace(10, 60, 200), 5.2]).score[-1]
    assert among_matches > 0.9
    assert np.isnan(among_noise) or among_noise < 0.8


def test_a_faint_peak_where_the_stage_expects_it_is_believed_sooner() -> None:
    sure = np.random.default_rng(0).normal(0, 2, (100, 2))
    table = {
        "z": [*np.full(100, 30.0), 5.2, 5.2],
        "dy": [*sure[:, 0], 1.0, 40.0],
        "dx": [*sure[:, 1], -1.0, 40.0],
    }
    near, far = judged(**table).score[-2:]
    assert near > 0.999
    assert far < 0.97


def test_in_a_lattice_the_clear_winner_is_believed_and_a_draw_is_not() -> None:
    lattice = {"z": [8.0] * 3, "ratio": [1.02] * 3, "correlation": [0.99, 0.99, 0.2]}
    # In a lattice strips that cannot overlap correlate as highly as those that do.
    table = measured(**lattice, lead=[15.0, 1.0, 15.0])
    null = np.random.default_rng(0).normal(8.5, 1, 100)
    pairs = judge(np.zeros(3, int), np.arange(1, 4), table, null, np.zeros((3, 2)), 50)
    assert pairs.accepted.tolist() == [True, False, False]


def test_no_signal_never_comes_with_a_number() -> None:
    pairs = judged(z=[3.0, np.nan, 30.0])
    for column in (pairs.dy, pairs.dx, pairs.score, pairs.sigma, pairs.correlation):
        assert np.isnan(column[:2]).all()
        assert np.isfinite(column[2])


def test_an_accepted_score_is_a_probability() -> None:
    pairs = judged(z=[5.0, 6.0, 7.0, 9.0, 40.0])
    assert ((pairs.score >= 0) & (pairs.score <= 1)).all()
    assert (np.diff(pairs.score) >= 0).all()
    assert (pairs.score[pairs.accepted] > 1 - CHANCE).all()


def test_columns_round_trip() -> None:
    pairs = judged(z=[30.0, 5.0, np.nan])
    again = Pairs.from_columns(pairs.columns(), pairs.null_z)
    for name, column in pairs.columns().items():
        np.testing.assert_array_equal(again.columns()[name], column)


def test_what_a_notebook_shows() -> None:
    pairs = judged(z=[30.0, 5.0, np.nan])
    assert repr(pairs) == "Pairs: 3 neighbours, 1 accepted, 1 rejected, 1 without signal"
    assert "no signal" in pairs._repr_html_()
