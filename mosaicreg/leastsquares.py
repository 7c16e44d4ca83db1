"""Weighted least squares over the same pairs, again and again as the trust in them changes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mosaicreg.compiled import compiled_module
from mosaicreg.geometry import FloatArray, IntArray
from mosaicreg.robust import median

WEAK = 1e-9
"""Of the median weight: how firmly each tile is held where it was."""
COMPILED = "scipy.sparse.linalg._dsolve._superlu"

Ordering = Literal["NATURAL", "MMD_AT_PLUS_A"]
Factorise = Callable[[FloatArray, NDArray[np.int32], NDArray[np.int32], Ordering], Any]
"""(values, rows, starts, order): SuperLU's factors of a symmetric positive definite matrix in
compressed columns; ``.solve`` takes right-hand sides, ``.perm_c`` is the order of its columns."""


class LeastSquares:
    """Minimises ``sum weight |moved[moving] - moved[fixed] - wanted|^2`` over ``moved``.

    Very weakly it minimises ``|moved|^2`` too, which puts the mean move of each part at 0: the part
    stays where the stage has it. Holds the last factorisation, by far the largest thing here, and
    the order of tiles that fills it least: what pairs there are does not change, so one search for
    that order serves all weights (it takes a quarter of the first factorisation's time).

    Args:
        fixed, moving: (m,) tiles of each pair, never the same.
        tiles: how many there are.
    """

    def __init__(self, fixed: IntArray, moving: IntArray, tiles: int) -> None:
        self.fixed, self.moving, self.tiles = fixed, moving, tiles
        self._pattern = _Pattern.of(fixed, moving, np.arange(tiles))
        self._ordered = False
        self._factor: Any = None
        self._weight: FloatArray = np.zeros(len(fixed))

    def weigh(self, weight: FloatArray) -> None:
        """Factorise for these (m,) weights."""
        if self._factor is not None and np.array_equal(weight, self._weight):
            return
        if self._factor is not None and not self._ordered:
            best = np.argsort(self._factor.perm_c)
            self._pattern, self._ordered = _Pattern.of(self.fixed, self.moving, best), True
        self._factor = None  # its memory is needed for the next
        weak = WEAK * float(median(weight[weight > 0])) if weight.any() else 1.0
        held = self.per_tile(weight[:, None])[:, 0] + weak
        self._factor = self._pattern.factored(weight, held, known=self._ordered)
        self._weight = weight

    def solve(self, wanted: FloatArray) -> FloatArray:
        """(n, k) moves for (m, k) wanted offsets, k problems at once."""
        right = self.per_tile(self._weight[:, None] * wanted, sign=-1)
        moved = np.empty_like(right)
        moved[self._pattern.order] = self._factor.solve(right[self._pattern.order])
        return moved

    def misfit(self, moved: FloatArray, wanted: FloatArray) -> FloatArray:
        """(m,) px, how far each pair is from what it wants."""
        found: FloatArray = np.linalg.norm(moved[self.moving] - moved[self.fixed] - wanted, axis=1)
        return found

    def per_tile(self, values: FloatArray, sign: int = 1) -> FloatArray:
        """(n, k) sums of (m, k) values over the pairs of each tile, ``sign`` where it is fixed."""
        sums = [
            np.bincount(self.moving, column, self.tiles)
            + sign * np.bincount(self.fixed, column, self.tiles)
            for column in values.T
        ]
        return np.stack(sums, axis=1)


class _Pattern:
    """Where the normal matrix of some pairs has numbers, its tiles in a given order.

    Args:
        order: the tiles.
        rows, starts: in compressed columns.
        place: of each number: of all pairs, of all pairs mirrored, and of all tiles.
    """

    def __init__(
        self,
        order: IntArray,
        rows: IntArray,
        starts: IntArray,
        place: IntArray,
    ) -> None:
        self.order, self.rows, self.starts, self.place = order, rows, starts, place

    @classmethod
    def of(cls, fixed: IntArray, moving: IntArray, order: IntArray) -> _Pattern:
        """Of the normal matrix of these pairs."""
        n = len(order)
        rank = np.empty(n, dtype=np.int64)
        rank[order] = np.arange(n)
        a, b = rank[fixed], rank[moving]
        diagonal = rank * (n + 1)
        numbers, place = np.unique(
            np.concatenate([a * n + b, b * n + a, diagonal]), return_inverse=True
        )
        starts = np.searchsorted(numbers, np.arange(n + 1) * n)
        return cls(order, numbers % max(1, n), starts, place)

    def factored(self, weight: FloatArray, held: FloatArray, known: bool) -> Any:
        """The factors for weights of pairs, and how firmly all of these and more hold each tile."""
        values: NDArray[Any] = np.bincount(
            self.place, np.concatenate([-weight, -weight, held]), len(self.rows)
        )
        return factored(values, self.rows, self.starts, known)


def factored(
    values: FloatArray, rows: NDArray[Any], starts: NDArray[Any], known: bool = False
) -> Any:
    """The factors of a symmetric positive definite matrix, see `Factorise`.

    Where the best order is ``known``, rows and columns are in it.
    """
    # SuperLU counts with 32 bits: two thousand million numbers, which is more than memory.
    rows, starts = (a.astype(np.int32, copy=False) for a in (rows, starts))
    return factorise()(values, rows, starts, "NATURAL" if known else "MMD_AT_PLUS_A")


@cache
def factorise() -> Factorise:
    """SuperLU (Li 2005, ACM TOMS 31:302), by the routine of scipy that `splu` calls.

    By `splu` itself where a release of scipy has that no more.
    """
    module = compiled_module(COMPILED)
    if module is not None:
        found = direct(module)
        if _is_as_known(found):
            return found
    return public


def direct(module: Any) -> Factorise:
    """By the compiled module."""

    def factorise(
        values: FloatArray, rows: NDArray[np.int32], starts: NDArray[np.int32], order: Ordering
    ) -> Any:
        options = {"DiagPivotThresh": 0.0, "ColPerm": order, "SymmetricMode": True}
        return module.gstrf(
            len(starts) - 1,
            len(values),
            values,
            rows,
            starts,
            csc_construct_func=None,  # of factors taken apart, which nobody does
            ilu=False,
            options=options,
        )

    return factorise


def public(
    values: FloatArray, rows: NDArray[np.int32], starts: NDArray[np.int32], order: Ordering
) -> Any:
    """By the function that scipy documents."""
    from scipy.sparse import csc_array
    from scipy.sparse.linalg import splu

    n = len(starts) - 1
    return splu(
        csc_array((values, rows, starts), shape=(n, n)),
        permc_spec=order,
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )


def _is_as_known(factorise: Factorise) -> bool:
    """Whether it solves a system whose solution is known."""
    values = np.array([4.0, -2.0, -2.0, 5.0, -1.0, -1.0, 3.0])
    rows = np.array([0, 1, 0, 1, 2, 1, 2], dtype=np.int32)
    starts = np.array([0, 2, 5, 7], dtype=np.int32)
    right = np.array([[0.0, 4.0], [5.0, -2.0], [7.0, 0.0]])
    try:
        factors = factorise(values, rows, starts, "MMD_AT_PLUS_A")
        solved = factors.solve(right)
        return bool(
            np.allclose(solved, [[1, 1], [2, 0], [3, 0]], rtol=0, atol=1e-12)
            and sorted(factors.perm_c) == [0, 1, 2]
        )
    except Exception:  # whatever a release to come may raise
        return False
