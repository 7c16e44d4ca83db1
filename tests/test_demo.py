"""`mosaicreg demo`: the first thing a stranger sees has to work, and to be right."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest
import zarr

from mosaicreg import InputError
from mosaicreg.demo import run_demo
from mosaicreg.imagefile import read_image


def test_the_demo_is_quick_right_and_leaves_pictures(tmp_path) -> None:
    start = time.monotonic()
    command = [sys.executable, "-m", "mosaicreg", "demo"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - start < 60
    found = re.search(r"measured tiles: rms +([\d.]+) px, largest +([\d.]+) px", result.stdout)
    assert found is not None
    assert float(found[1]) <= 0.05
    assert float(found[2]) <= 0.3
    for stage in ("simulate", "register", "write", "level 1"):
        assert f"{stage}: " in result.stderr
    assert zarr.open_array(str(tmp_path / "demo.ome.zarr" / "0"), mode="r")[1000:1100].any()
    for picture in ("demo_preview.png", "demo_before_after.png"):
        assert read_image(tmp_path / picture).std() > 10


def test_the_demo_replaces_only_its_own_archive(tmp_path) -> None:
    zarr.create_group(str(tmp_path / "demo.ome.zarr"))
    with pytest.raises(InputError, match="not of an earlier demo"):
        run_demo(tmp_path, 0, lambda *_: None)
