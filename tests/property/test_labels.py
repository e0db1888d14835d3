"""Rule 24: labels equal the scalar reference, and hold what the rule promises, over generated neighbourhoods."""

import h3.api.basic_int as h3
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from telemetry.privacy.labels import (
    DEFAULT_K,
    EXACT,
    NEW,
    SLACK,
    WITHHELD,
    Population,
    Shown,
    extend,
    labels_at,
    relabel,
)
from telemetry.privacy.location import parents
from tests.support.scalar_labels import extended, inside, relabelled, remainder

K, FINER = 3, 2


def neighbourhood():
    """Forty cells of resolution 7: at each level few children, so that counts meet the thresholds."""
    cells = [h3.latlng_to_cell(47.5, 11.5, 3), h3.latlng_to_cell(-33.1, 151.2, 3)]
    for resolution, count in ((4, 2), (5, 2), (6, 2), (7, 3)):
        cells = [child for cell in cells for child in h3.cell_to_children(cell, resolution)[:count]]
    return cells


CELLS = neighbourhood()
cell = st.sampled_from(CELLS)
site = st.tuples(cell, st.sampled_from([4, 5, 6, 7, EXACT]), st.sampled_from([WITHHELD, 3, 4, 5, 6, 7, EXACT, NEW]))
# All sites of the service, and the recipient's; a few of those are not counted (a tenure that ended).
world = st.tuples(st.lists(cell, max_size=40), st.lists(site, max_size=25), st.integers(0, 6)).map(
    lambda drawn: (everyone_of(drawn[0], drawn[1][drawn[2] :]), drawn[1])
)


def columns(sites):
    cells = np.array([one[0] for one in sites], np.int64)
    return Shown(cells, np.array([one[1] for one in sites], np.int8), np.array([one[2] for one in sites], np.int8))


def everyone_of(others, sites):
    return [*others, *(one[0] for one in sites)]


def population(everyone):
    return Population(np.array(everyone, np.int64))


@given(world)
def test_rule_24_labels_equal_the_scalar_reference(world):
    everyone, sites = world
    assert relabel(population(everyone), columns(sites), k=K, slack=FINER).tolist() == relabelled(
        everyone, sites, K, FINER
    )
    assert extend(population(everyone), columns(sites), k=K).tolist() == extended(everyone, sites, K)


def check_populations(everyone, sites, levels, k, *, labels=None):
    shown = dict(enumerate(levels))
    for i, level in shown.items():
        if WITHHELD < level < EXACT and (labels is None or i in labels):
            label = h3.cell_to_parent(sites[i][0], level)
            assert remainder(everyone, sites, shown, label, level) >= k


@given(world)
def test_rule_24_every_label_shown_has_k_sites_of_its_own(world):
    everyone, sites = world
    levels = relabel(population(everyone), columns(sites), k=K, slack=FINER).tolist()
    check_populations(everyone, sites, levels, K)
    for (_, granted, _), level in zip(sites, levels, strict=True):
        assert level <= granted
        assert (level == EXACT) == (granted == EXACT)


CROWD = [608540653328007167] * 5
PULLED = [
    *((CROWD[0], granted, WITHHELD) for granted in (4, 4, 4, 7, 7)),
    (608540653344784383, EXACT, WITHHELD),
    (CROWD[0], 4, 3),
]


@given(world)
@example((CROWD, PULLED))  # one that came to a sibling's coarser label became finer by it
def test_rule_24_a_site_becomes_finer_again_only_at_k_and_five(world):
    everyone, sites = world
    levels = relabel(population(everyone), columns(sites), k=K, slack=FINER).tolist()
    shown = dict(enumerate(levels))
    for i, (where, granted, current) in enumerate(sites):
        if granted != EXACT and current < levels[i]:
            label = h3.cell_to_parent(where, levels[i])
            assert remainder(everyone, sites, shown, label, levels[i]) >= K + FINER


@given(world)
def test_rule_24_within_a_day_labels_stay_and_keep_their_k(world):
    everyone, sites = world
    levels = extend(population(everyone), columns(sites), k=K).tolist()
    kept = {i for i, (_, granted, current) in enumerate(sites) if granted != EXACT and current <= granted}
    assert all(levels[i] == sites[i][2] for i in kept)
    check_populations(everyone, sites, levels, K, labels=set(range(len(sites))) - kept)
    before = {i: sites[i][2] if i in kept else None for i in range(len(sites))}
    before |= {i: EXACT for i, one in enumerate(sites) if one[1] == EXACT}
    for i in kept:
        if 3 <= levels[i] <= 7:
            label = h3.cell_to_parent(sites[i][0], levels[i])
            had = remainder(everyone, sites, before, label, levels[i])
            assert remainder(everyone, sites, dict(enumerate(levels)), label, levels[i]) >= min(K, had)


@given(world, st.randoms(use_true_random=False))
def test_rule_24_the_order_of_sites_changes_no_label(world, rng):
    everyone, sites = world
    order = list(range(len(sites)))
    rng.shuffle(order)
    mixed = [sites[i] for i in order]
    for assign in (lambda p, s: relabel(p, s, k=K, slack=FINER), lambda p, s: extend(p, s, k=K)):
        straight = assign(population(everyone), columns(sites))
        assert assign(population(everyone[::-1]), columns(mixed)).tolist() == straight[order].tolist()


@given(world)
def test_rule_24_a_second_run_changes_nothing(world):
    """Hysteresis may let a run improve on what it finds; where it found nothing, the next finds it as it is."""
    everyone, sites = world
    fresh = [(where, granted, NEW) for where, granted, _ in sites]
    levels = relabel(population(everyone), columns(fresh), k=K, slack=FINER).tolist()
    again = [(where, granted, level) for (where, granted, _), level in zip(sites, levels, strict=True)]
    assert extend(population(everyone), columns(again), k=K).tolist() == levels


@given(st.lists(cell, min_size=1, max_size=20), st.integers(3, 7))
def test_parents_and_labels_are_the_librarys(cells, resolution):
    expected = [h3.cell_to_parent(each, resolution) for each in cells]
    array = np.array(cells, np.int64)
    assert parents(array, resolution).tolist() == expected
    assert labels_at(array, np.full(len(cells), resolution, np.int8)).tolist() == expected
    assert labels_at(array, np.full(len(cells), WITHHELD, np.int8)).tolist() == [0] * len(cells)
    assert all(inside(one, label, resolution) for one, label in zip(cells, expected, strict=True))


@pytest.mark.parametrize(("others", "level"), [(14, 7), (13, WITHHELD)])
def test_rule_24_fifteen_sites_make_a_label(others, level):
    """One site of the recipient among ``others``, all in one cell: fifteen are enough, fourteen nowhere."""
    sites = [(CELLS[0], 7, NEW)]
    everyone = everyone_of([CELLS[0]] * others, sites)
    assert relabel(population(everyone), columns(sites)).tolist() == [level]
    assert DEFAULT_K == 15
    assert SLACK == 5


@pytest.mark.parametrize(("others", "level"), [(19, 7), (18, 4)])
def test_rule_24_twenty_sites_make_it_finer_again(others, level):
    sites = [(CELLS[0], 7, 4)]
    everyone = everyone_of([CELLS[0]] * others, sites)
    assert relabel(population(everyone), columns(sites)).tolist() == [level]


def test_rule_24_a_remainder_too_small_takes_its_siblings_along():
    """Two cells side by side, of 15 and of 2: the two leave a remainder of 2 in the parent, so all are shown there."""
    near, far = h3.cell_to_children(h3.cell_to_parent(CELLS[0], 6), 7)[:2]
    sites = [(near, 7, NEW)] * 15 + [(far, 7, NEW)] * 2
    assert relabel(population(everyone_of([], sites)), columns(sites)).tolist() == [6] * 17


def test_rule_24_below_k_at_resolution_3_nothing_is_shown():
    sites = [(CELLS[0], 5, NEW)] * 14
    assert relabel(population(everyone_of([], sites)), columns(sites)).tolist() == [WITHHELD] * 14


def test_rule_24_where_a_parent_has_less_than_its_children_all_go_on():
    """Fifteen in one cell are enough for its label; three exact places that are counted no more undercut the parent."""
    near, far = h3.cell_to_children(h3.cell_to_parent(CELLS[0], 6), 7)[:2]
    sites = [(near, 7, NEW)] * 15 + [(far, 6, NEW)] + [(far, EXACT, NEW)] * 3
    everyone = [near] * 15 + [far]
    levels = relabel(population(everyone), columns(sites)).tolist()
    assert levels == [WITHHELD] * 16 + [EXACT] * 3
    assert levels == relabelled(everyone, sites, DEFAULT_K, SLACK)


def test_an_empty_service_has_no_labels():
    empty = columns([])
    assert relabel(population([]), empty).tolist() == []
    assert extend(population([]), empty).tolist() == []
