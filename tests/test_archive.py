"""OME-Zarr archives: valid for other tools, complete, whole shards only, the same bytes always."""

from __future__ import annotations

import hashlib
import itertools
import json
import warnings
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mosaicreg import InputError, Mosaic, assemble, omezarr, register, solve_layout, write_ome_zarr
from mosaicreg.inspection import describe
from mosaicreg.omezarr import Pyramid, ome_of, read_facts, read_table
from mosaicreg.reopening import read_archive
from mosaicreg.shards import halve, write_shard
from mosaicreg.verification import verify


def content(path: Path) -> dict[str, str]:
    """Digest of every file of an archive, but for the log of when it was made."""
    return {
        str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(path.rglob("*"))
        if p.is_file() and "log" not in p.parts
    }


def image(shape: tuple[int, ...] = (300, 500), dtype: str = "uint16", chunk: int = 128) -> da.Array:
    rng = np.random.default_rng(0)
    return da.from_array(rng.integers(0, 999, shape).astype(dtype), chunks=chunk)


@pytest.fixture(scope="module", params=["0.5", "0.4"])
def archive(request, tmp_path_factory, acquisition) -> Path:
    path = tmp_path_factory.mktemp("archive") / "käse.ome.zarr"
    mosaic = acquisition.mosaic
    layout = solve_layout(mosaic, register(mosaic))
    picture = assemble(mosaic, layout, block=256)
    facts = {"version": "1", "options": {"blend": "linear"}}
    return write_ome_zarr(
        picture,
        path,
        mosaic=mosaic,
        layout=layout,
        chunk=64,
        shard=256,
        provenance=facts,
        ome_version=request.param,
    )


def version_of(archive: Path) -> str:
    return "0.5" if (archive / "zarr.json").exists() else "0.4"


# --- valid for others ----------------------------------------------------------------------------


def test_yaozarrs_finds_nothing_wrong(archive) -> None:
    import yaozarrs

    yaozarrs.validate_zarr_store(str(archive))


def test_ome_zarr_models_finds_nothing_wrong(archive) -> None:
    from ome_zarr_models import open_ome_zarr

    checked = open_ome_zarr(zarr.open_group(str(archive), mode="r"))
    assert type(checked).__module__.split(".")[1] == f"v{version_of(archive).replace('.', '')}"
    text = checked.model_dump_json(exclude_none=True)
    assert all(f'"path":"{k}"' in text for k in range(5))


@pytest.mark.parametrize("schema", ["image.schema", "strict_image.schema"])
def test_the_ngff_schemas_accept_it(schema, archive, data) -> None:
    from jsonschema import Draft202012Validator
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012

    version = version_of(archive)
    folder = data / "ngff_conformance" / f"v{version}" / "schemas"
    schemas = {p.stem: json.loads(p.read_text()) for p in folder.glob("*.schema")}
    registry = Registry().with_resources(
        (s["$id"], DRAFT202012.create_resource(s)) for s in schemas.values() if "$id" in s
    )
    if version == "0.5":
        attributes = json.loads((archive / "zarr.json").read_text())["attributes"]
    else:
        attributes = json.loads((archive / ".zattrs").read_text())
    Draft202012Validator(schemas[Path(schema).stem], registry=registry).validate(attributes)


def test_pixels_are_those_of_the_assembled_array(archive, acquisition) -> None:
    table = read_table(archive, "tiles")
    positions = np.stack([table["y"], table["x"]], axis=1)
    mosaic = acquisition.mosaic
    layout = solve_layout(mosaic, register(mosaic))
    np.testing.assert_array_equal(positions, layout.positions)
    expected = assemble(mosaic, layout).compute()
    np.testing.assert_array_equal(zarr.open_array(str(archive / "0"), mode="r")[:], expected)


def test_each_level_is_the_mean_of_the_one_before(archive) -> None:
    root = zarr.open_group(str(archive), mode="r")
    levels = [root[str(k)][:] for k in range(5)]
    for fine, coarse in itertools.pairwise(levels):
        np.testing.assert_array_equal(coarse, halve(fine))
    assert max(levels[-1].shape) <= 64 < max(levels[-2].shape)


def test_scale_translation_and_axes_are_physical(archive) -> None:
    image = ome_of(zarr.open_group(str(archive), mode="r"))["multiscales"][0]
    assert [(a["name"], a["type"], a["unit"]) for a in image["axes"]] == [
        ("y", "space", "micrometer"),
        ("x", "space", "micrometer"),
    ]
    for k, dataset in enumerate(image["datasets"]):
        moves = {t["type"]: t[t["type"]] for t in dataset["coordinateTransformations"]}
        assert moves["scale"] == [0.5 * 2**k] * 2
        # A coarse pixel's centre is the mean of the centres of those that it averages.
        assert moves.get("translation", [0, 0]) == [0.5 * (2**k - 1) / 2] * 2


def test_layout_pairs_and_provenance_are_inside(archive, acquisition) -> None:
    tiles, pairs = read_table(archive, "tiles"), read_table(archive, "pairs")
    assert tiles["tile"].tolist() == acquisition.names
    assert set(tiles["verdict"].tolist()) == {"measured"}
    assert {"residual", "part", "sigma", "stage_y", "height"} <= set(tiles)
    assert set(pairs["status"].tolist()) == {"accepted"}
    assert len(pairs["fixed"]) == 17
    assert read_facts(archive) == {"version": "1", "options": {"blend": "linear"}}


def test_it_is_opened_again(archive, acquisition) -> None:
    opened = read_archive(archive)
    assert opened.mosaic.axes == "yx"
    assert opened.mosaic.pixel_size == (0.5, 0.5)
    assert opened.layout.counts["measured"] == len(acquisition.names)
    facts = describe(archive)
    assert (facts["OME-Zarr"], facts["chunk (y, x)"]) == (version_of(archive), [64, 64])
    assert facts["shard (y, x)"] == [256, 256]


# --- planning ------------------------------------------------------------------------------------


@given(
    st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    st.integers(1, 300),
    st.integers(1, 8),
)
def test_chunks_shards_and_levels_fit_each_other(plane, chunk, times) -> None:
    plan = Pyramid.plan(
        plane, np.dtype("u1"), "yx", chunk=(chunk, chunk), shard=(chunk * times,) * 2
    )
    assert all(s % c == 0 for s, c in zip(plan.shard, plan.chunk, strict=True))
    assert all(c <= max(chunk, n) for c, n in zip(plan.chunk, plane, strict=True))
    assert all(n <= chunk for n in plan.plane(plan.levels - 1))
    if plan.levels > 1:
        assert any(n > chunk for n in plan.plane(plan.levels - 2))


def test_a_shard_must_be_a_whole_number_of_chunks(tmp_path) -> None:
    with pytest.raises(InputError, match="not a whole number of chunks"):
        write_ome_zarr(image(), tmp_path / "a.ome.zarr", chunk=100, shard=256)
    assert not (tmp_path / "a.ome.zarr").exists()


@given(
    hnp.arrays(
        st.sampled_from(["u1", "u2", "i2", "u4", "i4", "f4"]),
        hnp.array_shapes(min_dims=2, max_dims=2),
    )
)
def test_halving_is_the_rounded_mean(fine) -> None:
    fine = np.nan_to_num(fine, nan=1.0, posinf=2.0, neginf=-2.0)
    if fine.dtype.kind == "f":
        fine = np.clip(fine, -1e6, 1e6)
    padded = np.pad(fine, [(0, n % 2) for n in fine.shape], mode="edge").astype(np.float64)
    height, width = (n // 2 for n in padded.shape)
    mean = padded.reshape(height, 2, width, 2).mean((1, 3))
    if fine.dtype.kind == "f":
        np.testing.assert_allclose(halve(fine), mean, rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(halve(fine), np.floor(mean + 0.5))


def test_a_nan_elsewhere_changes_no_bit_of_a_mean() -> None:
    """Chunks are halved one by one: a mean must not depend on what else is in the image."""
    fine = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    holed = fine.copy()
    holed[40, 50] = np.nan
    differ = halve(fine) != halve(holed)
    assert np.argwhere(differ).tolist() == [[20, 25]]


def test_halving_leaves_nan_out() -> None:
    fine = np.array([[1, np.nan, np.nan, np.nan], [3, np.nan, np.nan, np.nan]], np.float32)
    np.testing.assert_array_equal(halve(fine), np.array([[2, np.nan]], np.float32))


# --- writing -------------------------------------------------------------------------------------


def test_writing_twice_gives_the_same_bytes_whatever_the_blocks(tmp_path) -> None:
    pixels = image()
    paths = []
    for k, (chunks, workers) in enumerate([(128, 1), ((77, 200), 2), (300, 5)]):
        paths.append(tmp_path / f"{k}" / "same.ome.zarr")
        with dask.config.set(scheduler="threads", num_workers=workers):
            write_ome_zarr(pixels.rechunk(chunks), paths[-1], chunk=32, shard=128)
    assert content(paths[0]) == content(paths[1]) == content(paths[2])


def test_worker_processes_write_the_same_bytes(tmp_path) -> None:
    write_ome_zarr(image(), tmp_path / "a" / "x.ome.zarr", chunk=32, shard=128)
    with dask.config.set(scheduler="processes", num_workers=2):
        write_ome_zarr(image(), tmp_path / "b" / "x.ome.zarr", chunk=32, shard=128)
    assert content(tmp_path / "a" / "x.ome.zarr") == content(tmp_path / "b" / "x.ome.zarr")


@pytest.mark.parametrize("shape", [(300, 500), (2, 130, 70)])
def test_version_04_has_a_file_per_chunk(shape, tmp_path) -> None:
    pixels = image(shape)
    path = write_ome_zarr(pixels, tmp_path / "a.ome.zarr", chunk=32, shard=128, ome_version="0.4")
    level = zarr.open_array(str(path / "0"), mode="r")
    assert (level.metadata.zarr_format, level.chunks[-2:]) == (2, (32, 32))
    assert level.attrs["_ARRAY_DIMENSIONS"] == list("cyx"[-len(shape) :])
    np.testing.assert_array_equal(level[:], pixels.compute())
    chunks = [n // 32 + (n % 32 > 0) for n in shape[-2:]]
    found = [p.relative_to(path / "0").as_posix() for p in (path / "0").rglob("[0-9]*")]
    files = {f for f in found if (path / "0" / f).is_file()}
    planes = [(*plane, y, x) for plane in np.ndindex(*shape[:-2]) for y, x in np.ndindex(*chunks)]
    assert files == {"/".join(map(str, at)) for at in planes}
    assert not list(path.rglob("zarr.json"))


def test_an_archive_of_the_other_version_is_turned_into_this_one(tmp_path) -> None:
    """Nothing of the old one stays but the journal's log, so no reader sees two at once."""
    plain: dict[str, set[str]] = {}
    for version in ("0.5", "0.4"):
        path = tmp_path / version
        write_ome_zarr(image(), path, chunk=64, shard=128, ome_version=version)
        plain[version] = set(content(path))
    for version in ("0.4", "0.5"):
        path = tmp_path / ("0.4" if version == "0.5" else "0.5")
        write_ome_zarr(image(), path, chunk=64, shard=128, ome_version=version, overwrite=True)
        assert set(content(path)) == plain[version]
        root = zarr.open_group(str(path), mode="r")
        np.testing.assert_array_equal(root["0"][:], image().compute())


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("dtype", [">u2", ">f4", "<u2", "?"])
def test_pixels_of_any_byte_order_are_read_as_they_are(dtype, version, tmp_path) -> None:
    pixels = image().astype(dtype)
    path = write_ome_zarr(pixels, tmp_path / "a", chunk=64, shard=128, ome_version=version)
    root = zarr.open_group(str(path), mode="r")
    np.testing.assert_array_equal(root["0"][:], pixels.compute())
    np.testing.assert_array_equal(root["1"][:], halve(pixels.compute().astype(dtype[-2:])))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("chunks", [1, 3, 5])
def test_levels_of_any_number_of_chunks_by_any_number_of_threads(chunks, version, tmp_path) -> None:
    """A chunk of an odd shard is made from those of two or four finer shards."""
    cut = {"chunk": 16, "shard": 16 * chunks, "ome_version": version}
    with dask.config.set(scheduler="threads", num_workers=9):
        path = write_ome_zarr(image(), tmp_path / "a", **cut)
    root = zarr.open_group(str(path), mode="r")
    levels = [root[name][:] for name in sorted(root.array_keys(), key=int)]
    assert len(levels) == 6
    for fine, coarse in itertools.pairwise(levels):
        np.testing.assert_array_equal(coarse, halve(fine))


def test_other_versions_are_not_written(tmp_path) -> None:
    with pytest.raises(InputError, match=r"OME-Zarr is written as 0.4 or 0.5, not '0.3'"):
        write_ome_zarr(image(), tmp_path / "a", ome_version="0.3")


def test_half_a_shard_is_never_written(tmp_path) -> None:
    path = write_ome_zarr(image(), tmp_path / "a.ome.zarr", chunk=32, shard=128)
    with pytest.raises(AssertionError, match="not a whole shard"):
        write_shard(path, 0, (0, 0), np.zeros((64, 128), np.uint16))


@pytest.mark.parametrize("empty", [False, True])
def test_chunks_of_nothing_are_left_out(empty, tmp_path) -> None:
    """A shard has the chunks that hold a pixel that is not 0, wherever in the chunk it is."""
    image = np.ones((40, 56), dtype=np.uint16)
    if empty:
        image[:16, 16:32] = 0
        image[16:32, :16] = 0
        image[31, 15] = 7
    path = tmp_path / "a.zarr"
    array = da.from_array(image, chunks=(32, 32))
    write_ome_zarr(array, path, axes="yx", chunk=16, shard=32, pyramid=False)
    there = []
    for shard in np.ndindex(2, 2):
        content = (path / "0" / "c" / str(shard[0]) / str(shard[1])).read_bytes()
        # The index of the shard: offset and length of 2 x 2 chunks, then a checksum.
        index = np.frombuffer(content[-68:-4], dtype="<u8").reshape(2, 2, 2)
        there += [tuple(np.multiply(shard, 2) + at) for at in np.argwhere(index[..., 0] + 1 > 0)]
    inside = {(y, x) for y in range(3) for x in range(4)}
    assert {tuple(map(int, at)) for at in there} == inside - ({(0, 1)} if empty else set())
    np.testing.assert_array_equal(zarr.open_array(path, path="0")[:], image)


@pytest.mark.parametrize("shape", [(2, 90, 70), (2, 3, 90, 70), (2, 2, 2, 40, 70)])
def test_leading_axes(shape, tmp_path) -> None:
    pixels = image(shape, chunk=32)
    path = write_ome_zarr(pixels, tmp_path / "a.ome.zarr", chunk=16, shard=32)
    root = zarr.open_group(str(path), mode="r")
    np.testing.assert_array_equal(root["0"][:], pixels.compute())
    assert root["0"].shards == (*(1,) * (len(shape) - 2), 32, 32)
    assert root["1"].shape == (*shape[:-2], *(-(-n // 2) for n in shape[-2:]))
    plane = (0,) * (len(shape) - 2)
    np.testing.assert_array_equal(root["1"][plane], halve(root["0"][plane]))


def test_channels_are_named_and_have_a_display_range(tmp_path) -> None:
    tiles = [np.stack([np.full((64, 64), v, np.uint16) for v in (10, 20)])]
    mosaic = Mosaic.from_arrays(tiles, [(0, 0)], channels=("DAPI", "GFP"))
    layout = solve_layout(mosaic, register(mosaic))
    path = write_ome_zarr(assemble(mosaic, layout), tmp_path / "a.ome.zarr", mosaic=mosaic)
    channels = zarr.open_group(str(path), mode="r").attrs["ome"]["omero"]["channels"]
    assert [c["label"] for c in channels] == ["DAPI", "GFP"]
    assert [c["window"]["start"] for c in channels] == [10, 20]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_pixel_types_survive(dtype, tmp_path) -> None:
    pixels = image(dtype=dtype)
    path = write_ome_zarr(pixels, tmp_path / "a.ome.zarr", chunk=64, shard=128)
    found = zarr.open_array(str(path / "0"), mode="r")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[:], pixels.compute())


def test_an_archive_is_replaced_only_when_told_to(tmp_path) -> None:
    path = tmp_path / "a.ome.zarr"
    write_ome_zarr(image(), path, pyramid=True)
    before = content(path)
    with pytest.raises(InputError, match="exists; choose another name"):
        write_ome_zarr(image() + 1, path)
    assert content(path) == before
    write_ome_zarr(image() + 1, path, pyramid=False, overwrite=True)
    root = zarr.open_group(str(path), mode="r")
    assert sorted(root.array_keys()) == ["0"]
    np.testing.assert_array_equal(root["0"][:], image() + 1)


def test_what_is_not_an_archive_is_never_deleted(tmp_path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("years of work")
    with pytest.raises(InputError, match="not a zarr archive; it will not be overwritten"):
        write_ome_zarr(image(), folder, overwrite=True)
    with pytest.raises(InputError, match="not a zarr archive"):
        write_ome_zarr(image(), folder / "chapter.txt", overwrite=True)
    assert (folder / "chapter.txt").read_text() == "years of work"


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_consolidated_metadata_of_what_was_here_is_forgotten(tmp_path, version) -> None:
    path = tmp_path / "a.ome.zarr"
    for side in (100, 60):
        ones = da.ones((side, side), chunks=50, dtype=np.uint8)
        write_ome_zarr(ones, path, chunk=16, shard=32, ome_version=version, overwrite=True,
                       provenance={"side": side})  # fmt: skip
        omezarr.write_table(path, "tiles", {"number": np.full(3, side)})
        root = zarr.open_group(str(path), mode="r")
        assert root["0"].shape == (side, side)
        assert read_facts(path)["side"] == side
        assert read_table(path, "tiles")["number"].tolist() == [side] * 3
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # version 3 has no such metadata yet
            zarr.consolidate_metadata(str(path))


@pytest.mark.parametrize("version", ["0.5", "0.4"])
@pytest.mark.parametrize("lost", ["", "0", "1", "mosaicreg"])
def test_metadata_that_are_lost_or_damaged_are_mended(tmp_path, version, lost) -> None:
    path = tmp_path / "a.ome.zarr"
    some = image((100, 90), "uint8", 50)
    options = {"chunk": 16, "shard": 32, "ome_version": version, "provenance": {"side": 100}}
    write_ome_zarr(some, path, **options)
    whole = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    for name in ("zarr.json", ".zgroup", ".zarray", ".zattrs"):
        for damage in (Path.unlink, lambda p: p.write_bytes(b"{")):
            file = path / lost / name
            if file.exists():
                damage(file)
                write_ome_zarr(some, path, repair=True, **options)
                pixels = zarr.open_array(str(path / "0"), mode="r")[:]
                np.testing.assert_array_equal(pixels, some.compute())
                assert verify(path, some).passed
    kept = {p: c for p, c in whole.items() if "journal" not in p.parts}
    assert {p: p.read_bytes() for p in kept} == kept
