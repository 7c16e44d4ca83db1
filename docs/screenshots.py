"""Pictures of what people see, for these pages: python docs/screenshots.py [folder].

Simulates a slide, stitches it, and photographs viewer and report in headless Chromium (the test
extra's playwright, and a Chromium of the machine). Look at the pictures before you commit them.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--use-gl=angle", "--use-angle=swiftshader"]
SIZE = {"width": 1200, "height": 760}


def slide(folder: Path) -> Path:
    """A stitched slide of 5 x 6 tiles, a third of it empty, two tiles of it noise alone."""
    import mosaicreg
    from mosaicreg.synthetic import Acquisition, Specimen

    acquisition = Acquisition(
        grid=(5, 6), tile=(512, 512), overlap=0.12, stage_error=10.0,
        specimen=Specimen(seed=4, empty=0.35), seed=2,
    )  # fmt: skip
    acquisition.write(folder / "tiles")
    mosaic = mosaicreg.open_mosaic(folder / "tiles", pixel_size=0.5)
    layout = mosaicreg.solve_layout(mosaic, mosaicreg.register(mosaic))
    print(layout)
    path = folder / "slide.ome.zarr"
    image = mosaicreg.assemble(mosaic, layout)
    mosaicreg.write_ome_zarr(image, path, mosaic=mosaic, layout=layout)
    return path


def viewer(browser: Any, archive: Path, folder: Path) -> None:
    """The viewer with all tiles, and with one tile and its pairs."""
    from mosaicreg.viewer.serving import serving

    pictures = {
        "viewer": ("#y=1160&x=1390&zoom=0.3&layers=outlines,names", (640, 330)),
        "viewer_pairs": ("#y=1150&x=1350&zoom=0.75&layers=outlines,pairs", (620, 380)),
    }
    with serving(archive) as address:
        for name, (place, click) in pictures.items():
            page = browser.new_page(viewport=SIZE)
            page.goto(address + place)
            page.wait_for_selector("body[data-ready=true]", timeout=120_000)
            page.mouse.click(*click)
            page.wait_for_timeout(1000)
            page.screenshot(path=folder / f"{name}.jpg", type="jpeg", quality=80)
            page.close()


def report(browser: Any, archive: Path, folder: Path) -> None:
    """The report's first screen in the light theme, its seams in the dark one."""
    from mosaicreg.report import write_report

    address = write_report(archive, archive.parent / "report.html").as_uri()
    page = browser.new_page(viewport={"width": 1200, "height": 1240}, color_scheme="light")
    page.goto(address)
    page.screenshot(path=folder / "report.jpg", type="jpeg", quality=80)
    page.close()
    page = browser.new_page(viewport={"width": 1200, "height": 760}, color_scheme="dark")
    page.goto(address)
    page.check("#colours")
    page.evaluate("document.querySelectorAll('.seam')[4].scrollIntoView()")
    page.screenshot(path=folder / "report_seams.jpg", type="jpeg", quality=80)
    page.close()


def main(folder: Path) -> None:
    """All pictures, into ``folder``."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("a Chromium is needed: apt-get install chromium")
    with tempfile.TemporaryDirectory() as work, sync_playwright() as driver:
        archive = slide(Path(work))
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        viewer(browser, archive, folder)
        report(browser, archive, folder)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images")
