"""The equations of a fit are those of plain least squares, whatever is kept from step to step."""

from __future__ import annotations

import numpy as np
import pytest

from mosaicreg.subpixel import Overlap, _Equations
from mosaicreg.synthetic import Specimen


def overlap_of_two(shape: tuple[int, int]) -> Overlap:
    image = Specimen(seed=1, empty=0.0).render((0.0, 0.0), shape).astype(np.float32)
    image = np.sqrt(image)
    noise = np.random.default_rng(0).normal(0, 0.1, (2, *shape)).astype(np.float32)
    overlap = Overlap.cut(image + noise[0], image + noise[1], np.array([0, 0]), 2)
    assert overlap is not None
    return overlap


def plainly(
    overlap: Overlap, moving: np.ndarray, outliers: np.ndarray, stretched: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The unknowns and what is left of all pixels, by a decomposition of the whole design."""
    v, u = np.broadcast_arrays(*overlap.trends)
    gy, gx = overlap.gradient
    columns = [moving, moving * v, moving * u, gy, gx, np.ones_like(moving), v, u]
    if stretched:
        columns += [gy * v, gy * u, gx * v, gx * u]
    design = np.stack([c.ravel() for c in columns], axis=1).astype(np.float64)
    target = overlap.fixed.ravel().astype(np.float64)
    solution = np.linalg.lstsq(
        np.delete(design, outliers, axis=0), np.delete(target, outliers), rcond=None
    )[0]
    return solution, target - design @ solution


@pytest.mark.parametrize("shape", [(40, 120), (120, 40), (20, 30)])
def test_each_step_is_a_least_squares_fit_of_its_own(shape) -> None:
    overlap = overlap_of_two(shape)
    near, far = (overlap.shifted(np.array(s)) for s in ((0.1, -0.2), (-0.4, 0.3)))
    none, some, others = np.array([], dtype=np.int64), np.array([3, 70]), np.array([5])
    equations = _Equations(overlap)
    for moving, outliers, stretch in (
        (near, none, False),
        (near, none, False),  # nothing is new
        (far, none, False),
        (far, some, False),
        (far, some, True),  # only the stretch is
        (far, others, False),  # once stretched, always
        (near, others, False),
    ):
        if stretch:
            equations.stretch()
        solution, residual = equations.solve(moving, outliers)
        due, left = plainly(overlap, moving, outliers, len(solution) == 12)
        np.testing.assert_allclose(residual, left, atol=2e-3)
        np.testing.assert_allclose(solution[3:5], due[3:5], atol=1e-3)
    assert len(solution) == 12


@pytest.mark.parametrize("times", [3.0, 1e3, 1e6])
def test_outliers_that_outshine_all_others_leave_no_trace(times) -> None:
    """Nothing of single precision is lost to them."""
    overlap, bright = overlap_of_two((60, 70)), np.arange(500, 540)
    moving = overlap.shifted(np.array([0.1, -0.2]))
    moving.ravel()[bright] *= np.float32(times)
    overlap.fixed.ravel()[bright] *= np.float32(times)
    solution, _ = _Equations(overlap).solve(moving, bright)
    due, _ = plainly(overlap, moving, bright, False)
    np.testing.assert_allclose(solution[3:5], due[3:5], atol=1e-3)


def test_the_correlation_is_that_of_what_no_plane_explains() -> None:
    overlap = overlap_of_two((40, 120))
    moving = overlap.shifted(np.array([0.1, -0.2]))
    equations = _Equations(overlap)
    equations.solve(moving, np.array([], dtype=np.int64))
    plane = (
        np.stack([np.ones_like(moving), *np.broadcast_arrays(*overlap.trends)])
        .reshape(3, -1)
        .T.astype(float)
    )
    a, b = (
        c.ravel() - plane @ np.linalg.lstsq(plane, c.ravel(), rcond=None)[0]
        for c in (overlap.fixed.astype(float), moving.astype(float))
    )
    assert equations.correlation() == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-5)
