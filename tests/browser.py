"""Chromium for tests: found on the machine, driven by playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]


def executable() -> str:
    """Path of a Chromium; skips the test where there is none, and fails it where one must be."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is not None:
        return found
    reason = f"no {' or '.join(NAMES)} on this machine: the viewer's page was not tried"
    if os.environ.get("MOSAICREG_NEEDS_BROWSER"):  # set by .ci/run: there nothing is skipped
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def chromium() -> Iterator[Any]:
    """A running headless browser."""
    from playwright.sync_api import sync_playwright

    path = executable()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()
