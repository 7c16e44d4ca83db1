"""The viewer's server: the archive and nothing else, to this machine and nobody else."""

from __future__ import annotations

import hashlib
import http.client
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import zarr

from mosaicreg import InputError, Mosaic, assemble, register, solve_layout, write_ome_zarr
from mosaicreg.layout import stage_layout
from mosaicreg.layoutfile import save_layout
from mosaicreg.objects import as_path
from mosaicreg.shards import halve
from mosaicreg.viewer import ondemand
from mosaicreg.viewer.ondemand import OnDemand
from mosaicreg.viewer.serving import PAGE, serving

SOURCE = Path(__file__).parents[1] / "viewer"


@pytest.fixture(scope="module")
def archive(tmp_path_factory, acquisition) -> Path:
    folder = tmp_path_factory.mktemp("viewer")
    (folder / "secret.txt").write_text("secret")
    layout = solve_layout(acquisition.mosaic, register(acquisition.mosaic))
    image = assemble(acquisition.mosaic, layout)
    path = folder / "käse.ome.zarr"
    write_ome_zarr(image, path, mosaic=acquisition.mosaic, layout=layout, chunk=128, shard=256)
    (path / "way-out").symlink_to(folder / "secret.txt")
    (path / "folder-out").symlink_to(folder)
    return path


@pytest.fixture(scope="module")
def address(archive):
    with serving(archive) as url:
        yield url


def ask(address: str, path: str = "", method: str = "GET", **headers: str):
    """Status, headers and body of a request whose path is sent exactly as it is."""
    url = urlsplit(address)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=20)
    connection.request(method, path if path.startswith("/") else url.path + path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


def test_the_page_and_the_archive_are_served(address, archive) -> None:
    for name in ("", "index.html", "viewer.js", "viewer.css", "LICENSES.txt"):
        status, _, body = ask(address, name)
        assert (status, body) == (200, (PAGE / (name or "index.html")).read_bytes())
    status, headers, body = ask(address, "archive/zarr.json")
    assert (status, body) == (200, (archive / "zarr.json").read_bytes())
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in headers
    assert ask(address, "archive/zarr.json", "GET", **{"If-None-Match": headers["Etag"]})[0] == 304


def test_ranges_as_readers_of_shards_ask_for_them(address, archive) -> None:
    whole = (archive / "0" / "c" / "0" / "0").read_bytes()
    for wanted, expected in [
        ("bytes=0-3", whole[:4]),
        ("bytes=100-199", whole[100:200]),
        ("bytes=-68", whole[-68:]),
    ]:
        status, headers, body = ask(address, "archive/0/c/0/0", Range=wanted)
        assert (status, body) == (206, expected)
        assert headers["Content-Range"].endswith(f"/{len(whole)}")
    status, headers, body = ask(address, "archive/0/c/0/0", "HEAD")
    assert (status, headers["Content-Length"], body) == (200, str(len(whole)), b"")


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt",
        "%2e%2e/secret.txt",
        "..%2fsecret.txt",
        "%2e%2e%2fsecret.txt",
        "..%5csecret.txt",
        "0/../../secret.txt",
        "0/%2e%2e/%2e%2e/secret.txt",
        "{folder}/secret.txt",
        "/{folder}/secret.txt",
        "%2f{folder}/secret.txt",
        "file://{folder}/secret.txt",
        "way-out",
        "folder-out/secret.txt",
        "secret.txt%00",
        "way-out%00zarr.json",
        "%252e%252e/secret.txt",
        "",
        "0",
        "..",
        ".",
    ],
)
def test_nothing_but_files_of_the_archive_leaves(path, address, archive) -> None:
    status, _, body = ask(address, "archive/" + path.format(folder=archive.parent))
    assert status in (400, 403, 404)
    assert b"secret" not in body.replace(b"secrets", b"")


def test_nothing_without_the_token(address) -> None:
    for path in ("/", "/archive/zarr.json", "/wrong/", "/wrong/archive/zarr.json"):
        assert ask(address, path)[0] == 404
    assert len(urlsplit(address).path) >= 20


def test_each_viewer_has_a_token_of_its_own(archive, address) -> None:
    with serving(archive) as other:
        assert urlsplit(other).path != urlsplit(address).path


def test_other_names_for_this_machine_are_refused(address) -> None:
    # A web page whose name was made to mean 127.0.0.1 (DNS rebinding) still sends its own name.
    port = urlsplit(address).port
    assert ask(address, "archive/zarr.json", Host=f"evil.example:{port}")[0] == 403
    assert ask(address, "archive/zarr.json", Host=f"localhost:{port}")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_changed(method, address) -> None:
    assert ask(address, "archive/zarr.json", method)[0] == 405


def test_it_listens_on_this_machine_only(address) -> None:
    url = urlsplit(address)
    assert url.hostname == "127.0.0.1"
    with pytest.raises(ConnectionRefusedError):
        # Linux answers to all of 127.0.0.0/8 where a server listens on all addresses.
        socket.create_connection(("127.0.0.2", url.port), timeout=5)


def test_a_port_in_use_is_said(archive, address) -> None:
    port = urlsplit(address).port
    with pytest.raises(InputError, match=f"port {port} cannot be used"), serving(archive, port):
        pass


@pytest.mark.parametrize("name", ["nothing", "folder", "picture.png"])
def test_what_cannot_be_shown_is_said(name, tmp_path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "picture.png").write_bytes(b"")
    with (
        pytest.raises(InputError, match="neither an OME-Zarr archive nor a layout"),
        serving(tmp_path / name),
    ):
        pass


def test_an_archive_in_an_object_store_is_not_shown() -> None:
    with (
        pytest.raises(InputError, match="from a disk of this machine; copy the folder here first"),
        serving(as_path("s3://bucket/a.ome.zarr")),
    ):
        pass


def test_the_command_prints_the_address_and_stops_at_once(archive) -> None:
    command = [sys.executable, "-m", "mosaicreg", "view", str(archive), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+/\S+/", line)
        assert url, line
        assert ask(url[0])[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


# --- a layout, computed as it is looked at -------------------------------------------------------


def pyramid(image: np.ndarray, levels: int) -> list[np.ndarray]:
    result = [image]
    for _ in range(levels - 1):
        planes = result[-1].reshape(-1, *result[-1].shape[-2:])
        small = np.stack([halve(p) for p in planes])
        result.append(small.reshape(*result[-1].shape[:-2], *small.shape[-2:]))
    return result


@pytest.fixture
def small_chunks(monkeypatch) -> None:
    monkeypatch.setattr(ondemand, "CHUNK", 16)
    monkeypatch.setattr(ondemand, "BLOCK", 64)


@pytest.mark.parametrize(
    ("lead", "coarse_first"), [((), True), ((), False), ((2,), False), ((2, 2), True)]
)
def test_every_chunk_is_that_of_the_assembled_mosaic(
    lead, coarse_first, small_chunks, tmp_path
) -> None:
    rng = np.random.default_rng(1)
    tiles = [rng.integers(0, 4000, (*lead, 60, 70)).astype(np.uint16) for _ in range(6)]
    positions = [(k // 3 * 50.3, k % 3 * 61.7 + 5.5) for k in range(6)]
    mosaic = Mosaic.from_arrays(tiles, positions)
    layout = stage_layout(mosaic)
    view = OnDemand(mosaic, layout, tmp_path / "a.ome.zarr")
    root = zarr.open_group(str(tmp_path / "a.ome.zarr"), mode="r")
    levels = pyramid(assemble(mosaic, layout).compute(), view.plan.levels)
    assert view.plan.levels == 5
    order = sorted(range(view.plan.levels), reverse=coarse_first)
    for level in order:
        for plane in np.ndindex(*lead):
            for row, col, _ in view.plan.grid(level).boxes():
                view.ensure(f"{level}/c/{'/'.join(map(str, (*plane, row, col)))}")
        np.testing.assert_array_equal(root[str(level)][:], levels[level])


def test_colour_tiles_are_decoded_once_for_all_their_planes(small_chunks, tmp_path) -> None:
    from PIL import Image

    rng = np.random.default_rng(2)
    names = []
    for k in range(2):
        names.append(f"r0_c{k}.png")
        Image.fromarray(rng.integers(0, 255, (90, 90, 3), np.uint8)).save(tmp_path / names[-1])
    (tmp_path / "p.csv").write_text(f"tile,y,x\n{names[0]},0,0\n{names[1]},0,80\n")
    from mosaicreg.layoutfile import load_layout

    mosaic, layout = load_layout(tmp_path / "p.csv")
    view = OnDemand(mosaic, layout, tmp_path / "a.ome.zarr")
    view.ensure("0/c/1/0/0")
    for plane in range(3):
        assert (tmp_path / "a.ome.zarr" / "0" / "c" / str(plane) / "0" / "0").is_file()
    expected = assemble(mosaic, layout).compute()
    root = zarr.open_group(str(tmp_path / "a.ome.zarr"), mode="r")
    np.testing.assert_array_equal(root["0"][:, :64, :64], expected[:, :64, :64])
    omero = root.attrs["ome"]["omero"]["channels"]
    assert [c["window"]["end"] for c in omero] == [255, 255, 255]


def test_only_what_is_looked_at_is_computed(acquisition, small_chunks, tmp_path) -> None:
    view = OnDemand(acquisition.mosaic, stage_layout(acquisition.mosaic), tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr" / "0" / "c").exists()
    view.ensure("0/c/1/1")
    # One block of level 0: 4 x 4 chunks of 16 px, and the coarser ones that it makes.
    assert len(list((tmp_path / "a.zarr" / "0" / "c").rglob("*/*"))) == 16
    assert len(list((tmp_path / "a.zarr" / "2" / "c").rglob("*/*"))) == 1


@pytest.mark.parametrize(
    "name",
    ["", "zarr.json", "0", "0/c/0", "0/c/0/0/0", "9/c/0/0", "0/c/999/0", "0/c/-1/0", "0/c/a/b",
     "../0/c/0/0", "0/c/0/0/../../.."],
)  # fmt: skip
def test_names_that_are_no_chunks_compute_nothing(name, acquisition, tmp_path) -> None:
    view = OnDemand(acquisition.mosaic, stage_layout(acquisition.mosaic), tmp_path / "a.zarr")
    before = sorted(tmp_path.rglob("*"))
    view.ensure(name)
    assert sorted(tmp_path.rglob("*")) == before


def test_many_readers_at_once(small_chunks, tmp_path) -> None:
    rng = np.random.default_rng(1)
    tiles = [rng.integers(0, 200, (100, 100)).astype(np.uint8) for _ in range(4)]
    mosaic = Mosaic.from_arrays(tiles, [(0, 0), (0, 90), (90, 0), (90, 90)])
    layout = stage_layout(mosaic)
    view = OnDemand(mosaic, layout, tmp_path / "a.zarr")
    assert view.plan.levels == 5
    order = (4, 0, 2, 3, 1)
    wanted = [f"{k}/c/{r}/{c}" for k in order for r, c, _ in view.plan.grid(k).boxes()]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(view.ensure, wanted))
    root = zarr.open_group(str(tmp_path / "a.zarr"), mode="r")
    expected = pyramid(assemble(mosaic, layout).compute(), view.plan.levels)
    for level, pixels in enumerate(expected):
        np.testing.assert_array_equal(root[str(level)][:], pixels)


def test_no_chunk_needs_more_tiles_than_can_be_waited_for(tmp_path) -> None:
    # 40,000 tiles of 64 x 64 px: a chunk of level k covers (512 * 2^k / 64)^2 of them.
    names = [str(k) for k in range(40_000)]
    tile = np.ones((64, 64), np.uint8)
    positions = [(k // 200 * 60.0, k % 200 * 60.0) for k in range(len(names))]
    mosaic = Mosaic.from_arrays([tile] * len(names), positions, names)
    view = OnDemand(mosaic, stage_layout(mosaic), tmp_path / "a.zarr")
    assert view.plan.levels == ondemand.BLOCK_LEVEL + 1


def test_the_server_computes_what_is_asked_for(tiles, acquisition, tmp_path) -> None:
    mosaic = acquisition.mosaic
    from mosaicreg import open_mosaic

    opened = open_mosaic(tiles, pixel_size=0.25)
    save_layout(tmp_path / "l.json", opened, stage_layout(opened))
    with serving(tmp_path / "l.json") as address:
        status, _, chunk = ask(address, "archive/1/c/0/0")
        assert (status, len(chunk) > 1000) == (200, True)
        status, _, body = ask(address, "archive/zarr.json")
        assert status == 200
        assert b'"scale": [\n' in body
        assert b"0.25" in body, "a layout keeps the pixel size"
        assert ask(address, "archive/../l.json")[0] in (403, 404)
    assert len(mosaic) == len(opened)


# --- the bundle ----------------------------------------------------------------------------------


def test_the_bundle_was_built_from_these_sources() -> None:
    digest = hashlib.sha256()
    names = ["package.json", *(f"src/{p.name}" for p in sorted((SOURCE / "src").iterdir()))]
    for name in names:
        digest.update(name.encode() + b"\0" + (SOURCE / name).read_bytes())
    with (PAGE / "viewer.js").open() as file:
        assert digest.hexdigest() in file.readline(), "run `npm run build` in viewer/"


def test_the_bundle_is_of_the_size_that_is_told_and_loads_nothing_from_elsewhere() -> None:
    assert (PAGE / "viewer.js").stat().st_size < 2_000_000
    for name in ("index.html", "viewer.css"):
        assert "//" not in (PAGE / name).read_text().replace("<!doctype", "")


def test_the_licences_of_what_is_in_the_bundle_are_with_it() -> None:
    text = (PAGE / "LICENSES.txt").read_text()
    for package in ("openseadragon", "zarrita", "@zarrita/storage", "numcodecs"):
        assert re.search(rf"^{package} \d", text, re.MULTILINE), package
    for library in ("blosc", "lz4", "zstd"):
        assert f"{library}, inside numcodecs" in text
    assert text.count("Permission is hereby granted") + text.count("Redistribution and use") >= 8
