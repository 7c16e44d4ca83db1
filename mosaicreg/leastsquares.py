"""Weighted least squares over the same pairs, again and again as the trust in them changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mosaicreg.geometry import FloatArray, IntArray

if TYPE_CHECKING:
    from scipy.sparse import csc_array, csr_array

# What solves is loaded by what needs it: `mosaicreg.solving.LIBRARIES` says why.

WEAK = 1e-9
"""Of the median weight: how firmly each tile is held where it was."""


class LeastSquares:
    """Minimises ``sum weight |incidence @ moved - wanted|^2`` over ``moved``.

    Very weakly it minimises ``|moved|^2`` too, which puts the mean move of each part at 0: the part
    stays where the stage has it. Holds the last factorisation, by far the largest thing here, and
    the order of tiles that fills it least: what pairs there are does not change, so one search for
    that order serves all weights (it takes a quarter of the first factorisation's time).

    Args:
        incidence: (m, n), takes positions of tiles to offsets of pairs.
    """

    def __init__(self, incidence: csr_array) -> None:
        self.incidence = incidence
        self._order: IntArray = np.arange(incidence.shape[1])
        self._best: IntArray | None = None
        self._factor: Any = None
        self._weight: FloatArray = np.zeros(incidence.shape[0])

    def weigh(self, weight: FloatArray) -> None:
        """Factorise for these (m,) weights."""
        if self._factor is not None and np.array_equal(weight, self._weight):
            return
        from scipy.sparse import csc_array, csr_array, diags_array

        self._factor = None  # its memory is needed for the next
        weak = WEAK * float(np.median(weight[weight > 0])) if weight.any() else 1.0
        normal = self.incidence.T @ diags_array(weight) @ self.incidence
        normal = csr_array(normal + weak * diags_array(np.ones(normal.shape[0])))
        if self._best is not None:
            self._order = self._best
        ordered = csc_array(normal[self._order][:, self._order])
        self._factor = factored(ordered, known=self._best is not None)
        if self._best is None:
            self._best = np.argsort(self._factor.perm_c)
        self._weight = weight

    def solve(self, wanted: FloatArray) -> FloatArray:
        """(n, k) moves for (m, k) wanted offsets, k problems at once."""
        right = self.incidence.T @ (self._weight[:, None] * wanted)
        moved = np.empty_like(right)
        moved[self._order] = self._factor.solve(right[self._order])
        return moved


def factored(normal: csc_array, known: bool = False) -> Any:
    """The factors of a symmetric positive definite matrix; ``.solve`` takes right-hand sides.

    Where the best order is ``known``, rows and columns are in it.
    """
    from scipy.sparse.linalg import splu

    return splu(
        normal,
        permc_spec="NATURAL" if known else "MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
