"""Object stores: what is in a bucket reads like what is on a disk, and the whole job runs there."""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import obstore
import pytest
import tifffile
import zarr
from click.testing import CliRunner, Result

from mosaicreg import InputError, objects, open_mosaic
from mosaicreg.cli import main
from mosaicreg.errors import ImageError, MissingExtraError, StorageError
from mosaicreg.geometry import Box
from mosaicreg.imagefile import read_header, read_image, write_png
from mosaicreg.mosaic import as_names
from mosaicreg.objects import ObjectPath, as_path
from mosaicreg.source import FileSource
from mosaicreg.store import open_store

SECRET = "a-secret-of-nobody"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The endpoint of an S3 server in this process."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


@pytest.fixture
def bucket(server: str, monkeypatch, request) -> Iterator[ObjectPath]:
    """An empty bucket, and credentials for it in the environment."""
    import boto3

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    objects._store.cache_clear()
    client = boto3.client("s3", endpoint_url=server, region_name="us-east-1")
    name = f"b{abs(hash(request.node.nodeid))}"
    client.create_bucket(Bucket=name)
    client.close()
    yield ObjectPath(f"s3://{name}")
    objects._store.cache_clear()


def upload(folder: Path, target: ObjectPath) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            (target / path.relative_to(folder).as_posix()).write_bytes(path.read_bytes())


def content(path: ObjectPath) -> dict[str, bytes]:
    return {key: (path / key).read_bytes() for key in path.walk_keys()}


# --- addresses -----------------------------------------------------------------------------------


def test_an_address_has_the_parts_of_a_path() -> None:
    path = as_path("s3://bucket/käse//tiles/a.ome.tif")
    assert isinstance(path, ObjectPath)
    assert str(path) == "s3://bucket/käse/tiles/a.ome.tif"
    assert (path.name, path.suffix) == ("a.ome.tif", ".tif")
    assert [str(p) for p in path.parents] == [
        "s3://bucket/käse/tiles",
        "s3://bucket/käse",
        "s3://bucket",
    ]
    assert path.parent / "../b.tif" == as_path("s3://bucket/käse/b.tif")
    assert path.relative_to(path.parents[1]) == Path("tiles/a.ome.tif")
    assert as_path("tiles") == Path("tiles")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("s3://key:secret@bucket/tiles", "an address holds no credentials"),
        ("gs://bucket/tiles", "object stores are s3://"),
        ("s3:///tiles", "object stores are s3://"),
        ("s3://bucket/tiles?X-Amz-Signature=secret", "object stores are s3://"),
    ],
)
def test_other_addresses_are_refused_and_not_repeated(address: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        as_path(address)
    assert "secret" not in str(error.value)


def test_nothing_outside_of_the_bucket_is_named() -> None:
    with pytest.raises(InputError, match="leads out of s3://bucket"):
        ObjectPath("s3://bucket", "tiles") / "../../other"


def test_a_missing_package_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    result = CliRunner().invoke(main, ["info", "s3://bucket/tiles"])
    assert result.exit_code == 2
    assert "mosaicreg[s3]" in result.output
    with pytest.raises(MissingExtraError, match="s3"):
        ObjectPath("s3://bucket").exists()


# --- reading -------------------------------------------------------------------------------------


def write_all_kinds(folder: Path) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 60000, (300, 420)).astype(np.uint16)
    colour = rng.integers(0, 255, (300, 420, 3)).astype(np.uint8)
    stack = rng.integers(0, 255, (2, 3, 300, 420)).astype(np.uint8)
    tifffile.imwrite(folder / "plain.tif", grey)
    tifffile.imwrite(folder / "big_endian.tif", grey, byteorder=">")
    tifffile.imwrite(folder / "rgb.tif", colour)
    tifffile.imwrite(folder / "tiled.tif", grey, tile=(128, 128), compression="zlib")
    tifffile.imwrite(folder / "stack.ome.tif", stack, metadata={"axes": "CZYX"})
    write_png(folder / "grey.png", grey)
    write_png(folder / "colour.png", colour)
    from PIL import Image

    Image.fromarray(colour).save(folder / "colour.jpg")
    np.save(folder / "grey.npy", grey)
    np.save(folder / "colour.npy", colour)
    array = zarr.create_array(
        str(folder / "plane.zarr"), shape=grey.shape, chunks=(64, 64), shards=(128, 128), dtype="u2"
    )
    array[:] = grey


def test_every_kind_of_image_reads_as_from_a_disk(bucket: ObjectPath, tmp_path: Path) -> None:
    write_all_kinds(tmp_path)
    upload(tmp_path, bucket / "tiles")
    box = Box(100, 30, 217, 400)
    kinds = sorted(p.name for p in tmp_path.iterdir())
    assert sorted(p.name for p in (bucket / "tiles").iterdir()) == kinds
    for name in kinds:
        there = bucket / "tiles" / name
        header = read_header(tmp_path / name)
        assert read_header(there) == header
        lead = tuple(slice(0, 1) for _ in header.shape[:-2])
        for part in (None, box):
            np.testing.assert_array_equal(
                read_image(there, part, lead), read_image(tmp_path / name, part, lead)
            )


def test_opening_reads_headers_not_pixels(bucket: ObjectPath, tmp_path: Path, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 60000, (2048, 2048)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "r0_c0.tif", pixels)
    tifffile.imwrite(tmp_path / "r0_c1.tif", pixels, tile=(256, 256), compression="zlib")
    np.save(tmp_path / "r1_c0.npy", pixels)
    write_png(tmp_path / "r1_c1.png", pixels)
    upload(tmp_path, bucket / "tiles")
    fetched = []
    plain = ObjectPath.read_range

    def counted(path: ObjectPath, start: int, end: int) -> bytes:
        fetched.append(end - start)
        return plain(path, start, end)

    monkeypatch.setattr(ObjectPath, "read_range", counted)
    monkeypatch.setattr(ObjectPath, "read_bytes", None)
    mosaic = open_mosaic(str(bucket / "tiles"), overlap=0.1)
    assert len(mosaic) == 4
    assert sum(fetched) < 4 * 4 * objects.BUFFER < pixels.nbytes / 4
    fetched.clear()
    mosaic.source.read(0, Box(500, 0, 510, 100), ())
    assert sum(fetched) < 4 * objects.BUFFER


def test_files_cut_short_or_missing_are_named(bucket: ObjectPath) -> None:
    whole = io.BytesIO()
    tifffile.imwrite(whole, np.ones((300, 300), np.uint16))
    (bucket / "short.tif").write_bytes(whole.getvalue()[:-1000])
    array = io.BytesIO()
    np.save(array, np.ones((300, 300), np.uint16))
    (bucket / "short.npy").write_bytes(array.getvalue()[:-1000])
    for name, words in (
        ("short.tif", "cut short"),
        ("short.npy", "cut short"),
        ("none.tif", "no such file"),
    ):
        with pytest.raises(ImageError, match=f"{bucket}/{name}: .*{words}"):
            read_header(bucket / name)
    with pytest.raises(InputError, match="there is no such file or folder"):
        open_mosaic(str(bucket / "none"))


def test_what_the_store_refuses_is_said_for_people(bucket: ObjectPath, monkeypatch) -> None:
    class Refusal(obstore.exceptions.BaseError):
        pass

    def refuse(*_: object, **__: object) -> None:
        raise Refusal("Access denied\n\nDebug source: headers")

    monkeypatch.setattr(obstore, "list", refuse)
    monkeypatch.setattr(obstore, "head", refuse)
    result = CliRunner().invoke(main, ["info", str(bucket / "tiles")])
    assert result.exit_code == 4
    said = rf"{re.escape(str(bucket))}/tiles/\S+: the object store says: Access denied\n"
    assert re.search(said, result.output)
    assert "Debug" not in result.output


def test_stamps_change_with_the_content(bucket: ObjectPath, tmp_path: Path) -> None:
    write_all_kinds(tmp_path)
    folder = tmp_path / "grey"
    folder.mkdir()
    for name in ("plain.tif", "grey.png", "plane.zarr"):
        (tmp_path / name).rename(folder / name)
    upload(folder, bucket / "tiles")
    names = as_names(sorted(p.name for p in folder.iterdir()))
    source = FileSource(bucket / "tiles", names, np.dtype("u2"), ())
    before = source.stamps()
    np.testing.assert_array_equal(before, source.stamps())
    key = "plane.zarr/c/0/0"
    (bucket / "tiles" / key).write_bytes((folder / key).read_bytes()[:-1] + b"x")
    changed = source.stamps() != before
    assert names[changed].tolist() == ["plane.zarr"]
    (bucket / "tiles" / "grey.png").unlink()
    with pytest.raises(ImageError, match=r"grey\.png: there is no such file"):
        source.stamps()


def test_globs_stay_within_a_folder(bucket: ObjectPath) -> None:
    for key in (
        "a/r0_c0.tif",
        "a/r0_c1.tif",
        "a/deep/r0_c2.tif",
        "b/r0_c3.tif",
        "a/x.zarr/zarr.json",
    ):
        (bucket / key).write_bytes(b"")
    assert {str(p)[len(str(bucket)) :] for p in bucket.glob("a/*.tif")} == {
        "/a/r0_c0.tif",
        "/a/r0_c1.tif",
    }
    assert len(list(bucket.glob("**/r0*.tif"))) == 4
    assert [p.kind for p in bucket.glob("a/*.zarr")] == ["folder"]


def test_keys_come_from_a_profile_where_the_environment_has_none(
    bucket: ObjectPath, tmp_path: Path, monkeypatch, server: str
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    keys = f"[work]\naws_access_key_id = test-key\naws_secret_access_key = {SECRET}\n"
    (tmp_path / "keys").write_text(keys)
    (tmp_path / "config").write_text(f"[profile work]\nendpoint_url = {server}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "work")
    (bucket / "a").write_bytes(b"1")
    assert (bucket / "a").read_bytes() == b"1"
    assert SECRET not in repr(bucket)

    objects._store.cache_clear()
    monkeypatch.setenv("AWS_PROFILE", "other")
    with pytest.raises(InputError, match="profile other holds no keys"):
        (bucket / "a").read_bytes()


# --- the store of an archive ---------------------------------------------------------------------


def test_a_store_in_a_bucket_keeps_the_promises_of_a_store(bucket: ObjectPath) -> None:
    store = open_store(bucket / "x.ome.zarr")
    assert store.name == "x.ome.zarr"
    assert not store.exists()
    assert store.read("0/c/0/0") is None
    store.write("0/c/0/0", b"old")
    store.write("0/c/0/0", memoryview(b"new"))
    store.write("0/c/0/1", b"other")
    store.write("zarr.json", b"{}")
    assert store.exists()
    assert store.read("0/c/0/0") == b"new"
    assert sorted(store.keys("0")) == ["0/c/0/0", "0/c/0/1"]
    store.remove("0/c/0/1")
    store.remove("0/c/0/1")
    assert sorted(store.keys("0")) == ["0/c/0/0"]
    store.clear("0")
    assert store.read("0/c/0/0") is None
    assert store.read("zarr.json") == b"{}"
    store.clear()
    assert not store.exists()


def test_what_cannot_be_written_is_said_without_secrets(bucket: ObjectPath) -> None:
    store = open_store(f"{bucket}-that-is-not-there/x.ome.zarr")
    with pytest.raises(StorageError, match=r"x\.ome\.zarr/a cannot be written") as error:
        store.write("a", b"1")
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_a_failure_while_content_is_made_is_no_failure_of_the_store(place, request) -> None:
    """A tile that a microscope no longer answers for is not told as a full disk."""
    found = "tmp_path" if place == "folder" else "bucket"
    store = open_store(request.getfixturevalue(found) / "x.ome.zarr")

    def pieces() -> Iterator[bytes]:
        yield b"first"
        raise TimeoutError(110, "camera does not answer for tile 7")

    with pytest.raises(TimeoutError, match="tile 7"):
        store.write("0/c/0/0", pieces())
    assert list(store.keys("0")) == []
    if place == "folder":
        assert not [path for path in store.path.rglob("*") if path.is_file()]


# --- the whole job -------------------------------------------------------------------------------

SMALL = ("--chunk", "64", "--shard", "128", "--workers", "2")


def run(*words: object) -> Result:
    result = CliRunner().invoke(main, [str(w) for w in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_the_whole_job_from_bucket_to_bucket(
    bucket: ObjectPath, tiles: Path, tmp_path: Path
) -> None:
    upload(tiles, bucket / "tiles")
    local, there = tmp_path / "out.ome.zarr", bucket / "out.ome.zarr"
    run("stitch", tiles, "-o", local, *SMALL)
    layout = bucket / "layout.json"
    said = run("stitch", bucket / "tiles", "-o", there, "--layout-out", layout, *SMALL).output
    made = content(there)
    levels = {key: value for key, value in made.items() if key[0].isdigit()}
    assert len(levels) > 30
    for key, value in levels.items():
        assert value == (local / key).read_bytes(), key

    again = run("stitch", bucket / "tiles", "-o", there, "--layout-out", layout, *SMALL).output
    assert "Nothing to do" in again
    assert "OME-Zarr archive of mosaicreg" in run("info", there).output
    run("verify", there)
    run("report", there, "-o", tmp_path / "report.html")
    assert SECRET not in (tmp_path / "report.html").read_text(encoding="utf-8")

    run("assemble", layout, "-o", tmp_path / "again.ome.zarr", *SMALL)
    for key, value in levels.items():
        assert (tmp_path / "again.ome.zarr" / key).read_bytes() == value

    # Tiles in the bucket, layout on a disk: it holds whole addresses.
    run("solve", layout, "-o", tmp_path / "layout.csv")
    assert f"{bucket}/tiles/" in (tmp_path / "layout.csv").read_text()
    assert len(open_mosaic(tmp_path / "layout.csv")) == 12

    for key, value in content(bucket).items():
        assert SECRET.encode() not in value, key
        assert b"test-key" not in value, key
    assert SECRET not in said + again


def test_a_changed_tile_is_noticed(bucket: ObjectPath, tiles: Path) -> None:
    upload(tiles, bucket / "tiles")
    out = bucket / "out.ome.zarr"
    run("stitch", bucket / "tiles", "-o", out, "--no-register", *SMALL)
    before = content(out)
    mosaic = open_mosaic(str(bucket / "tiles"))
    first = bucket / "tiles" / str(mosaic.source.paths[0])
    image = tifffile.imread(io.BytesIO(first.read_bytes()))
    changed = io.BytesIO()
    tifffile.imwrite(changed, image // 2)
    first.write_bytes(changed.getvalue())
    said = run("stitch", bucket / "tiles", "-o", out, "--no-register", "--overwrite", *SMALL).output
    assert "Nothing to do" not in said
    after = content(out)
    differ = {k for k in before if k.startswith("0/c/") and before[k] != after.get(k)}
    assert "0/c/0/0" in differ
    assert len(differ) < len([k for k in before if k.startswith("0/c/")]) / 2


def test_what_must_be_on_a_disk_says_so(bucket: ObjectPath) -> None:
    result = CliRunner().invoke(main, ["view", str(bucket / "out.ome.zarr")])
    assert result.exit_code == 2
    assert "this must be on a disk" in result.output
