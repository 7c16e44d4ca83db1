"""The benchmarks run, small: they cannot rot. What they measure is for `benchmarks/` to say."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def load(name: str) -> ModuleType:
    spec = spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def harness() -> ModuleType:
    return load("harness")


def test_each_hot_case_runs() -> None:
    """Cases check their own results; here each runs once, small."""
    hot = load("hot")
    names = [name for name, spent in hot.measure(side=256, times=1) if spent >= 0]
    cases = [f"{c.__name__}.{m[5:]}" for c in hot.CASES for m in dir(c) if m.startswith("time_")]
    assert names == cases
    assert len(names) > 10


def test_the_first_window_of_few_files(harness, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "harness", harness)
    first_window = load("first_window")
    monkeypatch.setattr(harness, "CACHE", tmp_path)
    folder = first_window.tiles(2, compressed=False)
    cost = harness.run([sys.executable, "-c", first_window.PROGRAM, folder, "4"])
    assert cost.code == 0, cost.output


def test_the_solver_is_measured_and_right() -> None:
    """The whole benchmark, small: every wrong pair found, solved again with a pin that holds."""
    row = load("solver").measure(2500)
    assert row["wrong"] > 0
    assert row["wrong not found"] == 0
    assert row["max px"] < 0.5
    assert row["pin missed px"] < 1e-3
    assert 0 < row["GB before"] <= row["GB"]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "solver.py", "400"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "within bounds" in done.stdout


def test_costs_are_those_of_the_whole_process_tree(harness) -> None:
    """A child of a child burns a second and holds 150 MB."""
    burn = (
        "import time\nheld = b'x' * 150_000_000\n"
        "while time.process_time() < 1.0: pass\ntime.sleep(0.3)"
    )
    run = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}], check=True)"
    cost = harness.run([sys.executable, "-c", run])
    assert cost.code == 0
    assert 1.0 <= cost.cpu < 3.0
    assert 150 <= cost.peak < 400
    assert cost.wall >= 1.3


def test_a_failing_command_tells_its_code_and_reason(harness) -> None:
    cost = harness.run([sys.executable, "-c", "raise SystemExit('no such tile')"])
    assert cost.code == 1
    assert "no such tile" in cost.output


@pytest.mark.skipif(sys.platform != "linux", reason="limits of other processes are Linux's")
@pytest.mark.parametrize("work", ["while True: pass", "import time; time.sleep(60)"])
def test_what_takes_too_long_is_cut_off(harness, work) -> None:
    cost = harness.run([sys.executable, "-c", work], budget=1)
    assert cost.code == harness.CUT_OFF
    assert cost.cpu < 2
    assert cost.wall < 30


def test_rows_that_are_known_are_not_measured_again(harness, tmp_path, monkeypatch, capsys) -> None:
    """So that an interrupted run goes on, and runs side by side are put together."""
    monkeypatch.setitem(sys.modules, "harness", harness)
    peers = load("peers")
    monkeypatch.setattr(harness, "tiles", lambda rows, columns: tmp_path)
    monkeypatch.setattr(harness, "CACHE", tmp_path)
    measured = []

    def measure(run: Any, *_: Any) -> dict[str, object]:
        measured.append((run.program, run.step))
        return {"program": run.program, "step": run.step, "cpu": 9.0, "wall": 1.0, "peak": 1.0}

    monkeypatch.setattr(peers, "measure", measure)
    rows = [
        {"program": "limit", "step": "register", "cpu": 1.0, "side": 4, "round": 0},
        {"program": "limit", "step": "stitch", "failed": "cut off after 9 CPU s, 18 s", "side": 3,
         "round": 0, "cpu": 9.0},
    ]  # fmt: skip
    options = SimpleNamespace(workers=1, rounds=1, peer_rounds=1, only=["none"], budget=10.0)
    found = list(peers.rounds(4, options, rows))
    assert len(found) == len(measured) == 5
    assert {program for program, _ in measured} == {"mosaicreg"}
    assert "limit stitch on 4 x 4 is left out" in capsys.readouterr().out


def test_errors_of_positions_leave_a_common_shift_out(harness, tmp_path) -> None:
    truth, found = tmp_path / "truth.csv", tmp_path / "found.csv"
    truth.write_text("tile,y,x\na,0,0\nb,10,0\nc,0,10\n")
    found.write_text("tile,y,x\na,5,7\nc,5,17\nb,18,11\n")
    np.testing.assert_allclose(harness.position_errors(found, truth), [0, 5, 0])


def test_peers_are_pinned_and_have_their_adapter(harness) -> None:
    for peer in harness.PEERS:
        assert "==" in peer.package
        assert (harness.ADAPTERS / peer.script).is_file()


def test_the_limit_copies_what_is_there(harness, tmp_path) -> None:
    """Its copy of an archive has the same pixels; so it does the work that it stands for."""
    import zarr

    tiles, out = tmp_path / "tiles", tmp_path / "out"
    from mosaicreg.synthetic import Acquisition

    Acquisition(grid=(1, 2), tile=(64, 64)).write(tiles)
    pixels = np.arange(40 * 30, dtype=np.uint16).reshape(40, 30)
    group = zarr.create_group(tmp_path / "in.zarr")
    group.create_array("0", data=pixels, chunks=(8, 8), shards=(16, 16))
    command = [sys.executable, harness.ADAPTERS / "limit.py", "stitch", tiles, out]
    done = subprocess.run(
        [*map(str, command), str(tmp_path / "in.zarr")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(zarr.open_array(out / "copy.zarr", path="0")[:], pixels)
