"""What all tests share: real tiles, a small acquisition, hypothesis profiles."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from mosaicreg import synthetic

settings.register_profile(
    "default",
    derandomize=True,  # the same examples on every machine: a red test can be shown to others
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("default")

# A shell that runs the tests in the background makes them, and what they start, deaf to Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

DATA = Path(os.environ.get("MOSAICREG_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real tiles."""
    if not DATA.is_dir():
        pytest.skip(f"real tiles are not at {DATA}; set MOSAICREG_DATA to their folder")
    return DATA


@pytest.fixture(scope="session")
def acquisition() -> synthetic.Acquisition:
    """3 x 4 tiles of 256 x 256 px with noise, shading and stage errors up to 8 px."""
    return synthetic.Acquisition(
        grid=(3, 4),
        tile=(256, 256),
        overlap=0.2,
        stage_error=8.0,
        specimen=synthetic.Specimen(seed=5, empty=0.0),
        seed=3,
    )


@pytest.fixture
def tiles(acquisition: synthetic.Acquisition, tmp_path: Path) -> Path:
    """The acquisition as a folder of TIFF files with positions.csv and truth.csv."""
    folder = tmp_path / "tiles"
    acquisition.write(folder)
    return folder
