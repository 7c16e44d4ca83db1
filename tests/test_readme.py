"""The README says what is true: its Python runs, its output is what is printed, its links lead."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_of_the_readme_prints_what_it_says(tmp_path) -> None:
    from mosaicreg.demo import demo_acquisition

    demo_acquisition(0).write(tmp_path / "demo_tiles")
    job, cluster, nornir = blocks("python")
    found = subprocess.run(
        [sys.executable, "-c", job], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == blocks("text")[0].strip()
    assert (tmp_path / "out.ome.zarr" / "zarr.json").is_file()

    found = subprocess.run(
        [sys.executable, "-c", nornir], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == blocks("text")[1].strip()

    on_cluster = cluster + job.replace("out.ome.zarr", "cluster.ome.zarr")
    found = subprocess.run(
        [sys.executable, "-c", on_cluster],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == blocks("text")[0].strip()


def test_the_two_set_up_commands_are_single_lines() -> None:
    install, tests = blocks("sh")[:2]
    assert install == "python -m pip install . && mosaicreg demo\n"
    assert tests == 'python -m pip install -e ".[test]" && python -m pytest\n'


def test_commands_of_the_readme_exist() -> None:
    from mosaicreg.cli import COMMANDS

    lines = "\n".join([*blocks("sh"), *re.findall(r"`([^`\n]+)`", README)])
    commands = re.findall(r"(?:^|&& )mosaicreg (\w+)", lines, re.MULTILINE)
    assert {"demo", "stitch", "register"} <= set(commands) <= set(COMMANDS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
