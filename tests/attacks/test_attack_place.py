"""Attacks on place: many reports averaged, many recipients colluding. The error stays flat in both.

A town of homes around one centre; an attacker knows every label a recipient is shown for a home, day after day while
homes come and go, and takes the finest one, its centre, or the mean of all centres.
"""

import math

import h3.api.basic_int as h3
import numpy as np
import pytest

from telemetry.privacy.labels import NEW, Population, Shown, labels_at, relabel
from telemetry.privacy.location import CELL_RADIUS_KM, cell_of

CENTRE = (48.2, 11.6)
HOMES, TARGETS, DAYS = 4_000, 200, 60
KM_A_DEGREE = 111.2


def distance_km(one, other):
    return h3.great_circle_distance(one, other, unit="km")


class Town:
    """Homes, most of them near the centre; the first ``TARGETS`` are granted to every recipient."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        radius = self.rng.exponential(8.0, HOMES)
        angle = self.rng.uniform(0, 2 * math.pi, HOMES)
        latitude = CENTRE[0] + radius * np.sin(angle) / KM_A_DEGREE
        longitude = CENTRE[1] + radius * np.cos(angle) / KM_A_DEGREE / math.cos(math.radians(CENTRE[0]))
        self.where = list(zip(latitude.tolist(), longitude.tolist(), strict=True))
        self.cells = np.array([cell_of(*one) for one in self.where], np.int64)

    def reports(self, granted: int, days: int, *, leaving: float = 0.0) -> list[list[int]]:
        """The labels of each target, one a day; each day a share of the other homes is away."""
        current = np.full(TARGETS, NEW, np.int8)
        told: list[list[int]] = [[] for _ in range(TARGETS)]
        for _ in range(days):
            there = self.rng.random(HOMES) >= leaving
            there[:TARGETS] = True
            shown = Shown(self.cells[:TARGETS], np.full(TARGETS, granted, np.int8), current)
            current = relabel(Population(self.cells[there]), shown)
            for target, label in enumerate(labels_at(self.cells[:TARGETS], current).tolist()):
                if label:
                    told[target].append(label)
        return told

    def errors_km(self, told: list[list[int]]) -> tuple[float, float]:
        """Median error of the mean of all centres, and of the finest label's centre."""
        mean, finest = [], []
        for target, labels in enumerate(told):
            if labels:
                centres = np.array([h3.cell_to_latlng(label) for label in labels])
                mean.append(distance_km(self.where[target], tuple(centres.mean(axis=0))))
                best = max(labels, key=h3.get_resolution)
                finest.append(distance_km(self.where[target], h3.cell_to_latlng(best)))
        assert len(mean) > TARGETS // 2
        return float(np.median(mean)), float(np.median(finest))


@pytest.fixture(scope="module")
def town() -> Town:
    return Town(7)


@pytest.mark.parametrize("granted", [4, 5, 6, 7])
def test_attack_averaging_many_reports(town: Town, granted: int):
    once = town.errors_km(town.reports(granted, 1))
    often = town.errors_km(town.reports(granted, DAYS))
    assert often == pytest.approx(once)


@pytest.mark.parametrize("granted", [5, 6])
def test_attack_averaging_while_homes_come_and_go(town: Town, granted: int):
    """Labels move with the population, but never below what was granted, so neither does the error."""
    moving = town.reports(granted, DAYS, leaving=0.3)
    assert any(len(set(labels)) > 1 for labels in moving) or granted == 5
    _, finest = town.errors_km(moving)
    # Uniform in a disc, the median distance from its centre is radius / √2.
    assert finest > 0.5 * CELL_RADIUS_KM[granted] / math.sqrt(2)
    assert max(h3.get_resolution(label) for labels in moving for label in labels) <= granted


@pytest.mark.parametrize("recipients", [2, 5, 20])
def test_attack_colluding_recipients(town: Town, recipients: int):
    """What all of them were shown together is what the one with the finest grant was shown."""
    grants = [4 + number % 3 for number in range(recipients)]
    told = [town.reports(granted, 1) for granted in grants]
    together = [[label for one in told for label in one[target]] for target in range(TARGETS)]
    _, finest = town.errors_km(together)
    alone = town.errors_km(town.reports(max(grants), 1))[1]
    assert finest == pytest.approx(alone)


def test_the_control_noise_on_coordinates_averages_out(town: Town):
    """The same attack on a fresh draw of noise for every report shrinks the error by the square root."""
    sigma_km = 9.0

    def error_km(reports: int) -> float:
        found = []
        for latitude, longitude in town.where[:TARGETS]:
            noise = town.rng.normal(0, sigma_km / KM_A_DEGREE, (reports, 2)).mean(axis=0)
            found.append(
                distance_km(
                    (latitude, longitude),
                    (latitude + noise[0], longitude + noise[1] / math.cos(math.radians(latitude))),
                )
            )
        return float(np.median(found))

    assert error_km(100) < 0.2 * error_km(1)


def test_the_control_labels_without_k_give_every_home_away(town: Town):
    """Cells shown as granted, whoever else is there: at resolution 7 many a target is alone in what is shown."""
    counts = {cell: int((town.cells == cell).sum()) for cell in set(town.cells[:TARGETS].tolist())}
    alone = sum(counts[cell] < 15 for cell in town.cells[:TARGETS].tolist())
    assert alone > TARGETS // 10
    levels = relabel(
        Population(town.cells),
        Shown(town.cells[:TARGETS], np.full(TARGETS, 7, np.int8), np.full(TARGETS, NEW, np.int8)),
    )
    shown = labels_at(town.cells[:TARGETS], levels)
    for label, level in zip(shown.tolist(), levels.tolist(), strict=True):
        if label:
            inside = sum(h3.cell_to_parent(cell, level) == label for cell in town.cells.tolist())
            finer = sum(
                other > level and h3.cell_to_parent(cell, level) == label
                for cell, other in zip(town.cells[:TARGETS].tolist(), levels.tolist(), strict=True)
            )
            assert inside - finer >= 15
