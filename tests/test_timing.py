"""How long a job will take: the arithmetic, and that it is not far from what it takes."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import dask
import numpy as np
import pytest
from click.testing import CliRunner

from mosaicreg import Mosaic, assemble, register, stage_layout, synthetic, write_ome_zarr
from mosaicreg.assembly import recipe_of
from mosaicreg.cli import main
from mosaicreg.omezarr import Pyramid
from mosaicreg.planning import plan_job, time_in_words
from mosaicreg.registration import NULL_PAIRS, batches_of
from mosaicreg.timing import Rates, multiplied, predict

RATES = Rates(
    tile=0.5, tile_area=100.0, window=0.5, window_area=25.0,
    pair=2.0, blend=1e-3, encode=1e-4, decode=1e-5, halve=1e-6,
)  # fmt: skip


@pytest.mark.parametrize(
    ("tile", "window", "due"),
    [
        (0.5, 0.5, 8 * 0.5),  # decoded whole for any part: what counts is how often
        (0.4, 0.1, 1000 * 0.004),  # read in part: what counts is how much
        (0.5, 0.2, 8 * 0.1 + 1000 * 0.004),
    ],
)
def test_reading_costs_by_the_part_and_by_the_pixel(tile, window, due) -> None:
    assert replace(RATES, tile=tile, window=window).reading(8, 1000) == pytest.approx(due)


def test_all_is_multiplied() -> None:
    mosaic = Mosaic.from_arrays(
        [np.ones((10, 10), np.uint16)] * 4, [(0, 0), (0, 8), (8, 0), (8, 8)]
    )
    image = assemble(mosaic, stage_layout(mosaic))
    plan = Pyramid.plan(image.shape, image.dtype, "yx", chunk=(9, 9), shard=(9, 9))
    pairs = mosaic.neighbours()
    assert (len(pairs), plan.levels) == (4, 2)
    recipe = recipe_of(image).with_blocks((9, 9))
    found = multiplied(RATES, mosaic, recipe, plan, pairs, batches_of(mosaic, pairs))
    assert list(found) == ["register", "write", "level 1"]
    # As many comparisons again, up to a hundred, show how high chance reaches.
    assert NULL_PAIRS > 4
    assert found["register"] == {"reading": 4 * 0.5, "comparing": 8 * 2.0}
    # Four shards, of which the first is touched by all tiles, and the others by two, two, and one.
    assert found["write"]["reading"] == pytest.approx(sum(map(len, recipe.touching[1:])) * 0.5)
    assert found["write"]["blending"] == pytest.approx(18 * 18 * 1e-3)
    assert found["level 1"]["halving"] == pytest.approx(4 * 81 * 1e-6)
    job = plan_job(mosaic, recipe, plan, pairs)
    job = replace(job, seconds=found, all_threads=3)
    # One batch of pairs keeps one thread busy, four shards all three.
    assert job.wall_seconds()["register"] == pytest.approx(18.0)
    assert job.wall_seconds()["write"] == pytest.approx(sum(found["write"].values()) / 3)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.0123, "0.012 s"), (61, "61 s"), (600, "10 min"), (9000, "2.5 h")]
)
def test_times_for_people(seconds, words) -> None:
    assert time_in_words(seconds) == words


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_a_job_takes_about_as_long_as_predicted(version, tmp_path) -> None:
    """CPU time, within a factor of three: small jobs on a loaded machine are told no better."""
    acquisition = synthetic.Acquisition(grid=(4, 5), tile=(512, 512), overlap=0.15, stage_error=4)
    mosaic = acquisition.mosaic
    image = assemble(mosaic, stage_layout(mosaic), block=1024)
    cut = {"chunk": (256, 256), "shard": (1024, 1024)}
    plan = Pyramid.plan(image.shape, image.dtype, "yx", version=version, **cut)
    due = predict(mosaic, recipe_of(image), plan, mosaic.neighbours()).result()
    with dask.config.set(scheduler="synchronous"):
        moments = [time.process_time()]
        register(mosaic)
        moments.append(time.process_time())
        write_ome_zarr(image, tmp_path / "a.ome.zarr", chunk=256, shard=1024, ome_version=version)
        moments.append(time.process_time())
    registering, writing = np.diff(moments)
    assert 1 / 3 < registering / sum(due["register"].values()) < 3
    expected = sum(sum(terms.values()) for stage, terms in due.items() if stage != "register")
    assert 1 / 3 < writing / expected < 3


def test_the_commands_say_it(tiles, tmp_path) -> None:
    run = CliRunner().invoke
    said = run(main, ["plan", str(tiles), "--workers", "2"])
    assert said.exit_code == 0, said.output
    assert "on 2 threads" in said.stdout
    assert "comparing" in said.stdout
    facts = json.loads(run(main, ["plan", str(tiles), "--json"]).stdout)
    assert set(facts["cpu_seconds"]["write"]) == {"reading", "blending", "encoding"}
    assert facts["wall_seconds"].keys() == facts["tasks"].keys()
    output = tmp_path / "out.ome.zarr"
    done = run(
        main, ["stitch", str(tiles), "-o", str(output), "--report", str(tmp_path / "r.html")]
    )
    assert done.exit_code == 0, done.output
    assert "predicted, " in done.stderr.split("Time: ")[1]
    numbers = json.loads(run(main, ["report", str(output), "--json", "--quiet"]).stdout)
    assert {"register", "write", "level 1"} <= numbers["predicted_seconds"].keys()
    assert numbers["predicted_seconds"].keys() <= numbers["seconds"].keys()
    assert "s predicted)" in (tmp_path / "r.html").read_text(encoding="utf-8")
