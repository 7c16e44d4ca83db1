"""The documentation says what is true: its Python and its commands run, its options exist."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mosaicreg.cli import main
from mosaicreg.synthetic import Acquisition, Specimen

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
TOLD = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
RUN = ("tutorial", "inputs", "bad-tiles", "sharing", "nornir", "transforms", "sections")
"""Pages whose blocks are run from the first to the last, in a folder of their own. A block is left
out where the line before it says why: <!-- not run: because -->."""
BLOCK = re.compile(
    r"(?P<why><!-- not run: [^\n]+ -->\n)?```(?P<kind>python|sh)\n(?P<code>.*?)```", re.DOTALL
)


def commands(code: str) -> list[list[str]]:
    """The words of each ``mosaicreg`` command of a shell block."""
    lines = code.replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        for part in re.split(r"&&|\|\||;|\|", line):
            words = shlex.split(part, comments=True)
            if words and words[0] == "mosaicreg":
                found.append(words[1:])
    return found


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """What `mosaicreg demo` leaves, smaller; .ci/run runs the command itself."""
    folder = tmp_path_factory.mktemp("docs") / "demo_tiles"
    specimen = Specimen(seed=5, empty=0.0)
    Acquisition(
        grid=(3, 3), tile=(256, 256), overlap=0.12, stage_error=4.0, specimen=specimen, seed=1
    ).write(folder)
    return folder


@pytest.mark.parametrize("name", RUN)
def test_a_page_runs_from_its_first_block_to_its_last(name, demo, tmp_path, monkeypatch) -> None:
    (tmp_path / "demo_tiles").mkdir()
    for file in demo.iterdir():
        os.link(file, tmp_path / "demo_tiles" / file.name)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    ran = 0
    for block in BLOCK.finditer((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")):
        if block["why"]:
            continue
        if block["kind"] == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block["code"], f"{name}.md", "exec"), names)
            ran += 1
        for words in commands(block["code"]) if block["kind"] == "sh" else ():
            if words == ["demo"]:
                continue
            extra = ["--overwrite"] if words[0] == "stitch" else []
            result = CliRunner().invoke(main, [*words, *extra], catch_exceptions=False)
            assert result.exit_code == 0, f"{words}: {result.output}"
            ran += 1
    assert ran > 3


@pytest.mark.parametrize("path", TOLD, ids=lambda p: p.stem)
def test_every_command_and_option_that_is_told_exists(path) -> None:
    text = path.read_text(encoding="utf-8")
    shell = re.findall(r"```(?:sh|bash|console)\n(.*?)```", text, re.DOTALL)
    inline = [c for c in re.findall(r"`(mosaicreg [^`\n]+)`", text) if "..." not in c]
    top = click.Context(main, info_name="mosaicreg")
    for words in commands("\n".join([*shell, *inline])):
        if words[:1] in (["--help"], ["--version"]) or not words:
            continue
        command = main.get_command(top, words[0])
        assert command is not None, f"{path.name} tells of mosaicreg {words[0]}"
        try:
            command.make_context(words[0], words[1:], parent=top, resilient_parsing=len(words) == 1)
        except click.MissingParameter:
            pass  # a command in a sentence need not be whole
        except click.UsageError as error:
            pytest.fail(f"{path.name}: mosaicreg {shlex.join(words)}: {error.format_message()}")


def test_the_python_of_every_page_is_run_or_says_why_not() -> None:
    for path in PAGES:
        if path.stem not in RUN:
            blocks = BLOCK.finditer(path.read_text(encoding="utf-8"))
            silent = [b for b in blocks if b["kind"] == "python" and not b["why"]]
            assert not silent, f"{path.name}: add it to RUN, or say why it is not run"
