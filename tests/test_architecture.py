"""The house plan as a test: imports only go down, and rooms stay what they are."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mosaicreg"

# Lower floors first, and on one floor from left to right: a room may import what stands before it.
FLOORS = (
    (
        "errors",
        "geometry",
        "divisions",
        "transforms",
        "drawing",
        "plots",
        "tables",
        "alignment",
    ),
    (
        "noise",
        "pixels",
        "illumination",
        "phase",
        "edges",
        "robust",
        "subpixel",
        "strips",
        "compiled",
        "fourier",
        "surface",
        "correlate",
        "cells",
        "rigid",
        "turning",
        "render",
        "pull",
        "sampling",
        "turned",
    ),
    (
        "machine",
        "objects",
        "tiffwindow",
        "jpeg2000",
        "header",
        "tiffscan",
        "tifffiles",
        "imagefile",
        "store",
        "journal",
        "imagesave",
        "source",
        "irtools",
        "mosaicfile",
        "chunks",
        "zarrfiles",
        "shards",
        "omezarr",
    ),
    (
        "mosaic",
        "opening",
        "overlaps",
        "stage",
        "loops",
        "pairs",
        "constraints",
        "leastsquares",
        "solving",
        "springs",
        "bending",
        "turns",
        "layout",
        "layoutfile",
        "recipe",
        "reopening",
        "sections",
        "synthetic",
    ),
    (
        "processes",
        "cluster",
        "clusterfile",
        "clusters",
        "lazy",
        "flatfield",
        "tiling",
        "cutting",
        "registration",
        "assembly",
        "windows",
        "warping",
        "reducing",
        "displacements",
        "aligning",
        "refining",
        "levels",
        "archive",
        "layers",
        "timing",
        "planning",
        "audit",
        "verification",
        "inspection",
        "report",
        "export",
        "viewer",
        "doctor",
        "progress",
    ),
    (
        "nornir",
        "demo",
        "cli",
        "__main__",
    ),
)
ORDER = {room: k for k, room in enumerate(room for floor in FLOORS for room in floor)}
DASK_ROOMS = {
    "flatfield",
    "layers",
    "warping",
    "windows",
    "lazy",
    "tiling",
    "processes",
    "cluster",
    "clusterfile",
    "clusters",
    "assembly",
    "archive",
    "verification",
}
MATPLOTLIB_ROOMS = {"plots"}
FILE_FREE_FLOORS = {*FLOORS[0], *FLOORS[1]}


def rooms() -> list[str]:
    """Modules and folders of the package."""
    found = [*PACKAGE.glob("*.py"), *(p.parent for p in PACKAGE.glob("*/__init__.py"))]
    return sorted(p.stem for p in found if p.stem != "__init__")


def files(room: str) -> list[Path]:
    folder = PACKAGE / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def imports(room: str) -> list[tuple[str, bool]]:
    """(imported module, whether at the top of the file) for every import of a room."""
    found = []
    for path in files(room):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found += [(alias.name, node in tree.body) for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{a.name}" for a in node.names]
                found += [(n, node in tree.body) for n in names]
    return found


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "mosaicreg" and len(parts) > 1 and parts[1] in ORDER else None


def test_every_room_has_its_place() -> None:
    assert set(rooms()) == set(ORDER)


@pytest.mark.parametrize("room", rooms())
def test_imports_only_go_down(room: str) -> None:
    for module, _ in imports(room):
        other = room_of(module)
        if other is None or other == room:
            continue
        assert ORDER[other] < ORDER[room], f"{room} imports {other}, which stands above it"


@pytest.mark.parametrize("room", rooms())
def test_heavy_libraries_stay_in_their_rooms(room: str) -> None:
    for module, top in imports(room):
        library = module.split(".")[0]
        if library in ("dask", "distributed"):
            assert room in DASK_ROOMS, f"{room} imports {library}"
        if library == "distributed":
            assert not top, f"{room} imports distributed when it is loaded"
        if library == "matplotlib":
            assert room in MATPLOTLIB_ROOMS
            assert not top


@pytest.mark.parametrize("room", sorted(FILE_FREE_FLOORS & set(ORDER)))
def test_pixel_rooms_know_no_files(room: str) -> None:
    libraries = {module.split(".")[0] for module, _ in imports(room)}
    assert not libraries & {"zarr", "tifffile", "imagecodecs", "PIL", "pathlib", "os"}
