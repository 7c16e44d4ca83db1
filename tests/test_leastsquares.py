"""Weighted least squares over pairs: against dense algebra, and however SuperLU is come by."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mosaicreg.compiled import compiled_module
from mosaicreg.leastsquares import COMPILED, LeastSquares, direct, factorise, public
from mosaicreg.solving import Edges, parts_of


@pytest.fixture
def found_anew(monkeypatch):
    """The module as after it was loaded in a new process."""
    factorise.cache_clear()
    monkeypatch.delitem(sys.modules, COMPILED, raising=False)
    yield monkeypatch
    factorise.cache_clear()


@st.composite
def linked(draw) -> tuple[np.ndarray, np.ndarray, int]:
    """Pairs of different tiles, several between the same ones among them; tiles without any."""
    tiles = draw(st.integers(2, 12))
    pair = st.tuples(st.integers(0, tiles - 1), st.integers(0, tiles - 1))
    pairs = draw(st.lists(pair.filter(lambda p: p[0] != p[1]), max_size=25))
    fixed, moving = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return fixed, moving, tiles


def incidence(fixed: np.ndarray, moving: np.ndarray, tiles: int) -> np.ndarray:
    matrix = np.zeros((len(fixed), tiles))
    matrix[np.arange(len(fixed)), fixed] = -1
    matrix[np.arange(len(fixed)), moving] = 1
    return matrix


@given(linked(), st.integers(0, 2**32 - 1))
def test_moves_are_those_of_dense_least_squares(links, seed) -> None:
    """The shortest of those that fit best; again with other weights, in the order found first."""
    fixed, moving, tiles = links
    rng = np.random.default_rng(seed)
    squares = LeastSquares(fixed, moving, tiles)
    matrix, wanted = incidence(*links), rng.normal(size=(len(fixed), 3))
    for _ in range(3):
        weight = rng.uniform(0.5, 2, len(fixed)) * (rng.random(len(fixed)) < 0.9)
        squares.weigh(weight)
        root = np.sqrt(weight)[:, None]
        expected = np.linalg.lstsq(root * matrix, root * wanted, rcond=1e-9)[0]
        moved = squares.solve(wanted)
        np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-6)
        misfit = np.linalg.norm(matrix @ moved - wanted, axis=1)
        np.testing.assert_allclose(squares.misfit(moved, wanted), misfit, rtol=0, atol=1e-12)


@given(linked(), st.integers(0, 2**32 - 1))
def test_parts_are_the_connected_components_the_largest_first(links, seed) -> None:
    fixed, moving, tiles = links
    agree = np.random.default_rng(seed).random(len(fixed)) < 0.7
    parts = parts_of(Edges(fixed, moving, np.zeros((len(fixed), 2)), agree + 1.0, tiles), agree)
    ends = fixed[agree], moving[agree]
    graph = coo_array((np.ones(agree.sum()), ends), shape=(tiles, tiles))
    count, label = connected_components(graph, directed=False)
    assert len(set(zip(parts.tolist(), label.tolist(), strict=True))) == count == parts.max() + 1
    size, first = np.bincount(parts), [int(np.argmax(parts == k)) for k in range(count)]
    assert [(-n, k) for n, k in zip(size, first, strict=True)] == sorted(
        (-n, k) for n, k in zip(size, first, strict=True)
    )


@pytest.mark.parametrize("order", ["forwards", "backwards", "at random"])
def test_a_long_chain_is_one_part(order) -> None:
    """A hundred thousand tiles in a row, numbered so that the lowest is far from most."""
    tiles = 100_000
    chain = np.arange(tiles)
    if order == "backwards":
        chain = chain[::-1]
    elif order == "at random":
        chain = np.random.default_rng(3).permutation(tiles)
    ones = np.ones(tiles - 1)
    edges = Edges(chain[:-1], chain[1:], np.zeros((tiles - 1, 2)), ones, tiles)
    assert not parts_of(edges, ones > 0).any()
    cut = np.arange(tiles - 1) != tiles // 4
    sizes = np.bincount(parts_of(edges, cut))
    assert sizes.tolist() == [tiles - tiles // 4 - 1, tiles // 4 + 1]


def grid(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A symmetric positive definite matrix in compressed columns."""
    n = side**2
    cells = np.arange(n).reshape(side, side)
    pairs = np.concatenate(
        [
            np.stack([cells[:, :-1], cells[:, 1:]], axis=-1).reshape(-1, 2),
            np.stack([cells[:-1], cells[1:]], axis=-1).reshape(-1, 2),
        ]
    )
    dense = np.zeros((n, n))
    dense[pairs[:, 0], pairs[:, 1]] = dense[pairs[:, 1], pairs[:, 0]] = -1
    dense[np.arange(n), np.arange(n)] = 4.5
    columns, rows = np.nonzero(dense)
    starts = np.searchsorted(columns, np.arange(n + 1))
    return dense[rows, columns], rows.astype(np.int32), starts.astype(np.int32)


@pytest.mark.parametrize("order", ["NATURAL", "MMD_AT_PLUS_A"])
def test_factors_are_those_of_scipys_own_function_bit_for_bit(order) -> None:
    matrix = grid(9)
    right = np.random.default_rng(1).normal(size=(81, 2))
    ours, scipys = direct(compiled_module(COMPILED))(*matrix, order), public(*matrix, order)
    np.testing.assert_array_equal(ours.solve(right), scipys.solve(right))
    np.testing.assert_array_equal(ours.perm_c, scipys.perm_c)


def test_scipy_sparse_itself_is_not_loaded_for_it_and_works_beside_it() -> None:
    code = f"""
import sys
import numpy as np
from mosaicreg.leastsquares import LeastSquares
squares = LeastSquares(np.array([0, 1]), np.array([1, 2]), 3)
squares.weigh(np.ones(2))
moved = squares.solve(np.array([[3.0], [6.0]]))
assert np.allclose(moved[:, 0], [-4, -1, 5])
assert "scipy.sparse" not in sys.modules and "scipy" not in sys.modules
from scipy.sparse import csc_array
from scipy.sparse.linalg import _dsolve, splu
assert np.allclose(splu(csc_array(np.eye(3) * 2)).solve(np.ones(3)), 0.5)
assert _dsolve.linsolve._superlu is sys.modules[{COMPILED!r}]
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_scipy_without_it_is_used_as_it_is_documented(found_anew) -> None:
    class Renamed:
        """Without the routine."""

    class Turned:
        """Rows and columns have changed places in its arguments."""

        @staticmethod
        def gstrf(n, count, values, rows, starts, **others):
            return compiled_module(COMPILED).gstrf(n, count, starts, values, rows, **others)

    class Wrong:
        """It answers something else."""

        @staticmethod
        def gstrf(n, *_, **__):
            return type("Factors", (), {"solve": np.copy, "perm_c": np.arange(n)})

    assert factorise() is not public
    for module in (None, Renamed(), Turned(), Wrong()):
        factorise.cache_clear()
        with found_anew.context() as patch:
            patch.setattr("mosaicreg.leastsquares.compiled_module", lambda _, m=module: m)
            assert factorise() is public, module
            squares = LeastSquares(np.array([0, 1]), np.array([1, 2]), 3)
            squares.weigh(np.ones(2))
            moved = squares.solve(np.array([[3.0], [6.0]]))
            np.testing.assert_allclose(moved[:, 0], [-4, -1, 5], rtol=0, atol=1e-6)
