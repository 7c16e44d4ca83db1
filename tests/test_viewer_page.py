"""The viewer's page in a real browser: it shows the pixels of the archive, where they are."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from browser import chromium

from mosaicreg import Mosaic, assemble, register, solve_layout, write_ome_zarr
from mosaicreg.layout import stage_layout
from mosaicreg.layoutfile import save_layout
from mosaicreg.viewer.serving import serving

WIDTH, HEIGHT = 900, 700
HOSTILE = "<img src=x onerror=document.title='broken'>"


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser):
    """An empty page; what goes wrong in it fails the test."""
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda r: re.match(r"(http://127\.0\.0\.1:|data:|blob:)", r.url)
            or problems.append(f"asked {r.url}"))  # fmt: skip
    yield page
    page.close()
    assert problems == []


@pytest.fixture(scope="module")
def archive(tmp_path_factory, acquisition) -> Path:
    mosaic = acquisition.mosaic
    layout = solve_layout(mosaic, register(mosaic))
    path = tmp_path_factory.mktemp("page") / "slide.ome.zarr"
    image = assemble(mosaic, layout)
    write_ome_zarr(image, path, mosaic=mosaic, layout=layout, chunk=128, shard=256)
    return path


@pytest.fixture(scope="module")
def address(archive):
    with serving(archive) as url:
        yield url


def show(page, url: str, place: str = "") -> None:
    page.goto("about:blank")
    page.goto(url + place)
    page.wait_for_selector("body[data-ready=true]", timeout=60_000)
    page.wait_for_timeout(300)  # the last animation frame


def at(page, y: int, x: int, centre: tuple[float, float], zoom: float) -> tuple[int, int]:
    """Row and column on the screen of the middle of a pixel of the image."""
    return (
        int(HEIGHT / 2 + (y + 0.5 - centre[0]) * zoom),
        int(WIDTH / 2 + (x + 0.5 - centre[1]) * zoom),
    )


def screen(page) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)


def shown(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Grey values as the page shows them."""
    return np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255


def window_at(pixels: np.ndarray, y: int, x: int) -> tuple[float, float]:
    """Black and white that make the most of the pixels around a place."""
    low, high = np.percentile(pixels[y - 8 : y + 8, x - 8 : x + 8], (5, 95)).round()
    return float(low), float(high)


def assert_shows(page, pixels: np.ndarray, centre: tuple[int, int], zoom: int, window) -> None:
    """Every pixel of the image in the middle of the screen, beside the panels, has its value."""
    picture = screen(page)
    ys = range(centre[0] - 8, centre[0] + 8)
    xs = range(centre[1] - 3, centre[1] + 8)
    found = np.array([[picture[at(page, y, x, centre, zoom)] for x in xs] for y in ys])
    expected = shown(pixels[ys.start : ys.stop, xs.start : xs.stop], *window)
    assert expected.std() > 20, "this place says nothing"
    np.testing.assert_allclose(found, np.repeat(expected[..., None], 3, axis=2), atol=1.01)


def test_it_opens_and_says_what_it_shows(page, address, archive) -> None:
    show(page, address)
    level = zarr.open_array(str(archive / "0"), mode="r")
    assert page.inner_text("#title") == "slide"
    facts = page.inner_text("#facts")
    assert f"{level.shape[0]} \u00d7 {level.shape[1]} px, uint16" in facts
    assert "12 tiles" in facts
    assert page.is_hidden("#message")
    assert screen(page).std() > 10


def test_its_pixels_are_those_of_the_archive(page, address, archive) -> None:
    pixels = zarr.open_array(str(archive / "0"), mode="r")[:]
    low, high = window_at(pixels, 256, 384)
    # Across the corner of four chunks of 128 px.
    show(page, address, f"#y=256&x=384&zoom=16&channels=0:{low}:{high}")
    assert_shows(page, pixels, (256, 384), 16, (low, high))


def test_a_coarse_level_is_where_the_fine_one_is(page, address, archive) -> None:
    pixels = zarr.open_array(str(archive / "0"), mode="r")[:]
    low, high = 0, float(pixels.max())
    show(page, address, f"#y=330&x=420&zoom=0.5&channels=0:{low}:{high}")
    picture = screen(page)[200:500, 350:600, 0]
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    half = pixels[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean((1, 3))
    top, left = 330 // 2 - HEIGHT // 2 + 200, 420 // 2 - WIDTH // 2 + 350
    match = {
        (dy, dx): np.corrcoef(
            picture[:200, :200].ravel(),
            half[top + dy : top + dy + 200, left + dx : left + dx + 200].ravel(),
        )[0, 1]
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    }
    assert max(match, key=match.__getitem__) == (0, 0)
    assert match[0, 0] > 0.99


def test_the_wheel_zooms_and_the_scale_bar_follows(page, address) -> None:
    show(page, address, "#y=300&x=400&zoom=1")
    before = page.inner_text("#length")
    page.mouse.move(WIDTH / 2, HEIGHT / 2)
    for _ in range(3):
        page.mouse.wheel(0, -240)
        page.wait_for_timeout(200)
    page.wait_for_function("Number(/zoom=([\\d.]+)/.exec(location.hash)[1]) > 1.5")
    page.wait_for_timeout(800)
    zoom = float(re.search(r"zoom=([\d.]+)", page.url)[1])
    value, unit = page.inner_text("#length").split()
    assert page.inner_text("#length") != before
    assert unit == "µm"
    width = page.locator("#bar").bounding_box()["width"]
    assert width == pytest.approx(float(value) / 0.5 * zoom, rel=0.01)  # 0.5 micrometre per px


def test_a_click_shows_the_tile(page, address, acquisition) -> None:
    middle = acquisition.truth[5] - acquisition.truth.min(axis=0) + 128
    show(page, address, f"#y={middle[0]}&x={middle[1]}&zoom=1")
    assert page.is_hidden("#tile")
    page.mouse.click(WIDTH / 2 + 10, HEIGHT / 2 + 10)
    page.wait_for_selector("#tile:not([hidden])")
    text = page.inner_text("#tile")
    assert text.split("\n")[1] == acquisition.names[5]
    for words in ("measured", "residual", "256 \u00d7 256 px", "accepted"):
        assert words in text
    assert "unused" not in text
    page.wait_for_function("location.hash.includes('tile=')")
    # A tile of the list of pairs is a way to that tile.
    page.click("#tile button.name >> nth=0")
    assert page.inner_text("#tile h2 >> nth=0") in acquisition.names
    assert page.inner_text("#tile h2 >> nth=0") != acquisition.names[5]


def test_a_link_leads_back_to_the_same_view(page, address) -> None:
    place = "#y=200.0&x=250.0&zoom=3&channels=0:100:2000&layers=outlines,names&tile="
    show(page, address, place)
    page.wait_for_function("location.hash.includes('layers=outlines,names')")
    first = screen(page)
    link = page.url
    assert "y=200.0&x=250.0&zoom=3" in link
    page.goto("about:blank")
    show(page, link)
    assert page.is_checked("#layer-outlines")
    np.testing.assert_array_equal(screen(page), first)


def test_outlines_lie_on_the_tiles(page, address, acquisition, archive) -> None:
    from mosaicreg.omezarr import read_table

    table = read_table(archive, "tiles")
    x = table["x"][6] - np.floor(table["x"].min() + 0.5)
    y = table["y"][6] - np.floor(table["y"].min() + 0.5)
    show(page, address, f"#y={y:.3f}&x={x:.3f}&zoom=8&channels=&layers=outlines")
    picture = screen(page)
    blue = (np.abs(picture - [0x56, 0xB4, 0xE9]) < 60).all(axis=2)
    # The corner of the tile is in the middle of the screen: its edges go right and down.
    row, col = HEIGHT // 2, WIDTH // 2
    assert blue[row - 1 : row + 1, col + 4 : col + 90].any(axis=0).all()
    assert blue[row + 4 : row + 90, col - 1 : col + 1].any(axis=1).all()


def test_turned_tiles_are_outlined_as_they_lie(page, tmp_path) -> None:
    tiles = [np.full((120, 160), 900, np.uint16), np.full((120, 160), 900, np.uint16)]
    mosaic = Mosaic.from_arrays(tiles, [(0, 0), (6.5, 130.25)])
    layout = replace(stage_layout(mosaic), angles=np.array([0.0, 9.0]))
    write_ome_zarr(assemble(mosaic, layout), tmp_path / "a.ome.zarr", mosaic=mosaic, layout=layout)
    lowest = layout.boxes[:, :2].min(axis=0)
    c, s = np.cos(np.deg2rad(9)), np.sin(np.deg2rad(9))
    for dy, dx in [(-60, -80), (-60, 80), (60, 80), (60, -80)]:
        # A corner of the turned tile, its middle being where it is unturned.
        y = 6.5 + 60 - lowest[0] + c * dy - s * dx
        x = 130.25 + 80 - lowest[1] + s * dy + c * dx
        with serving(tmp_path / "a.ome.zarr") as url:
            show(page, url, f"#y={y:.3f}&x={x:.3f}&zoom=4&channels=&layers=outlines")
            picture = screen(page)
        blue = (np.abs(picture - [0x56, 0xB4, 0xE9]) < 60).all(axis=2)
        orange = (np.abs(picture - [0xE6, 0x9F, 0x00]) < 60).all(axis=2)
        middle = (slice(HEIGHT // 2 - 3, HEIGHT // 2 + 4), slice(WIDTH // 2 - 3, WIDTH // 2 + 4))
        assert (blue | orange)[middle].any(), (dy, dx)


def test_contrast_and_channels(page, tmp_path) -> None:
    tile = np.zeros((2, 96, 96), np.uint16)
    tile[0], tile[1] = 100, 3000
    mosaic = Mosaic.from_arrays([tile], [(0, 0)], [HOSTILE], channels=("DAPI", HOSTILE))
    layout = stage_layout(mosaic)
    write_ome_zarr(assemble(mosaic, layout), tmp_path / "a.ome.zarr", mosaic=mosaic, layout=layout)
    with serving(tmp_path / "a.ome.zarr") as url:
        show(page, url, "#y=48&x=48&zoom=4&channels=0:0:200,1:0:6000")
        middle = (HEIGHT // 2, WIDTH // 2)
        # Half of cyan and half of magenta.
        np.testing.assert_allclose(screen(page)[middle], [127, 127, 255], atol=1.5)
        page.uncheck(".channel >> nth=1 >> input[type=checkbox]")
        page.wait_for_timeout(500)
        np.testing.assert_allclose(screen(page)[middle], [0, 127, 127], atol=1.5)
        page.fill(".channel >> nth=0 >> input[type=number] >> nth=1", "100")
        page.keyboard.press("Enter")
        page.wait_for_timeout(500)
        np.testing.assert_allclose(screen(page)[middle], [0, 255, 255], atol=1.5)
        page.check("#layer-names")
        page.mouse.click(WIDTH / 2, HEIGHT / 2)
        page.wait_for_selector("#tile:not([hidden])")
        # Names from files are text, whatever they hold.
        assert page.inner_text("#tile h2") == HOSTILE
        assert page.locator("#panel img, #tile img").count() == 0
        assert page.title() == "a"


def test_a_layout_is_assembled_as_it_is_looked_at(page, tiles, tmp_path) -> None:
    from mosaicreg import open_mosaic

    mosaic = open_mosaic(tiles, pixel_size=0.25)
    layout = stage_layout(mosaic)
    save_layout(tmp_path / "l.json", mosaic, layout)
    pixels = assemble(mosaic, layout).compute()
    low, high = window_at(pixels, 330, 512)
    with serving(tmp_path / "l.json") as url:
        show(page, url, f"#y=330&x=512&zoom=16&channels=0:{low}:{high}")
        assert_shows(page, pixels, (330, 512), 16, (low, high))
        assert "µm" in page.inner_text("#facts")


def test_what_is_no_image_is_said(page, tmp_path) -> None:
    zarr.create_group(str(tmp_path / "a.zarr"))
    with serving(tmp_path / "a.zarr") as url:
        page.goto(url)
        page.wait_for_selector("#message:not([hidden])")
        assert "this archive holds no OME-Zarr image" in page.inner_text("#message")
