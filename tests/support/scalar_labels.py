"""Rule 24 site by site, with the h3 library and dictionaries: what privacy.labels is held to. Shares no code with it.

A site is (cell of resolution 7, granted, current); levels are 3 to 7, 2 withheld, 8 exact, 9 none yet.
"""

import h3.api.basic_int as h3

WITHHELD, EXACT, NEW = 2, 8, 9


def inside(cell, label, resolution):
    return h3.cell_to_parent(cell, resolution) == label


def remainder(everyone, sites, shown, label, resolution):
    """All sites of the service in ``label``, less the recipient's that are shown finer within it."""
    total = sum(inside(cell, label, resolution) for cell in everyone)
    finer = sum(
        inside(sites[i][0], label, resolution) and level is not None and level > resolution
        for i, level in shown.items()
    )
    return total - finer


def relabelled(everyone, sites, k, slack):
    shown = {i: EXACT if granted == EXACT else None for i, (_, granted, _) in enumerate(sites)}
    for resolution in (7, 6, 5, 4, 3):
        waiting = [i for i, level in shown.items() if level is None and sites[i][1] >= resolution]
        decided = {}
        for label in {h3.cell_to_parent(sites[i][0], resolution) for i in waiting}:
            here = [i for i in waiting if inside(sites[i][0], label, resolution)]
            finer_again = [i for i in here if sites[i][2] < resolution]
            others = [i for i in here if i not in finer_again]
            left = remainder(everyone, sites, shown, label, resolution)
            if left >= k + slack:
                decided |= dict.fromkeys(here, resolution)
            elif left >= k:
                decided |= dict.fromkeys(others, resolution)
            elif others:
                siblings = [
                    i
                    for i, level in shown.items()
                    if level is not None and resolution < level < EXACT and inside(sites[i][0], label, resolution)
                ]
                without = {i: level for i, level in shown.items() if i not in siblings}
                gathered = remainder(everyone, sites, without, label, resolution)
                too_soon = [i for i in siblings if sites[i][2] < resolution and gathered < k + slack]
                if gathered >= k:
                    decided |= dict.fromkeys([*others, *siblings], resolution) | dict.fromkeys(too_soon)
                else:
                    decided |= dict.fromkeys(siblings)
        shown |= decided
    return [WITHHELD if level is None else level for level in shown.values()]


def extended(everyone, sites, k):
    shown, kept = {}, set()
    for i, (_, granted, current) in enumerate(sites):
        shown[i] = EXACT if granted == EXACT else current if current <= granted else None
        if granted != EXACT and current <= granted:
            kept.add(i)
    for resolution in (7, 6, 5, 4, 3):
        waiting = [i for i, level in shown.items() if level is None and sites[i][1] >= resolution]
        fitting = [
            i
            for i in waiting
            if remainder(everyone, sites, shown, h3.cell_to_parent(sites[i][0], resolution), resolution) >= k
        ]
        starving = set()
        for coarser in range(3, resolution):
            for label in {h3.cell_to_parent(sites[i][0], coarser) for i in kept if shown[i] == coarser}:
                taken = [i for i in fitting if inside(sites[i][0], label, coarser)]
                spare = max(0, remainder(everyone, sites, shown, label, coarser) - k)
                if len(taken) > spare:
                    starving.update(taken)
        shown |= dict.fromkeys([i for i in fitting if i not in starving], resolution)
    return [WITHHELD if level is None else level for level in shown.values()]
