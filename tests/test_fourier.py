"""Transforms along an axis: those of scipy, bit for bit, however they are come by."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaicreg import fourier
from mosaicreg.fourier import COMPILED, direct, public, transforms


@pytest.fixture
def found_anew(monkeypatch):
    """The module as after it was loaded in a new process."""
    transforms.cache_clear()
    monkeypatch.delitem(sys.modules, COMPILED, raising=False)
    yield monkeypatch
    transforms.cache_clear()


lengths = st.integers(1, 40)


@given(
    shape=st.tuples(lengths, lengths),
    length=lengths,
    axis=st.sampled_from([0, 1]),
    double=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_they_are_those_of_scipy_bit_for_bit(shape, length, axis, double, seed) -> None:
    """Longer, shorter, of either precision; the inverse ones may spoil what they are given."""
    compiled = fourier._compiled()
    assert compiled is not None
    ours, scipys = direct(compiled), public()
    real = np.random.default_rng(seed).normal(size=shape)
    real = real if double else real.astype(np.float32)
    whole = real + 1j * np.flip(real)
    for name, values in (("rfft", real), ("fft", whole), ("ifft", whole), ("irfft", whole)):
        found = getattr(ours, name)(values.copy(), length, axis)
        expected = getattr(scipys, name)(values.copy(), length, axis)
        assert found.dtype == expected.dtype, name
        np.testing.assert_array_equal(found, expected, name)
    assert ours.fast_length(length) == scipys.fast_length(length) >= length


@pytest.mark.parametrize("kind", [transforms, public])
def test_they_are_what_the_definition_says(kind) -> None:
    values = np.random.default_rng(5).normal(size=(6, 5)).astype(np.float32)
    n = 8
    k = np.outer(np.arange(n), np.arange(n))
    wave = np.exp(-2j * np.pi * k / n)
    padded = np.pad(values, ((0, n - 6), (0, 0)))
    spectrum = kind().fft(values.astype(np.complex64), n, 0)
    assert spectrum.dtype == np.complex64
    np.testing.assert_allclose(spectrum, wave @ padded, rtol=0, atol=2e-6)
    half = kind().rfft(values, n, 0)
    np.testing.assert_allclose(half, (wave @ padded)[: n // 2 + 1], rtol=0, atol=2e-6)
    np.testing.assert_allclose(kind().irfft(half.copy(), n, 0), padded, rtol=0, atol=1e-6)
    np.testing.assert_allclose(kind().ifft(spectrum.copy(), n, 0), padded, rtol=0, atol=1e-6)


def test_scipy_fft_itself_is_not_loaded_for_them_and_works_beside_them() -> None:
    code = f"""
import sys
import numpy as np
from mosaicreg.fourier import transforms
values = np.arange(12, dtype=np.float32).reshape(3, 4)
found = transforms().rfft(values, 4, 1)
assert "scipy.fft" not in sys.modules and "scipy" not in sys.modules
from scipy import fft
assert np.array_equal(fft.rfft(values), found)
assert fft._pocketfft.basic.pfft is sys.modules[{COMPILED!r}]
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_scipy_without_them_is_used_as_it_is_documented(found_anew) -> None:
    values = np.ones((3, 4), np.float32)
    expected = transforms().rfft(values, 6, 1)
    compiled = fourier._compiled()

    def missing(*_: object) -> None:
        return None

    def broken(*_: object) -> None:
        raise ImportError

    class Renamed:
        """Without the routines."""

    class Turned:
        """The length and the axes of one routine have changed places."""

        r2c, c2c, good_size = (
            staticmethod(getattr(compiled, name)) for name in ("r2c", "c2c", "good_size")
        )

        @staticmethod
        def c2r(image, length, axes, *others):
            return compiled.c2r(image, axes, length, *others)

    for place, value in (
        ("mosaicreg.compiled.find_spec", missing),
        ("mosaicreg.compiled.PathFinder.find_spec", missing),
        ("mosaicreg.compiled.module_from_spec", broken),
        (COMPILED, Renamed()),
        (COMPILED, Turned()),
    ):
        transforms.cache_clear()
        with found_anew.context() as patch:
            if place == COMPILED:
                patch.setitem(sys.modules, COMPILED, value)
            else:
                patch.delitem(sys.modules, COMPILED, raising=False)
                patch.setattr(place, value)
            assert "public" in transforms().ifft.__qualname__, (place, value)
            np.testing.assert_array_equal(transforms().rfft(values, 6, 1), expected)


def test_threads_may_ask_for_them_at_once() -> None:
    code = """
import sys, threading
import numpy as np
from mosaicreg.fourier import transforms
sys.setswitchinterval(1e-6)
values = np.ones((3, 4), np.float32)
barrier, found = threading.Barrier(8), []
def ask():
    barrier.wait()
    found.append(transforms().rfft(values, 4, 1))
threads = [threading.Thread(target=ask) for _ in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
assert len(found) == 8 and "scipy.fft" not in sys.modules
"""
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
