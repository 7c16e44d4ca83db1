"""Other programs' readers see the archive's pixels, axes, sizes and channels.

They are heavy (napari among them), so they live in the extra `readers`; .ci/run installs it into an
environment of its own and says MOSAICREG_READERS=1.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import zarr

pytestmark = [
    pytest.mark.readers,
    pytest.mark.skipif(
        os.environ.get("MOSAICREG_READERS") != "1",
        reason="other programs' readers: pip install -e '.[readers]', MOSAICREG_READERS=1",
    ),
    pytest.mark.filterwarnings("default"),  # theirs are not ours to mend
]
SIZE = 0.5


@pytest.fixture(scope="module", params=["0.5", "0.4", "exported as 0.4"])
def archive(request, tmp_path_factory) -> Path:
    """Two channels of a mosaic with pyramid, as both versions of OME-Zarr."""
    from mosaicreg import Mosaic, assemble, write_ome_zarr
    from mosaicreg.export import write_version_04
    from mosaicreg.layout import stage_layout

    rng = np.random.default_rng(0)
    tiles = [rng.integers(0, 4000, (2, 300, 300)).astype(np.uint16) for _ in range(4)]
    positions = [(0, 0), (0, 270.4), (265.6, 0), (266, 271)]
    mosaic = Mosaic.from_arrays(tiles, positions, pixel_size=(SIZE, SIZE), channels=("DAPI", "GFP"))
    layout = stage_layout(mosaic)
    folder = tmp_path_factory.mktemp("readers")
    path = folder / "mosaic.ome.zarr"
    image = assemble(mosaic, layout)
    version = "0.4" if request.param == "0.4" else "0.5"
    write_ome_zarr(
        image, path, mosaic=mosaic, layout=layout, chunk=128, shard=256, ome_version=version
    )
    if request.param.startswith("exported"):
        write_version_04(path, folder / "older.ome.zarr", chunk=128)
        path = folder / "older.ome.zarr"
    return path


@pytest.fixture
def levels(archive) -> list[np.ndarray]:
    root = zarr.open_group(str(archive), mode="r")
    return [root[str(k)][:] for k in range(4)]


def test_ome_zarr_models_finds_nothing_wrong(archive, levels) -> None:
    import ome_zarr_models

    checked = ome_zarr_models.open_ome_zarr(zarr.open_group(str(archive), mode="r"))
    text = checked.model_dump_json(exclude_none=True)
    assert all(f'"path":"{k}"' in text for k in range(len(levels)))


def test_ome_zarr(archive, levels) -> None:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    (node, *_) = list(Reader(parse_url(str(archive), mode="r"))())
    assert len(node.data) == len(levels)
    for found, expected in zip(node.data, levels, strict=True):
        np.testing.assert_array_equal(found.compute(), expected)
    assert [a["name"] for a in node.metadata["axes"]] == ["c", "y", "x"]
    assert list(node.metadata["channel_names"]) == ["DAPI", "GFP"]
    scale = node.metadata["coordinateTransformations"][1][0]["scale"]
    assert scale[-2:] == [2 * SIZE, 2 * SIZE]


def test_ngff_zarr(archive, levels) -> None:
    import ngff_zarr

    images = ngff_zarr.from_ngff_zarr(str(archive)).images
    assert len(images) == len(levels)
    for k, (image, expected) in enumerate(zip(images, levels, strict=True)):
        assert list(image.dims) == ["c", "y", "x"]
        np.testing.assert_array_equal(np.asarray(image.data), expected)
        assert image.scale["y"] == SIZE * 2**k
        assert image.translation["y"] == pytest.approx(SIZE * (2**k - 1) / 2)
    assert images[0].axes_units["y"] == "micrometer"


def test_napari_ome_zarr(archive, levels) -> None:
    from napari_ome_zarr._reader import napari_get_reader

    reader = napari_get_reader(str(archive))
    assert reader is not None
    data, options, kind = reader(str(archive))[0]
    assert kind == "image"
    for found, expected in zip(data, levels, strict=True):
        np.testing.assert_array_equal(np.asarray(found), expected)
    assert [n.rpartition(": ")[2] for n in options["name"]] == ["DAPI", "GFP"]
    assert list(options["scale"])[-2:] == [SIZE, SIZE]
    assert options["channel_axis"] == 0


def test_xarray(archive, levels) -> None:
    import xarray

    # One level at a time: levels share the names of their axes, not their lengths.
    others = [str(k) for k in range(1, len(levels))]
    # In zarr v2 xarray takes the fill value for missing data, unless it is told not to.
    dataset = xarray.open_zarr(
        str(archive), consolidated=False, drop_variables=others, mask_and_scale=False
    )
    assert dataset["0"].dims == ("c", "y", "x")
    np.testing.assert_array_equal(dataset["0"].values, levels[0])
