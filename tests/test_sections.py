"""Which section is registered to which."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaicreg import InputError
from mosaicreg.sections import nearest_section, registration_tree

GOLDEN = [
    # sections, adjacent, center, root, children
    ([4, 7, 10, 12, 20, 30], 1, 19, 20, {7: [4], 10: [7], 12: [10], 20: [12, 30]}),
    ([1, 2, 3, 4], 2, None, 2, {2: [1, 3, 4], 3: [4]}),
    ([1, 2, 3, 4, 5], 2, 3, 3, {2: [1], 3: [1, 2, 4, 5], 4: [5]}),
    (range(1, 8), 1, 4, 4, {2: [1], 3: [2], 4: [3, 5], 5: [6], 6: [7]}),
    ([8], 2, None, 8, {}),
    ([], 2, None, None, {}),
]


@pytest.mark.row("I1 trees")
@pytest.mark.row("I2")
@pytest.mark.parametrize(("sections", "adjacent", "center", "root", "children"), GOLDEN)
def test_trees_of_known_stacks(sections, adjacent, center, root, children) -> None:
    tree = registration_tree(sections, adjacent, center)
    assert tree.root == root
    assert tree.children == {fixed: tuple(moving) for fixed, moving in children.items()}
    assert len(tree) == len(list(sections))


@pytest.mark.row("I1 trees")
def test_a_stack_without_sections_is_empty() -> None:
    tree = registration_tree([])
    assert (tree.root, tree.sections, tree.mappings, len(tree)) == (None, (), (), 0)


@given(
    st.sets(st.integers(-50, 500), min_size=1, max_size=30),
    st.integers(1, 4),
    st.none() | st.floats(-100, 600),
    st.sets(st.integers(-50, 500), max_size=5),
)
def test_laws_of_every_tree(sections, adjacent, center, leaf_only) -> None:
    trunk = sections - leaf_only
    if not trunk:
        sections = trunk = {501}
    tree = registration_tree(sections, adjacent, center, leaf_only)
    assert set(tree.sections) == sections | leaf_only
    assert tree.root in trunk
    placed = {tree.root}
    for fixed, moving in tree.mappings:
        assert fixed in placed, "a section is registered to one that is not placed yet"
        assert abs(fixed - tree.root) < abs(moving - tree.root)
        placed.add(moving)
    assert placed == set(tree.sections)
    assert not leaf_only & set(tree.children)
    for moving, fixed in tree.controls.items():
        between = [s for s in trunk if min(moving, tree.root) <= s <= max(moving, tree.root)]
        between = sorted((s for s in between if s != moving), key=lambda s: abs(s - moving))
        assert list(fixed) == between[:adjacent]


def test_a_section_that_only_hangs_on_others() -> None:
    tree = registration_tree([1, 2, 4, 5], adjacent=1, center=5, leaf_only=[3])
    assert tree.children == {2: (1,), 4: (2, 3), 5: (4,)}
    assert tree.mappings == ((5, 4), (4, 3), (4, 2), (2, 1))


def test_the_nearest_section_stands_for_one_that_is_missing() -> None:
    assert nearest_section([10, 20, 30], 24) == 20
    assert nearest_section([10, 20, 30], 25) == 20
    assert registration_tree([10, 20, 30], center=99).root == 30


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="at least one"):
        registration_tree([1, 2], adjacent=0)
    with pytest.raises(InputError, match="whole"):
        registration_tree([1, 2.5])
    with pytest.raises(InputError, match="none to be registered to"):
        registration_tree([], leaf_only=[3])
    with pytest.raises(InputError, match="no sections"):
        nearest_section([], 3)


def test_trees_are_values() -> None:
    tree = registration_tree([1, 2, 3])
    assert tree == registration_tree([3, 2, 1])
    assert hash(tree) == hash(registration_tree([3, 2, 1]))
    assert pickle.loads(pickle.dumps(tree)) == tree
    with pytest.raises(TypeError):
        tree.controls[1] = (3,)
