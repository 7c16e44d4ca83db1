"""SOFIMA: rigid offsets, then flow and an elastic mesh, with the values of its notebook.

Patches are smaller than the notebook's, since they must fit into the overlap. A tile's position is
the mean of its mesh.
"""

from __future__ import annotations

import functools

import common
import numpy as np


def main() -> None:
    """Register."""
    _, tiles, out = common.arguments()
    names, cells, _ = common.stage(tiles)
    import jax
    import tifffile
    from sofima import flow_utils, mesh, stitch_elastic, stitch_rigid

    shape = tuple(cells.max(axis=0) + 1)
    images = {
        (int(x), int(y)): tifffile.imread(tiles / name).astype(np.float32)
        for (y, x), name in zip(cells, names, strict=True)
    }
    sides = ((102, 126), (102, 126))
    cx, cy = stitch_rigid.compute_coarse_offsets(shape, images, sides, min_overlap=60)
    coarse = stitch_rigid.optimize_coarse_mesh(cx, cy)
    cx, cy = np.squeeze(cx, axis=1), np.squeeze(cy, axis=1)

    stride = (20, 20)
    data = []
    for axis, offsets in enumerate((cx, cy)):
        flow, used = stitch_elastic.compute_flow_map(
            images, offsets, axis, patch_size=(80, 80), stride=stride, batch_size=16
        )
        clean = {
            k: flow_utils.clean_flow(f[:, np.newaxis], 1.4, 1.4, 0, 0)[:, 0]
            for k, f in flow.items()
        }
        data.append((offsets, clean, used))
    fx, fy, nodes, neighbours, number = stitch_elastic.aggregate_arrays(
        data[0], data[1], images, coarse[:, 0], stride=stride
    )

    @jax.jit
    def target(x):
        one = functools.partial(
            stitch_elastic.compute_target_mesh, x=x, fx=fx, fy=fy, stride=stride
        )
        return jax.numpy.transpose(jax.vmap(one)(neighbours), [1, 0, 2, 3])

    config = mesh.IntegrationConfig(
        dt=0.001, gamma=0.0, k0=0.01, k=0.1, stride=stride[0], num_iters=1000, max_iters=20000,
        stop_v_max=0.001, dt_max=100, prefer_orig_order=True, start_cap=0.1, final_cap=10.0,
        remove_drift=True,
    )  # fmt: skip
    solved = np.asarray(mesh.relax_mesh(nodes, None, config, prev_fn=target)[0])
    side = next(iter(images.values())).shape
    found = [
        np.array([y * side[0], x * side[1]])
        + solved[::-1, number[int(x), int(y)]].mean(axis=(1, 2))
        for y, x in cells
    ]
    common.write_positions(out, names, found)


if __name__ == "__main__":
    main()
