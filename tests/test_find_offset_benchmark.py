"""The claim of benchmarks/find_offset.py, on one pair."""

from __future__ import annotations

import runpy
from pathlib import Path

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "find_offset.py"


def test_find_offset_is_five_times_faster_than_the_documented_procedure_and_finer() -> None:
    results = runpy.run_path(str(BENCHMARK))["measure"]([(120.25, 44.5)])
    plain_seconds, plain_error = results["plain"]
    seconds, error = results["find_offset"]
    assert plain_seconds > 5 * seconds
    assert error.max() < min(0.05, plain_error.min())
    assert results["FindOffset"][1].max() < 0.2
