"""`assemble`: the mosaic as a lazy dask array, one task per output block.

Graph only, no pixel code: `mosaicreg.recipe` knows how each block is made. Tasks are made when they
are asked for: the array over a million tiles is a few columns, and a window of it is as many tasks
as it has blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any
from uuid import uuid4

import dask.array as da
import numpy as np
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer

from mosaicreg.layout import Layout
from mosaicreg.mosaic import Mosaic
from mosaicreg.recipe import BLOCK, Recipe, recipe_for, render_plan
from mosaicreg.render import Blend, Interpolation


def assemble(
    mosaic: Mosaic,
    layout: Layout,
    *,
    blend: Blend = "linear",
    interpolation: Interpolation = "linear",
    fill: float = 0,
    block: int | tuple[int, int] = BLOCK,
) -> da.Array:
    """The mosaic as a lazy dask array; nothing is read until a part of it is computed.

    Args:
        mosaic: the tiles.
        layout: where they lie.
        blend: what a pixel shows that several tiles own, see `mosaicreg.render.Blend`.
        interpolation: ``"linear"`` places tiles to a fraction of a pixel; ``"nearest"`` to a whole
            one, copying pixels as they are.
        fill: value of pixels that no tile owns.
        block: (y, x) or one number, px; each block is one task. It does not change the result.

    Returns:
        (leading..., y, x) array of the tiles' dtype. Its first pixel is the smallest y and x that
        any tile owns.

    Raises:
        InputError: where mosaic and layout differ, or an option does not exist.
    """
    recipe = recipe_for(
        mosaic, layout, blend=blend, interpolation=interpolation, fill=fill, block=block
    )
    layer = _Blocks(f"assemble-{uuid4().hex}", recipe)
    graph = HighLevelGraph({layer.name: layer}, {layer.name: set()})
    return da.Array(graph, layer.name, chunks=recipe.chunks, dtype=mosaic.dtype)


def recipe_of(image: da.Array) -> Recipe | None:
    """What `assemble` made an array from; None for any other array, or one changed since."""
    layers = getattr(image.dask, "layers", {})
    layer = layers.get(image.name)
    return layer.recipe if isinstance(layer, _Blocks) else None


class _Blocks(Layer):
    """The tasks of an array as a mapping that makes each when it is asked for."""

    def __init__(self, name: str, recipe: Recipe) -> None:
        super().__init__()
        self.name, self.recipe = name, recipe

    def __getitem__(self, key: Any) -> Any:
        if not self._has(key):
            raise KeyError(key)
        return (render_plan, self.recipe.plan(key[1:]))

    def _has(self, key: Any) -> bool:
        if not isinstance(key, tuple) or key[:1] != (self.name,):
            return False
        index, counts = key[1:], self.recipe.numblocks
        return len(index) == len(counts) and all(
            0 <= k < n for k, n in zip(index, counts, strict=True)
        )

    def __contains__(self, key: object) -> bool:
        return self._has(key)

    def __iter__(self) -> Iterator[Any]:
        return product((self.name,), *map(range, self.recipe.numblocks))

    def __len__(self) -> int:
        return int(np.prod(self.recipe.numblocks))

    def is_materialized(self) -> bool:
        """No: tasks are made on demand."""
        return False

    def get_output_keys(self) -> set[Any]:
        """All keys."""
        return set(self)

    def cull(self, keys: set[Any], all_hlg_keys: Any) -> tuple[Layer, Mapping[Any, set[Any]]]:
        """Only the tasks for ``keys``."""
        tasks = {key: self[key] for key in keys if self._has(key)}
        return MaterializedLayer(tasks), {key: set() for key in tasks}
