"""How work goes on, for people: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mosaicreg.cluster import Progress

LINE_EVERY = 5.0
"""Seconds between two lines of one stage where there is no terminal."""


@contextmanager
def show_progress(quiet: bool = False) -> Iterator[Progress]:
    """A function that takes (stage, done, total) and shows it on standard error."""
    if quiet:
        yield lambda stage, done, total: None
    elif sys.stderr.isatty():
        with _bars() as report:
            yield report
    else:
        yield _lines()


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:>10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        rows: dict[str, object] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in rows:
                rows[stage] = bars.add_task(stage, total=total)
            bars.update(rows[stage], completed=done, total=total)  # type: ignore[arg-type]

        yield report


def _lines() -> Progress:
    started: dict[str, float] = {}
    said: dict[str, float] = {}

    def report(stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        started.setdefault(stage, now)
        if done < total and now - said.get(stage, started[stage]) < LINE_EVERY:
            return
        said[stage] = now
        passed = now - started[stage]
        left = passed / done * (total - done) if done else 0.0
        end = f"in {_clock(passed)}" if done >= total else f"{_clock(left)} left"
        share = 100 * done // max(1, total)
        print(f"{stage}: {done}/{total} ({share} %), {end}", file=sys.stderr, flush=True)

    return report


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
        if minutes >= 60
        else f"{minutes}:{rest:02d}"
    )
