"""Every row of the specification's table of acceptance tests is shown by a test that carries it.

Tests say ``@pytest.mark.row("A1")``. Rows of several parts are listed part by part, so that no part
goes unshown behind another.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROWS = {
    *(f"A{k}" for k in range(1, 11)),
    *("B1", "B2", "B3"),
    *("C1", "C2", "C3", "C4", "C5"),
    "D1",
    *(f"E{k}" for k in range(1, 6)),
    *(f"F{k}" for k in range(1, 6)),
    *(f"G{k}" for k in range(1, 6)),
    "H1",
    *("I1 overlaps", "I1 layouts", "I1 divisions", "I1 trees"),
    "I2",
    *("I3 search", "I3 refine", "I3 arrange"),
    "I4",
    *("J1 pixels", "J1 determinism"),
}
TESTS = Path(__file__).parent
COLLECT = """
import sys, pytest

class Rows:
    def pytest_collection_finish(self, session):
        for item in session.items:
            skipped = item.get_closest_marker("skip") or item.get_closest_marker("xfail")
            for mark in item.iter_markers("row"):
                print("ROW", "skipped" if skipped else "runs", *mark.args)

sys.exit(pytest.main(["--collect-only", "-qq", "-n", "0", "-p", "no:cacheprovider", *sys.argv[1:]],
                     plugins=[Rows()]))
"""


def test_every_row_is_carried_by_a_test_that_runs() -> None:
    marked = [p for p in sorted(TESTS.glob("test_*.py")) if "mark.row(" in p.read_text("utf-8")]
    files = [str(p) for p in marked if p != Path(__file__)]
    done = subprocess.run(
        [sys.executable, "-c", COLLECT, *files], cwd=TESTS.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    carried = {row[2] for row in lines if row[:2] == ["ROW", "runs"]}
    assert carried == ROWS
