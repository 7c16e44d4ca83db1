"""Which section of a stack is registered to which: a tree whose root stays where it is.

Sections are numbers along the stack, with gaps where some are missing. Each is registered to the
next ones nearer to the centre, so errors add up over the fewest steps, and to more than one, so
that a bad section breaks no chain.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mosaicreg.errors import InputError


@dataclass(frozen=True)
class RegistrationTree:
    """A stack's sections and which of them each one is registered to. Immutable.

    Args:
        root: the section that stays where it is; None where there is no section.
        controls: for every other section, ascending, the sections that it is registered to, the
            nearest first.
    """

    root: int | None
    controls: Mapping[int, tuple[int, ...]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "controls", MappingProxyType(dict(self.controls)))

    def __reduce__(self) -> tuple[Any, ...]:
        return RegistrationTree, (self.root, dict(self.controls))

    @property
    def sections(self) -> tuple[int, ...]:
        """All sections, ascending."""
        return () if self.root is None else tuple(sorted((self.root, *self.controls)))

    @property
    def children(self) -> Mapping[int, tuple[int, ...]]:
        """For every section that others are registered to, those others, ascending."""
        found: dict[int, tuple[int, ...]] = {}
        for moving in sorted(self.controls):
            for fixed in self.controls[moving]:
                found[fixed] = (*found.get(fixed, ()), moving)
        return MappingProxyType(dict(sorted(found.items())))

    @property
    def mappings(self) -> tuple[tuple[int, int], ...]:
        """(fixed, moving) pairs to register, in an order that has every fixed section placed first.

        From the root outwards, first down the stack and then up.
        """
        if self.root is None:
            return ()
        below = [s for s in reversed(self.sections) if s < self.root]
        above = [s for s in self.sections if s > self.root]
        return tuple((f, moving) for moving in (*below, *above) for f in self.controls[moving])

    def __len__(self) -> int:
        return 0 if self.root is None else 1 + len(self.controls)

    def __hash__(self) -> int:
        return hash((self.root, tuple(self.controls.items())))


def registration_tree(
    sections: Iterable[int],
    adjacent: int = 2,
    center: float | None = None,
    leaf_only: Iterable[int] = (),
) -> RegistrationTree:
    """Register every section to the sections next to it that are nearer to the centre.

    Args:
        sections: numbers, in any order; those given twice count once.
        adjacent: to how many; fewer beside the root.
        center: the section nearest to it is the root, the lower one of two as near. None: the
            middle one of the sections.
        leaf_only: further sections that no other is registered to, as damaged ones.

    Raises:
        InputError: for ``adjacent`` below 1, numbers that are not whole, or leaf-only sections
            without any other.
    """
    if adjacent < 1:
        raise InputError(f"a section is registered to at least one other, not to {adjacent}")
    leaves = _whole(leaf_only)
    trunk = sorted(_whole(sections) - leaves)
    if not trunk:
        if leaves:
            raise InputError(f"the sections {sorted(leaves)} have none to be registered to")
        return RegistrationTree(None, {})
    middle = trunk[(len(trunk) - 1) // 2]
    root = middle if center is None else nearest_section(trunk, center)
    controls = {}
    for moving in sorted(leaves.union(trunk) - {root}):
        place = bisect_left(trunk, moving)
        if moving < root:
            start = place + (trunk[place] == moving)
            nearer = [s for s in trunk[start : start + adjacent] if s <= root]
        else:
            nearer = [s for s in trunk[max(0, place - adjacent) : place] if s >= root][::-1]
        controls[moving] = tuple(nearer)
    return RegistrationTree(root, controls)


def nearest_section(sections: Iterable[int], number: float) -> int:
    """The section nearest to a number; the lower one of two as near.

    Raises:
        InputError: where there is none.
    """
    nearest = min(sections, key=lambda s: (abs(s - number), s), default=None)
    if nearest is None:
        raise InputError(f"there is no section near {number}: no sections are given")
    return nearest


def _whole(numbers: Iterable[int]) -> set[int]:
    found = list(numbers)
    bad = [n for n in found if n != int(n)]
    if bad:
        raise InputError(f"section numbers are whole, not {bad[:5]}")
    return {int(n) for n in found}
