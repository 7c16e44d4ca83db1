"""Errors meant for people: what is wrong, where, with which numbers, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

SHOWN = 20
"""How many problems a message lists before it only counts the rest."""


class InputError(ValueError):
    """Something about the input cannot work. All problems found are gathered in one error.

    Args:
        headline: one sentence that says what cannot be done.
        problems: one line each, with the file or tile they are about.
    """

    def __init__(self, headline: str, problems: Iterable[str] = ()) -> None:
        self.headline = headline
        self.problems = tuple(problems)
        super().__init__(headline, self.problems)

    def __str__(self) -> str:
        lines = [self.headline, *(f"  - {p}" for p in self.problems[:SHOWN])]
        if len(self.problems) > SHOWN:
            lines.append(f"  ... and {len(self.problems) - SHOWN} more")
        return "\n".join(lines)

    @classmethod
    def together(cls, errors: Sequence[InputError]) -> InputError:
        """One error that says all that ``errors`` say."""
        if len(errors) == 1:
            return errors[0]
        headline = "; ".join(e.headline for e in errors)
        return cls(headline, (problem for e in errors for problem in e.problems))


@contextmanager
def gathered_into(errors: list[InputError]) -> Iterator[None]:
    """Keep an `InputError` in ``errors``, so that the next check can add to it."""
    try:
        yield
    except InputError as error:
        errors.append(error)


class ImageError(ValueError):
    """One image file cannot be used; the message names the file and the reason."""


class StoppedError(Exception):
    """The work stopped before its end, through no fault of the input, and can go on later."""


class StorageError(StoppedError):
    """The output cannot be written now; the message says where and why."""


class MissingExtraError(ImportError):
    """An optional package is not installed; the message says how to install it."""


def missing_extra(package: str, extra: str, purpose: str) -> MissingExtraError:
    """The error to raise where an optional package is not installed."""
    return MissingExtraError(
        f'{purpose} needs {package}: python -m pip install "mosaicreg[{extra}]"', name=package
    )
