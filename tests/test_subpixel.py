"""The equations of a fit are those of plain least squares, whatever is kept from step to step."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import correlate1d

from mosaicreg.subpixel import Overlap, _Equations, fit_near
from mosaicreg.synthetic import Specimen


def noisy_two(shape: tuple[int, int], shift: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Two strips of which the second lies at ``shift`` in the first."""
    specimen = Specimen(seed=1, empty=0.0)
    images = [np.sqrt(specimen.render(at, shape).astype(np.float32)) for at in ((0, 0), shift)]
    noise = np.random.default_rng(0).normal(0, 0.1, (2, *shape)).astype(np.float32)
    return images[0] + noise[0], images[1] + noise[1]


def cut_of(fixed: np.ndarray, moving: np.ndarray) -> Overlap:
    overlap = Overlap.cut(fixed, moving, np.array([0, 0]), 2)
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
    overlap = cut_of(*noisy_two(shape, (0.0, 0.0)))
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
    overlap, bright = cut_of(*noisy_two((60, 70), (0.0, 0.0))), np.arange(500, 540)
    moving = overlap.shifted(np.array([0.1, -0.2]))
    moving.ravel()[bright] *= np.float32(times)
    overlap.fixed.ravel()[bright] *= np.float32(times)
    solution, _ = _Equations(overlap).solve(moving, bright)
    due, _ = plainly(overlap, moving, bright, False)
    np.testing.assert_allclose(solution[3:5], due[3:5], atol=1e-3)


@pytest.mark.parametrize("levels", [(0, 0), (1e5, 1e5), (1e4, 0), (0, 1e4), (6e4, 4e4)])
@pytest.mark.parametrize("ramp", [0.0, 300.0])
def test_levels_and_shading_cost_no_precision(levels, ramp) -> None:
    """Neither of the two strips, of which each may have its own, nor of their correlation."""
    f, m = noisy_two((80, 300), (0.3, 0.4))
    slope = np.linspace(-ramp, ramp, 300, dtype=np.float32)
    due = fit_near(f, m, np.zeros(2), 3.0, 2, fine=True)
    f, m = (strip + slope + np.float32(level) for strip, level in zip((f, m), levels, strict=True))
    found = fit_near(f, m, np.zeros(2), 3.0, 2, fine=True)
    assert due is not None
    assert found is not None
    np.testing.assert_allclose(found.shift, [0.3, 0.4], atol=0.03)
    np.testing.assert_allclose(found.shift, due.shift, atol=0.01)
    assert found.sigma == pytest.approx(due.sigma, rel=0.2)
    assert found.correlation == pytest.approx(due.correlation, abs=2e-3)


def test_strips_that_contradict_each_other_correlate_to_minus_one_at_most() -> None:
    f, m = noisy_two((80, 300), (0.0, 0.0))
    slope = np.linspace(-3e4, 3e4, 300, dtype=np.float32)
    overlap = cut_of(f + slope, slope - m)
    equations = _Equations(overlap)
    equations.solve(overlap.shifted(np.zeros(2)), np.array([], dtype=np.int64))
    assert -1 <= equations.correlation() < -0.9


@pytest.mark.parametrize("shape", [(36, 200), (200, 36), (37, 201), (20, 90), (6, 50)])
@pytest.mark.parametrize("shift", [(0.99, -0.99), (-0.99, 0.99), (0.0, 0.0), (0.5, -0.25)])
def test_the_moving_strip_is_smoothed_then_sampled_by_a_cubic(shape, shift) -> None:
    """Its edges go on for ever; where they need not be made up, nothing else comes out."""

    def keys(t: np.ndarray) -> np.ndarray:
        near, t = np.abs(t) <= 1, np.abs(t)
        far = np.where(t < 2, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2, 0)
        return np.where(near, 1.5 * t**3 - 2.5 * t**2 + 1, far)

    f, m = noisy_two(shape, (0.0, 0.0))
    overlap = cut_of(f, m)
    image = m.astype(np.float64)
    for axis in (0, 1):
        image = correlate1d(image, [0.25, 0.5, 0.25], axis, mode="nearest")
    image, pixels = np.pad(image, 9, mode="edge"), []
    for n, s in zip(shape, shift, strict=True):
        edge = max(1, min(4, min(shape) // 8)) if min(shape) >= 8 else 0
        places = np.arange(edge, n - edge, overlap.stride) + 9 - s
        pixels.append(keys(places[:, None] - np.arange(n + 18)))
    due = pixels[0] @ image @ pixels[1].T
    np.testing.assert_allclose(overlap.shifted(np.array(shift)), due, atol=1e-4)


def test_the_correlation_is_that_of_what_no_plane_explains() -> None:
    overlap = cut_of(*noisy_two((40, 120), (0.0, 0.0)))
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
