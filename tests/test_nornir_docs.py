"""docs/nornir.md names all that the documents name, and what it says each stands for exists."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
from test_nornir_core import DOCUMENTED

import mosaicreg.nornir as nornir_imageregistration

PAGE = (Path(__file__).parents[1] / "docs" / "nornir.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ([^|]*)\|[^|]*\|$", PAGE, re.MULTILINE)
ASSEMBLE = {
    "DestinationROI_to_SourceROI",
    "ExtractRegion",
    "FixedImageToWarpedSpace",
    "ParameterToStosTransform",
    "SourceROI_to_DestinationROI",
    "TransformImage",
    "TransformStos",
    "WarpedImageToFixedSpace",
}


def test_every_documented_name_is_in_the_table_and_works() -> None:
    listed = {name for names, _ in ROWS for name in re.findall(r"`(\w+)`", names)}
    documented = {line.partition("(")[0] for line in DOCUMENTED} | ASSEMBLE
    assert len(documented) == 45
    assert documented <= listed
    for name in listed:
        assert callable(getattr(nornir_imageregistration, name))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("`"))
def test_what_a_name_stands_for_exists(row) -> None:
    for room, name in re.findall(r"`([a-z0-9_]+)\.(\w+)`", row[1]):
        if room not in ("numpy", "mosaicreg"):
            assert hasattr(import_module(f"mosaicreg.{room}"), name), f"{room}.{name}"
