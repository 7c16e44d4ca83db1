"""multiview-stitcher: register, fuse lazily (its faster way for these sizes), write OME-Zarr."""

from __future__ import annotations

import common
import dask.array as da
import numpy as np


def main() -> None:
    """Register, and write a pyramid."""
    step, tiles, out = common.arguments()
    names, _, positions = common.stage(tiles)
    import tifffile
    from multiview_stitcher import fusion, msi_utils, ngff_utils, param_utils, registration
    from multiview_stitcher import spatial_image_utils as si

    images = []
    for name, (y, x) in zip(names, positions, strict=True):
        array = da.from_array(tifffile.memmap(tiles / name, mode="r"), chunks=(1024, 1024))
        sim = si.get_sim_from_array(
            array[np.newaxis, np.newaxis],
            dims=["t", "c", "y", "x"],
            scale={"y": 1.0, "x": 1.0},
            translation={"y": float(y), "x": float(x)},
            transform_key="stage",
        )
        images.append(msi_utils.get_msim_from_sim(sim, scale_factors=[]))
    params = registration.register(
        images, transform_key="stage", new_transform_key="registered", reg_channel_index=0
    )
    found = [
        positions[k] + param_utils.translation_from_affine(np.asarray(p).reshape(-1, 3, 3)[0])
        for k, p in enumerate(params)
    ]
    common.write_positions(out, names, found)
    if step == "stitch":
        sims = [msi_utils.get_sim_from_msim(image) for image in images]
        fused = fusion.fuse(sims, transform_key="registered", output_chunksize=1024)
        ngff_utils.write_sim_to_ome_zarr(fused, str(out / "mosaic.ome.zarr"), overwrite=True)


if __name__ == "__main__":
    main()
