"""The lazy mosaic: what is read when, under which scheduler, and how large the graph is."""

from __future__ import annotations

import pickle
import weakref
from dataclasses import dataclass, field, replace

import dask
import numpy as np
import pytest

from mosaicreg import InputError, Mosaic, assemble, stage_layout
from mosaicreg.geometry import Box
from mosaicreg.recipe import recipe_for, render_bands, render_plan


@dataclass
class SpySource:
    """Tiles of one value each that write down what is read of them."""

    tiles: np.ndarray
    side: int = 100
    seen: list = field(default_factory=list)
    dtype: np.dtype = field(default_factory=lambda: np.dtype("uint16"))
    leading: tuple = ()
    interleaved: bool = False

    def __len__(self) -> int:
        return len(self.tiles)

    def read(self, tile, box, lead):
        self.seen.append((int(self.tiles[tile]), box))
        return np.full(box.shape, self.tiles[tile] + 1, self.dtype)

    def select(self, tiles):
        return SpySource(self.tiles[tiles], self.side, self.seen)


def spied_grid(rows: int, cols: int) -> tuple[Mosaic, list]:
    """Tiles of 100 px every 90 px."""
    positions = np.stack(np.divmod(np.arange(rows * cols), cols), axis=1) * 90.0
    source = SpySource(np.arange(rows * cols))
    mosaic = Mosaic(
        names=[str(k) for k in range(rows * cols)],
        positions=positions,
        shapes=np.full((rows * cols, 2), 100),
        source=source,
    )
    return mosaic, source.seen


def test_building_the_graph_reads_nothing() -> None:
    mosaic, seen = spied_grid(20, 20)
    assemble(mosaic, stage_layout(mosaic), block=128)
    mosaic.neighbours()
    repr(mosaic)
    assert seen == []


def test_a_block_reads_only_the_tiles_that_touch_it_and_only_what_it_needs() -> None:
    mosaic, seen = spied_grid(20, 20)
    layout = stage_layout(mosaic)
    image = assemble(mosaic, layout, block=128)
    for row, col in [(0, 0), (3, 7), (13, 13)]:
        seen.clear()
        image.blocks[row, col].compute(scheduler="synchronous")
        block = Box.at((128 * row, 128 * col), image.blocks[row, col].shape)
        expected = {}
        for k, (y, x) in enumerate(layout.positions.astype(int).tolist()):
            common = Box.at((y, x), (100, 100)).intersection(block)
            if common:
                expected[k] = common.shifted(-y, -x)
        assert dict(seen) == expected
        assert len(seen) == len(expected)


def test_each_task_carries_only_its_own_tiles() -> None:
    mosaic, _ = spied_grid(40, 40)
    image = assemble(mosaic, stage_layout(mosaic), block=256)
    graph = dict(image.__dask_graph__())
    assert len(graph) == 15 * 15
    for task in graph.values():
        plan = next(a for a in task if hasattr(a, "source"))
        assert len(plan.source) <= 25
        assert len(plan.positions) == len(plan.source)
    assert len(pickle.dumps(next(iter(graph.values())))) < 10_000


def test_a_window_of_a_huge_mosaic_is_cheap() -> None:
    mosaic, seen = spied_grid(300, 300)
    image = assemble(mosaic, stage_layout(mosaic), block=1024)
    window = image[13_000:13_200, 9_000:9_200].compute(scheduler="synchronous")
    assert window.shape == (200, 200)
    assert len(seen) <= 4 * 13 * 13


@pytest.mark.row("J1 determinism")
@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_schedulers_agree(scheduler, acquisition) -> None:
    mosaic = acquisition.mosaic
    image = assemble(mosaic, stage_layout(mosaic), block=300)
    expected = assemble(mosaic, stage_layout(mosaic)).compute(scheduler="synchronous")
    with dask.config.set(scheduler=scheduler, num_workers=2):
        assert (image.compute() == expected).all()


def test_leading_axes_are_carried_through_plane_by_plane() -> None:
    rng = np.random.default_rng(0)
    tiles = [rng.integers(0, 999, (2, 3, 20, 30)).astype(np.uint16) for _ in range(2)]
    mosaic = Mosaic.from_arrays(tiles, [(0, 0), (0, 30)])
    assert mosaic.axes == "czyx"
    image = assemble(mosaic, stage_layout(mosaic))
    assert image.shape == (2, 3, 20, 60)
    assert image.chunks[:2] == ((1, 1), (1, 1, 1))
    np.testing.assert_array_equal(image.compute(), np.concatenate(tiles, axis=-1))


def test_missing_tiles_leave_the_fill_value() -> None:
    tiles = [np.full((10, 10), k, np.uint8) for k in (1, 2, 3)]
    mosaic = Mosaic.from_arrays(tiles, [(0, 0), (0, 10), (10, 0)])
    image = assemble(mosaic, stage_layout(mosaic), fill=9).compute()
    assert (image[10:, 10:] == 9).all()
    assert set(np.unique(image[:10])) == {1, 2}


def test_one_tile_is_a_mosaic() -> None:
    tile = np.arange(12, dtype=np.int16).reshape(3, 4)
    mosaic = Mosaic.from_arrays([tile], [(-3.5, 1e6)])
    np.testing.assert_array_equal(assemble(mosaic, stage_layout(mosaic)).compute(), tile)


def test_options_that_make_no_sense_are_refused() -> None:
    mosaic, _ = spied_grid(2, 2)
    layout = stage_layout(mosaic)
    other, _ = spied_grid(3, 2)
    with pytest.raises(InputError, match="of other tiles"):
        assemble(other, layout)
    with pytest.raises(InputError, match="blend must be one of linear"):
        assemble(mosaic, layout, blend="median")
    with pytest.raises(InputError, match="fill value -1 does not fit"):
        assemble(mosaic, layout, fill=-1)
    with pytest.raises(ValueError, match="block must be one whole number"):
        assemble(mosaic, layout, block=(1, 2, 3))


@pytest.mark.parametrize("angles", [None, 1.5])
def test_a_block_in_bands_is_the_same_and_holds_only_the_tiles_of_each(angles) -> None:
    """From top to bottom: each tile is read once, when it is needed, and let go after that."""
    rng = np.random.default_rng(0)
    places = [(y, x) for y in (0, 30, 60, 90) for x in (0.25, 29.5)]
    tiles = [rng.integers(0, 999, (40, 40)).astype(np.uint16) for _ in places]
    mosaic = Mosaic.from_arrays(tiles, places)
    recipe = recipe_for(mosaic, stage_layout(mosaic), block=200)
    if angles is not None:
        recipe = replace(recipe, angles=np.full(len(places), angles))
    plan = recipe.plan((0, 0))
    alive: weakref.WeakSet[Pixels] = weakref.WeakSet()
    read, most = [], []

    class Pixels(np.ndarray):
        __hash__ = object.__hash__

    class Watched:
        leading = ()

        def read(self, tile, box, lead):
            pixels = plan.source.read(tile, box, lead).copy().view(Pixels)
            alive.add(pixels)
            read.append(tile)
            return pixels

    bands = []
    for band in render_bands(replace(plan, source=Watched()), 16):
        most.append(len(alive))
        bands.append(np.asarray(band))
    assert sorted(read) == list(range(len(places)))
    assert max(most) <= 4
    np.testing.assert_array_equal(np.concatenate(bands), render_plan(plan))
