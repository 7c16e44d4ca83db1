"""Progress for people and for programs."""

from __future__ import annotations

import json
import sys

import pytest
from click.testing import CliRunner
from test_cli import run

from mosaicreg import open_mosaic
from mosaicreg import progress as room
from mosaicreg.cli import main
from mosaicreg.errors import InputError
from mosaicreg.progress import Pace, clock, open_log, show_progress, table_of


@pytest.fixture
def time(monkeypatch):
    """A clock that is set by hand."""

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(room, "time", clock)
    return clock


def test_a_pace_knows_rate_and_time_left() -> None:
    pace = Pace("register", 30, 120, 60.0)
    assert (pace.rate, pace.left, pace.over) == (0.5, 180.0, False)
    assert pace.words() == "30/120 (25 %), 0.5/s, 3:00 left"
    assert Pace("register", 120, 120, 3725.0).words() == "120/120 (100 %), 0.0322/s, in 1:02:05"
    assert Pace("register", 0, 120, 0.0).words() == "0/120 (0 %)"
    assert Pace("nothing", 0, 0, 0.0).over
    assert clock(59.6) == "1:00"


def test_lines_come_every_few_seconds_and_at_the_end(time, capsys) -> None:
    with show_progress() as progress:
        for done in range(101):
            time.now = done * 0.1
            progress("register", done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "register: 50/100 (50 %), 10/s, 0:05 left",
        "register: 100/100 (100 %), 10/s, in 0:10",
    ]


def test_quiet_is_silent_but_logs(time, capsys, tmp_path) -> None:
    path = tmp_path / "log é.jsonl"
    for _ in range(2):
        with open_log(path) as log, show_progress(quiet=True, log=log) as progress:
            assert log is not None
            log.write("start", command="mosaicreg")
            for done in range(5):
                time.now = done * 4.0
                progress("write", done, 4)
    assert capsys.readouterr() == ("", "")
    events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [e["event"] for e in events] == ["start", "progress", "progress", "end"] * 2
    last = events[2]
    assert {k: last[k] for k in ("stage", "done", "total", "seconds", "rate", "left")} == {
        "stage": "write", "done": 4, "total": 4, "seconds": 16.0, "rate": 0.25, "left": 0.0,
    }  # fmt: skip
    assert last["time"].endswith("+00:00")


def test_what_ends_the_work_is_logged(tmp_path) -> None:
    with pytest.raises(InputError), open_log(tmp_path / "l"):
        raise InputError("no tiles")
    event = json.loads((tmp_path / "l").read_text())
    assert (event["event"], event["kind"], event["message"]) == ("error", "InputError", "no tiles")
    with pytest.raises(InputError, match="cannot be written"), open_log(tmp_path):
        pass


def test_bars_on_a_terminal(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with show_progress() as progress:
        progress("register", 0, 3)
        progress("register", 3, 3)
    assert "3/3" in capsys.readouterr().err


def test_stages_that_overlap_share_the_time_that_passes(time) -> None:
    """Each task's is what passed since the one before, of any stage; all together are the whole."""
    with show_progress(quiet=True) as progress:
        for now, report in [
            (5, ("write", 0, 3)),
            (7, ("write", 1, 3)),
            (7, ("level 1", 0, 2)),
            (10, ("write", 2, 3)),
            (11, ("level 1", 1, 2)),
            (15, ("write", 3, 3)),
            (21, ("level 1", 2, 2)),
            (50, ("finish", 0, 1)),
            (51, ("finish", 1, 1)),
            (60, ("write", 0, 1)),
            (62, ("write", 1, 1)),
        ]:
            time.now = float(now)
            progress(*report)
            if now == 21:
                assert progress.seconds == {"write": 2 + 3 + 4, "level 1": 1 + 6}
    assert progress.seconds == {"write": 2, "level 1": 7, "finish": 1}
    assert progress.totals == {"write": 1, "level 1": 2, "finish": 1}


def test_a_table_in_a_notebook() -> None:
    html = table_of([Pace("<a>", 1, 4, 2.0)])
    assert "&lt;a&gt;" in html
    assert "value='1' max='4'" in html
    assert "25 %" in html


def test_the_command_line_logs_and_names_the_dashboard(tiles, tmp_path) -> None:
    log = tmp_path / "run.jsonl"
    done = run(
        "register", tiles, "-o", tmp_path / "l.csv", "--quiet", "--log-file", log,
        "--workers", "1", "--memory-limit", "1GB",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "register:" not in done.stderr  # a loaded machine makes dask warn of other things
    assert "Working" not in done.stderr
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert events[0]["event"] == "start"
    assert events[0]["command"].startswith("mosaicreg register")
    assert [e["stage"] for e in events if e["event"] == "progress"] == ["register", "solve"]
    assert events[-1]["event"] == "end"


def test_stages_that_are_over_at_once_are_not_told(time, capsys) -> None:
    with show_progress(after=2.0) as progress:
        for done in range(1, 11):
            time.now = done * 0.1
            progress("headers", done, 10)
    assert capsys.readouterr() == ("", "")
    with show_progress(after=2.0) as progress:
        for done in range(1, 101):
            time.now = 10 + done * 0.1
            progress("headers", done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "headers: 51/100 (51 %)",
        "headers: 100/100 (100 %)",
    ]


def test_opening_many_files_tells_how_it_goes_on(tiles, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("mosaicreg.cli.running.OPENED_AT_ONCE", 0.0)
    log = tmp_path / "run.jsonl"
    options = ["register", str(tiles), "-o", str(tmp_path / "l.csv"), "--log-file", str(log)]
    told = CliRunner().invoke(main, options)
    assert told.exit_code == 0, told.output
    assert "headers: 12/12 (100 %)" in told.stderr
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert (events[0]["event"], events[0]["stage"]) == ("progress", "headers")
    assert [e["event"] for e in events].count("end") == 1
    quiet = CliRunner().invoke(main, [*options, "--overwrite", "--quiet"])
    assert "headers" not in quiet.output
    seen: list[tuple[int, int]] = []
    open_mosaic(tiles, progress=lambda stage, done, total: seen.append((done, total)))
    assert seen == [(k, 12) for k in range(13)]


def test_in_a_notebook_one_table_is_redrawn_in_place() -> None:
    """What the notebook keeps is one output, with the last state of all stages."""
    import nbformat
    from nbclient import NotebookClient

    code = """
import mosaicreg
with mosaicreg.show_progress() as progress:
    for stage in ("register", "write"):
        for done in range(51):
            progress(stage, done, 50)
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=100).execute()
    (output,) = notebook.cells[0].outputs
    assert output.output_type == "display_data"
    html = output.data["text/html"]
    assert html.count("<tr>") == 2
    assert html.count("50/50 (100 %)") == 2
