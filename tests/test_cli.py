"""The command line: what a stranger types, reads, and gets as an exit code."""

from __future__ import annotations

import csv
import json
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import zarr

from mosaicreg.cli import COMMANDS
from mosaicreg.cli.running import installed_versions
from mosaicreg.imagefile import read_image, write_tiff


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """``mosaicreg ...`` as its own process."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "mosaicreg", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


def positions_of(path: Path) -> dict[str, tuple[float, float]]:
    with path.open() as file:
        return {r["tile"]: (float(r["y"]), float(r["x"])) for r in csv.DictReader(file)}


# --- help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command) -> None:
    result = run(command, "--help")
    assert result.returncode == 0
    assert "Examples:" in result.stdout
    assert f"mosaicreg {command}" in result.stdout


def test_help_answers_at_once() -> None:
    spent = []
    for _ in range(3):
        # Processor time: how busy the machine is with other tests must not matter.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.3


@pytest.mark.parametrize("command", [("--version",), ("doctor", "nothing"), ("demo", "--wrong")])
def test_a_process_ends_as_the_command_does(command) -> None:
    """Though Python does not take itself apart: all is printed, what is to be done at exit is."""
    code = f"""
import atexit, sys
sys.argv[1:] = {command!r}
atexit.register(print, "at exit")
from mosaicreg.cli import {{}}
"""
    ends = []
    for call in ("run; run()", "main; main(prog_name='mosaicreg')"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code.format(call)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.endswith("at exit\n")
        ends.append((done.returncode, done.stdout, done.stderr))
    assert ends[0] == ends[1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_what_cannot_be_printed_is_no_success() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "mosaicreg", "--version"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode != 0
    assert b"No space left" in done.stderr


def test_a_profiler_gets_to_tell(tmp_path) -> None:
    profile = tmp_path / "profile"
    command = [sys.executable, "-m", "cProfile", "-o", profile, "-m", "mosaicreg", "--version"]
    subprocess.run(command, check=True, capture_output=True)
    assert profile.stat().st_size > 1000


def test_versions_are_those_that_the_libraries_tell() -> None:
    names = ("numpy", "scipy", "dask", "zarr", "tifffile", "google-crc32c", "mosaicreg")
    assert installed_versions(names) == {name: version(name) for name in names}


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = {"numpy", "dask", "distributed", "zarr", "matplotlib"}
    code = f"import mosaicreg, sys; print({heavy} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


LOADED = """
import sys
from mosaicreg.cli import main
main(sys.argv[1:], standalone_mode=False)
print(*sys.modules, sep="\\n", file=sys.stderr)
"""


def test_small_jobs_load_only_what_they_need(tiles, tmp_path) -> None:
    """dask and zarr would be a third of the start; what else is loaded, start.py knows."""
    heavy = {
        "dask",
        "zarr",
        "distributed",
        "matplotlib",
        "numcodecs",
        "scipy.ndimage",
        "scipy.sparse",
        "scipy.spatial",
        "pandas",
        "mosaicreg.report",
    }
    layout, archives = tmp_path / "layout.json", [tmp_path / f"{k}.ome.zarr" for k in range(3)]
    loaded = set()
    for words in (
        # By one worker, all is loaded in one process.
        ("stitch", tiles, "-o", archives[0], "--workers", "1"),
        ("stitch", tiles, "-o", archives[1]),
        ("register", tiles, "-o", layout),
        ("assemble", layout, "-o", archives[2]),
    ):
        command = [sys.executable, "-c", LOADED, *map(str, words), "--quiet"]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        modules = set(found.stderr.split())
        assert not heavy & modules, words
        loaded = loaded or modules
    start = Path(__file__).parents[1] / "benchmarks" / "adapters" / "start.py"
    code = f"import runpy, sys; runpy.run_path({str(start)!r}); print(*sys.modules)"
    started = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    ours = ("mosaicreg.", "dask.", "scipy.", "zarr.", "numcodecs.")
    assert {m for m in loaded if m.startswith(ours)} == {
        m for m in started.stdout.split() if m.startswith(ours)
    }


# --- the whole job -------------------------------------------------------------------------------


def test_stitch_register_and_assemble_make_the_same_mosaic(tiles, acquisition, tmp_path) -> None:
    whole = run("stitch", tiles, "-o", tmp_path / "a.ome.zarr", "--layout-out", tmp_path / "a.csv",
                "--pixel-size", 0.25)  # fmt: skip
    assert whole.returncode == 0, whole.stderr
    assert "12 measured, 0 by stage, 0 in conflict; 1 part" in whole.stdout
    assert "register: " in whole.stderr
    assert "write: " in whole.stderr

    first = run("register", tiles, "-o", tmp_path / "b.json")
    assert first.returncode == 0, first.stderr
    second = run("assemble", tmp_path / "b.json", "-o", tmp_path / "b.ome.zarr", "--quiet")
    assert second.returncode == 0, second.stderr
    assert second.stderr == ""

    a, b = (zarr.open_group(str(tmp_path / f"{n}.ome.zarr"), mode="r") for n in "ab")
    np.testing.assert_array_equal(a["0"][:], b["0"][:])
    scale = a.attrs["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]
    assert scale == {"type": "scale", "scale": [0.25, 0.25]}

    found = positions_of(tmp_path / "a.csv")
    error = np.array([found[n] for n in acquisition.names]) - acquisition.truth
    assert np.linalg.norm(error - np.median(error, axis=0), axis=1).max() < 0.1
    with (tmp_path / "a.csv").open() as file:
        header = next(csv.reader(file))
    assert header[:3] == ["tile", "y", "x"]
    assert {"verdict", "residual", "part"} <= set(header)


@pytest.mark.parametrize("suffix", [".csv", ".txt", ".mosaic", ".json"])
def test_every_layout_format_can_be_assembled_from_elsewhere(suffix, tiles, tmp_path) -> None:
    layout = tmp_path / "results" / f"layout{suffix}"
    assert run("register", tiles, "-o", layout).returncode == 0
    result = run("assemble", layout, "-o", tmp_path / "a.ome.zarr", cwd=tmp_path.parent)
    assert result.returncode == 0, result.stderr
    assert zarr.open_array(str(tmp_path / "a.ome.zarr" / "0"), mode="r").shape[0] > 600


def test_the_stage_alone(tiles, acquisition, tmp_path) -> None:
    result = run("stitch", tiles, "-o", tmp_path / "a.ome.zarr", "--no-register",
                 "--layout-out", tmp_path / "a.csv", "--no-pyramid", "--interpolation", "nearest",
                 "--blend", "first", "--chunk", 100, "--shard", "200,300")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "0 measured, 12 by stage" in result.stdout
    found = positions_of(tmp_path / "a.csv")
    np.testing.assert_allclose([found[n] for n in acquisition.names], acquisition.stage)
    root = zarr.open_group(str(tmp_path / "a.ome.zarr"), mode="r")
    assert sorted(root.array_keys()) == ["0"]
    assert (root["0"].chunks, root["0"].shards) == ((100, 100), (200, 300))
    np.testing.assert_array_equal(root["0"][:256, :256], read_image(tiles / acquisition.names[0]))


def test_a_cluster_gives_the_same_archive(tiles, tmp_path) -> None:
    assert run("stitch", tiles, "-o", tmp_path / "a.ome.zarr", "--shard", 512).returncode == 0
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        result = run("stitch", tiles, "-o", tmp_path / "b.ome.zarr", "--shard", 512,
                     "--scheduler", cluster.scheduler_address)  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "2 workers" in result.stderr
    a, b = (zarr.open_array(str(tmp_path / f"{n}.ome.zarr" / "0"), mode="r")[:] for n in "ab")
    np.testing.assert_array_equal(a, b)


def test_worker_processes_with_a_memory_limit(tiles, tmp_path) -> None:
    result = run("register", tiles, "-o", tmp_path / "a.csv", "--workers", 1,
                 "--memory-limit", "1GB")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "1 worker process of 1GB" in result.stderr


# --- trust ---------------------------------------------------------------------------------------


def test_a_mosaic_that_could_not_be_measured_ends_with_3_and_is_written(tmp_path) -> None:
    rng = np.random.default_rng(0)
    for k in range(6):
        tile = rng.poisson(200, (128, 128)).astype(np.uint16)
        write_tiff(tmp_path / "t" / f"r{k // 3}_c{k % 3}.tif", tile)
    options = ("--overlap", 0.2, "--layout-out", tmp_path / "a.csv")
    result = run("stitch", tmp_path / "t", "-o", tmp_path / "a.ome.zarr", *options)
    assert result.returncode == 3
    assert "100% of the tiles could not be measured against the largest part" in result.stderr
    assert "Not measured: r0_c0.tif (stage)" in result.stdout
    assert zarr.open_array(str(tmp_path / "a.ome.zarr" / "0"), mode="r")[:].any()
    accepting = ("--overwrite", "--max-doubtful", 1)
    again = run("stitch", tmp_path / "t", "-o", tmp_path / "a.ome.zarr", *options, *accepting)
    assert again.returncode == 0


def test_a_truncated_tile_can_be_left_out_and_is_named(tiles, tmp_path) -> None:
    bad = sorted(tiles.glob("*.tif"))[5]
    bad.write_bytes(bad.read_bytes()[:-500])
    out = tmp_path / "a.ome.zarr"
    refused = run("stitch", tiles, "-o", out)
    assert refused.returncode == 2
    assert f"{bad.name}: cut short" in refused.stderr
    result = run("stitch", tiles, "-o", out, "--skip-bad-tiles")
    assert result.returncode == 0, result.stderr
    assert "Left out 1 tiles that cannot be read" in result.stderr
    assert bad.name in result.stderr
    assert "11 measured" in result.stdout
    content = json.loads(run("info", out, "--json").stdout)
    assert content["tiles"] == 11
    assert bad.name in content["provenance"]["skipped"][0]


def test_knowing_better_is_solved_in_no_time_and_without_pixels(
    tiles, acquisition, tmp_path
) -> None:
    assert run("register", tiles, "-o", tmp_path / "a.json").returncode == 0
    for path in tiles.glob("*.tif"):
        path.unlink()
    first, second = acquisition.names[:2]
    known = tmp_path / "known.csv"
    known.write_text(f"kind,tile,other,y,x\npin,{first},,500,700\nforbid,{first},{second},,\n")
    command = ("solve", tmp_path / "a.json", "-o", tmp_path / "b.csv", "--constraints", known)
    result = run(*command)
    assert result.returncode == 0, result.stderr
    found = positions_of(tmp_path / "b.csv")
    np.testing.assert_allclose(found[first], (500, 700), atol=1e-3)
    error = np.array([found[n] for n in acquisition.names]) - acquisition.truth
    assert np.abs(error - error[0]).max() < 0.15


# --- the doctor ----------------------------------------------------------------------------------


def test_stitch_asks_the_doctor_when_positions_lead_nowhere(tiles, acquisition, tmp_path) -> None:
    wrong = tmp_path / "wrong.csv"
    rows = zip(acquisition.names, acquisition.stage, strict=True)
    lines = [f"{n},{-y},{x}" for n, (y, x) in rows]
    wrong.write_text("\n".join(["tile,y,x", *lines]))
    result = run("stitch", tiles, "-o", tmp_path / "a.ome.zarr", "--positions", wrong)
    assert result.returncode == 3
    assert "y runs the other way than the positions say" in result.stderr
    assert '--stage-matrix="-1,0,0,1"' in result.stderr
    mended = run("stitch", tiles, "-o", tmp_path / "b.ome.zarr", "--positions", wrong,
                 "--stage-matrix=-1,0,0,1")  # fmt: skip
    assert mended.returncode == 0, mended.stderr
    assert "12 measured" in mended.stdout


def test_the_doctor_speaks_to_people_and_programs(tiles, tmp_path) -> None:
    result = run("doctor", tiles, "-o", tmp_path / "proof.png")
    assert result.returncode == 0, result.stderr
    assert "Positions and images agree." in result.stdout
    assert read_image(tmp_path / "proof.png").shape == (640, 1216)
    facts = json.loads(run("doctor", tiles, "--json").stdout)
    assert facts["sure"]
    assert facts["overlap"][0] == pytest.approx(0.2, abs=0.03)


# --- info ----------------------------------------------------------------------------------------


def test_info_says_what_a_path_is(tiles, tmp_path) -> None:
    archive, layout = tmp_path / "a.ome.zarr", tmp_path / "a.json"
    assert run("stitch", tiles, "-o", archive, "--layout-out", layout).returncode == 0
    for path, what in ((tiles, "tiles"), (layout, "layout"), (tiles / "positions.csv", "positions"),
                       (archive, "OME-Zarr archive of mosaicreg")):  # fmt: skip
        words, facts = run("info", path), run("info", path, "--json")
        assert words.returncode == facts.returncode == 0, words.stderr
        assert f"what                     {what}"[:5] in words.stdout
        content = json.loads(facts.stdout)
        assert content["what"] == what
        assert content["tiles"] == 12
    assert content["verdicts"] == {"measured": 12}
    assert content["provenance"]["command"].startswith("mosaicreg stitch ")
    assert "API" not in facts.stdout


# --- bad usage and bad input ---------------------------------------------------------------------


def test_bad_usage_ends_with_2(tmp_path) -> None:
    for arguments in (
        ["stitch"],
        ["stitch", tmp_path],
        ["nonsense"],
        ["stitch", tmp_path, "-o", "x", "--overlap", "1.5"],
        ["stitch", tmp_path, "-o", "x", "--overlap", "a,b"],
        ["stitch", tmp_path, "-o", "x", "--chunk", "0"],
        ["stitch", tmp_path, "-o", "x", "--blend", "median"],
        ["stitch", tmp_path, "-o", "x", "--stage-matrix", "1,0,0"],
        ["stitch", tmp_path, "-o", "x", "--stage-matrix", "1,1,1,1"],
    ):
        result = run(*arguments)
        assert result.returncode == 2, arguments
        assert "Traceback" not in result.stderr


def bad_inputs(tiles: Path, tmp_path: Path) -> dict[str, tuple[list[object], str]]:
    out = tmp_path / "out.ome.zarr"
    existing = tmp_path / "there.ome.zarr"
    existing.mkdir(exist_ok=True)
    (existing / "notes.txt").write_text("of somebody")
    apart = tmp_path / "apart.csv"
    names = sorted(p.name for p in tiles.glob("*.tif"))
    apart.write_text("tile,y,x\n" + "".join(f"{n},{300 * k},0\n" for k, n in enumerate(names)))
    return {
        "missing input": ([tmp_path / "no", "-o", out], "there is no such file or folder"),
        "existing output": ([tiles, "-o", existing], "exists; choose another name"),
        "output over the input": (
            [tiles, "-o", tiles, "--overwrite"],
            "holds the tiles themselves; the archive needs another place",
        ),
        "output over something else": (
            [tiles, "-o", existing, "--overwrite"],
            "not a zarr archive; it will not be overwritten",
        ),
        "no overlap": ([tiles, "-o", out, "--positions", apart], "no two of the 12 tiles overlap"),
        "no such channel": ([tiles, "-o", out, "--channel", 3], "--channel 3 does not exist"),
        "bad fill": ([tiles, "-o", out, "--fill", -1], "fill value -1.0 does not fit"),
        "bad shard": ([tiles, "-o", out, "--shard", 1000], "not a whole number of chunks"),
        "bad layout name": (
            [tiles, "-o", out, "--layout-out", tmp_path / "a.xlsx"],
            "a layout file ends in one of",
        ),
        "no scheduler": (
            [tiles, "-o", out, "--scheduler", "tcp://127.0.0.1:1"],
            "no dask scheduler answers",
        ),
        "scheduler and workers": (
            [tiles, "-o", out, "--scheduler", "tcp://127.0.0.1:1", "--workers", 2],
            "--scheduler and --workers or --memory-limit contradict each other",
        ),
    }


@pytest.mark.parametrize(
    "case",
    [
        "missing input",
        "existing output",
        "output over the input",
        "output over something else",
        "no overlap",
        "no such channel",
        "bad fill",
        "bad shard",
        "bad layout name",
        "no scheduler",
        "scheduler and workers",
    ],
)
def test_bad_input_is_one_clear_error_before_anything_is_written(case, tiles, tmp_path) -> None:
    arguments, message = bad_inputs(tiles, tmp_path)[case]
    before = sorted(p for p in tmp_path.rglob("*"))
    result = run("stitch", *arguments)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(p for p in tmp_path.rglob("*")) == before


def test_an_archive_that_is_its_own_input_is_never_overwritten(tmp_path) -> None:
    path = tmp_path / "tile.zarr"
    zarr.create_array(str(path), data=np.arange(100, dtype=np.uint8).reshape(10, 10))
    result = run("stitch", path, "-o", path, "--overwrite")
    assert result.returncode == 2
    assert "holds the tiles themselves" in result.stderr
    assert zarr.open_array(str(path), mode="r")[9, 9] == 99


def test_a_tile_damaged_inside_ends_with_2_and_its_name(tmp_path) -> None:
    import imagecodecs

    rng = np.random.default_rng(0)
    for k in range(2):
        pixels = rng.integers(0, 255, (64, 64)).astype(np.uint8)
        (tmp_path / f"r0_c{k}.png").write_bytes(imagecodecs.png_encode(pixels))
    content = bytearray((tmp_path / "r0_c1.png").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "r0_c1.png").write_bytes(content)
    result = run("stitch", tmp_path, "-o", tmp_path / "a.ome.zarr", "--overlap", 0.2)
    assert result.returncode == 2
    assert "r0_c1.png: unreadable" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_existing_layout_is_kept_unless_told(tiles, tmp_path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("mine")
    assert run("register", tiles, "-o", path).returncode == 2
    assert path.read_text() == "mine"
    assert run("register", tiles, "-o", path, "--overwrite").returncode == 0


def test_colour_and_depth_are_carried_through(tmp_path) -> None:
    import imagecodecs
    import tifffile

    from mosaicreg.synthetic import Acquisition

    acquisition = Acquisition(grid=(1, 2), tile=(96, 128), overlap=0.3, stage_error=3)
    for k in range(2):
        image = acquisition.tile_image(k)
        rgb = np.stack([image, image // 2, 65535 - image], axis=-1)
        (tmp_path / f"rgb_r0_c{k}.png").write_bytes(imagecodecs.png_encode(rgb))
        stack = np.stack([image // 3, image, image // 2])
        tifffile.imwrite(tmp_path / f"z_r0_c{k}.ome.tif", stack, metadata={"axes": "ZYX"})
    for pattern, axes, options in (("rgb*.png", "cyx", ()), ("z*.tif", "zyx", ("--plane", 1))):
        out = tmp_path / f"{axes}.ome.zarr"
        result = run("stitch", tmp_path / pattern, "-o", out, "--overlap", 0.3, *options)
        assert result.returncode == 0, result.stderr
        assert "2 measured" in result.stdout
        level = zarr.open_array(str(out / "0"), mode="r")
        assert level.metadata.dimension_names == tuple(axes)
        assert level.shape[0] == 3
        first = level[:, 20:60, 20:60].astype(int)
        if axes == "cyx":
            assert np.abs(first[2] + first[0] - 65535).max() <= 1
            labels = zarr.open_group(str(out), mode="r").attrs["ome"]["omero"]["channels"]
            assert [c["label"] for c in labels] == ["red", "green", "blue"]
        else:
            assert np.abs(first[1] - 2 * first[2]).max() <= 3
