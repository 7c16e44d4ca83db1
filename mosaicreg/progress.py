"""How work goes on: bars on a terminal, a table in a notebook, lines elsewhere, JSON in a log.

All tell the stage, done of total, the rate and the time left.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from mosaicreg.errors import InputError

LINE_EVERY = 5.0
"""Seconds between two lines of one stage where there is no terminal."""
TABLE_EVERY = 0.25
"""Seconds between two pictures of the table in a notebook."""


class Pace(NamedTuple):
    """Where a stage stands: done of total after some seconds."""

    stage: str
    done: int
    total: int
    seconds: float

    @property
    def over(self) -> bool:
        """Whether all is done."""
        return self.done >= self.total

    @property
    def rate(self) -> float:
        """Tasks per second; 0 before the first."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def left(self) -> float | None:
        """Seconds to go at this rate; None before the first task."""
        return (self.total - self.done) / self.rate if self.rate > 0 else None

    def words(self) -> str:
        """For people."""
        share = 100 * self.done // max(1, self.total)
        if self.over:
            end = f"in {clock(self.seconds)}"
        else:
            end = "" if self.left is None else f"{clock(self.left)} left"
        rate = f"{self.rate:.3g}/s" if self.rate > 0 else ""
        return ", ".join(filter(None, [f"{self.done}/{self.total} ({share} %)", rate, end]))


@contextmanager
def show_progress(
    quiet: bool = False, log: Log | None = None, after: float = 0.0
) -> Iterator[Reporter]:
    """A function that takes (stage, done, total) and shows it, where people look.

    Pass it on: ``with show_progress() as progress: register(mosaic, progress=progress)``.

    Args:
        quiet: show nothing.
        log: where it is written too.
        after: nothing is told of stages that take less than so many seconds.
    """
    report = Reporter(after=after)
    sinks = report.sinks
    if log is not None:
        sinks.append(_every(LINE_EVERY, log.pace))
    if quiet:
        yield report
    elif _in_notebook():
        sinks.append(_table())
        yield report
    elif sys.stderr.isatty():
        with _bars() as bars:
            sinks.append(bars)
            yield report
    else:
        sinks.append(_every(LINE_EVERY, _print))
        yield report


@dataclass
class Log:
    """Events as JSON, one line each: ``time`` (UTC), ``event``, and what belongs to it."""

    file: TextIO

    def write(self, event: str, **facts: Any) -> None:
        """Write one line, at once."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "event": event, **facts}
        self.file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.file.flush()

    def pace(self, pace: Pace) -> None:
        """Write where a stage stands."""
        self.write(
            "progress",
            stage=pace.stage,
            done=pace.done,
            total=pace.total,
            seconds=round(pace.seconds, 3),
            rate=round(pace.rate, 4),
            left=None if pace.left is None else round(pace.left, 3),
        )


@contextmanager
def open_log(path: Path | None, ends: bool = True) -> Iterator[Log | None]:
    """A log that is appended to; None for no path. What ends the work early is written too.

    Args:
        path: of the log.
        ends: whether the end of this is the end of the work.

    Raises:
        InputError: where the file cannot be written.
    """
    if path is None:
        yield None
        return
    try:
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: the log cannot be written: {error.strerror}") from None
    with file:
        log = Log(file)
        try:
            yield log
        except BaseException as error:
            words = str(error) or type(error).__name__
            log.write("error", kind=type(error).__name__, message=words)
            raise
        if ends:
            log.write("end")


def clock(seconds: float) -> str:
    """Minutes and seconds, and hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


@dataclass
class Reporter:
    """Called with (stage, done, total); tells all sinks, and remembers how long stages took.

    Args:
        sinks: told the pace.
        after: stages are told of once they have taken so many seconds.
        seconds: how long each stage took. Of the time in which several are under way, what passes
            before a task ends is that task's stage's, so that all together are the whole time.
        totals: how many tasks each stage has.
    """

    sinks: list[Callable[[Pace], None]] = field(default_factory=list)
    after: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    _started: dict[str, float] = field(default_factory=dict)
    _under_way: set[str] = field(default_factory=set)
    _told: float = 0.0
    """When a report was last taken."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take a report."""
        now = time.monotonic()
        if done == 0 or stage not in self._started:
            self._started[stage], self.seconds[stage] = now, 0.0
            if self._under_way <= {stage}:
                self._told = now
        else:
            self.seconds[stage] += now - self._told
            self._told = now
        self.totals[stage] = total
        (self._under_way.discard if done >= total else self._under_way.add)(stage)
        seconds = now - self._started[stage]
        for sink in self.sinks if seconds >= self.after else ():
            sink(Pace(stage, done, total, seconds))


def _every(seconds: float, sink: Callable[[Pace], None]) -> Callable[[Pace], None]:
    """A sink that is told the end of each stage, and else only every so often."""
    told: dict[str, float] = {}

    def tell(pace: Pace) -> None:
        if pace.done == 0:
            told[pace.stage] = 0.0
        if pace.over or pace.seconds - told.setdefault(pace.stage, 0.0) >= seconds:
            told[pace.stage] = pace.seconds
            sink(pace)

    return tell


def _print(pace: Pace) -> None:
    print(f"{pace.stage}: {pace.words()}", file=sys.stderr, flush=True)


@contextmanager
def _bars() -> Iterator[Callable[[Pace], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:>10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:>9}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    bars = Bars(*columns, console=Console(stderr=True))
    rows: dict[str, Any] = {}

    def show(pace: Pace) -> None:
        if not rows:
            bars.start()  # before there is anything to show it would leave an empty line
        if pace.stage not in rows:
            rows[pace.stage] = bars.add_task(pace.stage, total=pace.total, rate="")
        rate = f"{pace.rate:.3g}/s" if pace.rate > 0 else ""
        bars.update(rows[pace.stage], completed=pace.done, total=pace.total, rate=rate)

    try:
        yield show
    finally:
        if rows:
            bars.stop()


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    if "IPython" not in sys.modules:
        return False
    from IPython.core.getipython import get_ipython

    return type(get_ipython()).__name__ == "ZMQInteractiveShell"


def _table() -> Callable[[Pace], None]:
    """A table below the notebook's cell, redrawn in place."""
    from IPython.display import HTML, display

    handles: list[Any] = []
    rows: dict[str, Pace] = {}

    def show(pace: Pace) -> None:
        rows[pace.stage] = pace
        table = HTML(table_of(list(rows.values())))
        if handles:
            handles[0].update(table)
        else:
            handles.append(display(table, display_id=True))

    return _every(TABLE_EVERY, show)


def table_of(paces: list[Pace]) -> str:
    """Stages as an HTML table with bars."""
    from html import escape

    lines = "".join(
        f"<tr><td>{escape(p.stage)}</td>"
        f"<td><progress value='{p.done}' max='{max(1, p.total)}'></progress></td>"
        f"<td>{escape(p.words())}</td></tr>"
        for p in paces
    )
    return f"<table>{lines}</table>"
