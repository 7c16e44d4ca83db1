"""The report: one file, readable by itself, that says how far to trust a mosaic."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import chromium
from test_cli import run

from mosaicreg import (
    Mosaic,
    assemble,
    open_mosaic,
    register,
    solve_layout,
    stage_layout,
    write_ome_zarr,
)
from mosaicreg.drawing import Frame
from mosaicreg.layout import CONFLICT, MEASURED, STAGE, Layout, misfits
from mosaicreg.pairs import ACCEPTED, NO_SIGNAL, REJECTED, Pairs
from mosaicreg.report import figures, read_numbers, write_report
from mosaicreg.report.numbers import judgement, link_kinds
from mosaicreg.report.seams import seams_in_doubt


class Page(HTMLParser):
    """Addresses that a page refers to, and the numbers it carries."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.numbers = None
        self.open: list[str] = []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attrs) -> None:
        self.open.append(tag)
        facts = dict(attrs)
        self.addresses += [facts[k] for k in ("href", "src", "xlink:href") if facts.get(k)]

    def handle_data(self, data) -> None:
        if self.open[-1:] == ["script"] and self.numbers is None:
            self.numbers = json.loads(data)


@pytest.fixture(scope="module")
def stitched(acquisition, tmp_path_factory):
    """(mosaic, layout, archive) of the small acquisition."""
    folder = tmp_path_factory.mktemp("stitched")
    acquisition.write(folder / "tiles")
    mosaic = open_mosaic(folder / "tiles", pixel_size=0.5)
    layout = solve_layout(mosaic, register(mosaic))
    path = write_ome_zarr(
        assemble(mosaic, layout), folder / "a.ome.zarr", mosaic=mosaic, layout=layout,
        chunk=128, shard=512, provenance={"version": "1.2", "command": "mosaicreg <b>"},
    )  # fmt: skip
    return mosaic, layout, path


def many(side: int) -> Layout:
    """A layout of ``side**2`` tiles, one in fifty by stage, one in a hundred in conflict."""
    n = side * side
    stage = np.stack(np.divmod(np.arange(n), side), axis=1) * 900.0
    rng = np.random.default_rng(0)
    codes = np.full(n, MEASURED, np.uint8)
    codes[::50], codes[::100] = STAGE, CONFLICT
    index = np.arange(n).reshape(side, side)
    fixed = np.concatenate([index[:, :-1].ravel(), index[:-1].ravel()])
    moving = np.concatenate([index[:, 1:].ravel(), index[1:].ravel()])
    m = len(fixed)
    positions = stage + rng.normal(0, 5, (n, 2))
    offsets = positions[moving] - positions[fixed]
    status = np.full(m, ACCEPTED, np.uint8)
    status[::40], status[::60] = REJECTED, NO_SIGNAL
    some = rng.uniform(0.5, 1, m)
    pairs = Pairs(
        fixed, moving, offsets[:, 0], offsets[:, 1], some / 50, some, 20 * some, 9 * some,
        9 * some, np.where(status == NO_SIGNAL, np.nan, 1 - some * 1e-6), status, np.empty(0),
    )  # fmt: skip
    residuals = np.where(codes == STAGE, np.nan, rng.gamma(2, 0.1, n))
    return Layout(
        names=np.array([f"tile {k}" for k in range(n)], dtype=np.dtypes.StringDType()),
        positions=positions,
        shapes=np.full((n, 2), 1000),
        verdict_codes=codes,
        residuals=residuals,
        sigmas=residuals / 5,
        parts=np.zeros(n, np.int64),
        rms=0.1,
        stage=stage,
        pairs=pairs,
        used=pairs.accepted,
    )


def test_the_page_stands_alone(stitched, tmp_path) -> None:
    _, layout, archive = stitched
    page = Page(write_report(archive, tmp_path / "r.html"))
    for address in page.addresses:
        assert address.startswith(("data:image/jpeg;base64,", "#")), address[:80]
    assert set(re.findall(r"https?://[^\"' <]+", page.text)) == {"http://www.w3.org/2000/svg"}
    assert "mosaicreg &lt;b&gt;" in page.text
    for name in layout.names.tolist():
        assert name in page.text
    assert len(page.text) < 3_000_000


def test_its_numbers_are_those_of_the_layout(stitched, tmp_path) -> None:
    _, layout, archive = stitched
    page = Page(write_report(archive, tmp_path / "r.html"))
    numbers = read_numbers(archive)
    assert page.numbers == json.loads(json.dumps(numbers))
    assert layout.pairs is not None
    assert numbers["verdict"] == "good"
    assert numbers["tiles"]["measured"] == len(layout)
    assert numbers["residual_px"]["rms"] == pytest.approx(layout.rms, abs=1e-6)
    assert numbers["residual_px"]["max"] == pytest.approx(np.nanmax(layout.residuals), abs=1e-6)
    assert sum(numbers["residual_histogram"]["tiles"]) == len(layout)
    assert numbers["pairs"]["used"] == layout.used.sum()
    assert numbers["image"]["pixel_size_um"] == [0.5, 0.5]
    assert numbers["provenance"]["version"] == "1.2"


def test_seams_fit_better_than_the_stage_had_them(stitched) -> None:
    _, layout, archive = stitched
    seams = read_numbers(archive)["seams"]
    assert len(seams) == 10
    assert [s["doubt_px"] for s in seams] == sorted((s["doubt_px"] for s in seams), reverse=True)
    by_pair = {
        (str(layout.names[f]), str(layout.names[m])): c
        for f, m, c in zip(
            layout.pairs.fixed, layout.pairs.moving, layout.pairs.correlation, strict=True
        )
    }
    for seam in seams:
        assert seam["correlation_after"] > seam["correlation_before"]
        # Registration measured the same overlap, there at the pair's own offset.
        assert seam["correlation_after"] == pytest.approx(by_pair[tuple(seam["tiles"])], abs=0.05)


def test_a_misplaced_tile_leads_the_seams(stitched) -> None:
    _, layout, _ = stitched
    positions = layout.positions.copy()
    positions[5] += (7, 0)
    seams = seams_in_doubt(replace(layout, positions=positions))
    pairs = layout.pairs
    around = [k for k in range(len(pairs)) if 5 in (pairs.fixed[k], pairs.moving[k])]
    for seam in seams[: len(around)]:
        assert 5 in (seam.fixed, seam.moving)
        assert seam.doubt == pytest.approx(7, abs=0.2)


def test_without_its_tiles_a_report_says_so(stitched, tmp_path) -> None:
    _, _, archive = stitched
    shutil.copytree(archive, tmp_path / "sent.ome.zarr")
    shutil.copytree(archive.parent / "tiles", tmp_path / "tiles")
    shutil.move(archive.parent / "tiles", archive.parent / "away")
    try:
        moved = Page(write_report(tmp_path / "sent.ome.zarr", tmp_path / "r.html"))
        assert "cannot be read any more" not in moved.text
        shutil.rmtree(tmp_path / "tiles")
        page = Page(write_report(tmp_path / "sent.ome.zarr", tmp_path / "r.html"))
    finally:
        shutil.move(archive.parent / "away", archive.parent / "tiles")
    assert "cannot be read any more" in page.text
    assert page.numbers["seams"][0]["correlation_after"] is None
    assert page.numbers["tiles"]["measured"] == 12


def test_odd_mosaics_have_a_report_too(tmp_path) -> None:
    image = np.random.default_rng(0).integers(1, 200, (3, 40, 50)).astype(np.uint8)
    for name, tiles, positions in (
        ("one", [image[0]], [(0, 0)]),
        ("<script>", [image, image], [(0, 0), (0, 40)]),
        ("flat", [np.zeros((30, 30), np.uint16)] * 2, [(0, 0), (0, 20)]),
    ):
        mosaic = Mosaic.from_arrays(
            tiles, positions, names=[f"{name}{k}" for k in range(len(tiles))]
        )
        for layout in (stage_layout(mosaic), solve_layout(mosaic, register(mosaic))):
            archive = write_ome_zarr(
                assemble(mosaic, layout), tmp_path / "a.ome.zarr",
                mosaic=mosaic, layout=layout, overwrite=True,
            )  # fmt: skip
            page = Page(write_report(archive, tmp_path / "r.html"))
            assert "<script>0" not in page.text
            assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]*", "", page.text), re.IGNORECASE)


def test_the_judgement_has_four_words() -> None:
    layout = many(10)
    assert judgement(replace(layout, pairs=None, used=None)).word == "unmeasured"
    assert judgement(layout).word == "look"
    assert "1 tile placed by the stage, 1 tile in conflict" in judgement(layout).sentence
    assert judgement(layout, max_doubtful=0.01).word == "doubtful"
    sure = replace(layout, verdict_codes=np.full(100, MEASURED, np.uint8))
    assert judgement(sure).word == "good"
    apart = np.zeros(100, np.int64)
    apart[:5] = 1
    assert "5 tiles measured, but not linked" in judgement(replace(sure, parts=apart)).sentence


def test_what_became_of_pairs() -> None:
    layout = many(10)
    used = layout.used.copy()
    used[1] = False
    kinds = link_kinds(replace(layout, used=used))
    assert kinds[0] == "no signal"
    assert kinds[1] == "disagrees"
    assert kinds[2] == "used"
    assert kinds[40] == "rejected"
    assert misfits(layout) == pytest.approx(np.zeros(len(kinds)), abs=1e-9)


@pytest.mark.parametrize("side", [20, 320])
def test_drawings_stay_light(side) -> None:
    layout = many(side)
    frame = Frame.around(np.hstack([layout.positions, layout.positions + 1000]))
    arrows = figures.arrows_figure(frame, layout)
    assert arrows is not None
    parts = [
        figures.tiles_figure(frame, layout),
        arrows[0],
        figures.pairs_figure(frame, layout),
        figures.residual_bars(layout),
        figures.chance_bars(layout),
        figures.correlation_bars(layout),
    ]
    assert sum(map(len, parts)) < 2_000_000
    assert len(seams_in_doubt(layout)) == 40


def test_a_browser_shows_it_in_both_themes_and_prints_it(stitched, tmp_path) -> None:
    path = write_report(stitched[2], tmp_path / "r.html")
    grounds = {}
    with chromium() as browser:
        for scheme in ("light", "dark"):
            page = browser.new_page(color_scheme=scheme, viewport={"width": 1000, "height": 800})
            requests, errors = [], []
            page.on("request", lambda r, seen=requests: seen.append(r.url))
            page.on("pageerror", lambda e, seen=errors: seen.append(e))
            page.goto(path.as_uri())
            assert [r for r in requests if not r.startswith(("file:", "data:"))] == []
            assert errors == []
            grounds[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
            broken = "[...document.images].filter(i => !i.naturalWidth).length"
            assert page.evaluate(broken) == 0
            assert page.evaluate("document.documentElement.scrollWidth") <= 1000
            page.check("#colours")
            assert page.is_visible("img.colours >> nth=0")
            assert not page.is_visible("img.grey >> nth=0")
            if scheme == "dark":
                page.emulate_media(media="print")
                printed = page.evaluate("getComputedStyle(document.body).backgroundColor")
                assert printed == grounds["light"]
    assert grounds == {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 23, 29)"}


def test_the_command_line_writes_page_and_numbers(tiles, tmp_path) -> None:
    out, page = tmp_path / "o.ome.zarr", tmp_path / "first.html"
    done = run("stitch", tiles, "-o", out, "--report", page)
    assert done.returncode == 0, done.stderr
    first = Page(page)
    assert "--report" in first.numbers["provenance"]["command"]
    assert first.numbers["worker_memory_bytes"]["measured"] > 0
    assert {"register", "solve", "write"} <= set(first.numbers["seconds"])
    assert "GB predicted" in first.text
    assert "python 3." in first.text
    done = run("report", out, "--quiet")
    assert done.returncode == 0, done.stderr
    assert Page(tmp_path / "o.html").numbers["tiles"]["measured"] == 12
    done = run("report", out, "--json", "--quiet")
    assert json.loads(done.stdout)["verdict"] == "good"
    done = run("report", tiles)
    assert done.returncode == 2
    assert "not an OME-Zarr archive of mosaicreg" in done.stderr
