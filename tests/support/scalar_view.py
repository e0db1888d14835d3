"""What a recipient may see, in plain loops, from SEMANTICS.md (rules 10, 16 to 22) and decision 0030.

Shares no code with src/telemetry/privacy/combine.py: an instant is tried against every grant, a window against
every instant at which something could change. Grants are plain dictionaries:

    site, kinds (set or None), sites (set or None), classes, fields, rank, place, serial, extremes, history_us (or
    None), data_from_us, start_us, until_us (or None), active (bool), policy
"""

HOUR = 3_600_000_000
MINUTE = 60_000_000
WINDOW_MINUTES = {1: 1, 2: 15, 3: 30, 4: 60}
PLACES = ["withheld", "country", "region", "cell4", "cell5", "cell6", "cell7", "exact"]
SERIALS = ["withheld", "pseudonym", "real"]


def denied(grant, world):
    now = world["now_us"]
    if world["erased"] or world["closed"] or grant["policy"] in world["expired"]:
        return True
    for start, lifted in world["restrictions"]:
        if start <= now and (lifted is None or lifted > now):
            return True
    for purpose, recipient in world["objections"]:
        if purpose == world["purpose"] and recipient in (None, world["recipient"]):
            return True
    return False


def counts(grant, world):
    now = world["now_us"]
    if not grant["active"] or grant["start_us"] > now:
        return False
    if grant["until_us"] is not None and grant["until_us"] <= now:
        return False
    return not denied(grant, world)


def names_site(grant, site):
    return grant["sites"] is None or site in grant["sites"]


def names_kind(grant, kind):
    return grant["kinds"] is None or kind in grant["kinds"]


def names_field(grant, field, data_class):
    return field in grant["fields"] or data_class in grant["classes"]


def reaches(grant, instant, world):
    """Whether the grant covers this instant of the past."""
    now = world["now_us"]
    if instant >= now or instant < grant["data_from_us"]:
        return False
    if grant["history_us"] is not None and instant < now - grant["history_us"]:
        return False
    return all(not (a <= instant and (b is None or instant < b)) for a, b in world["restrictions"])


def covering(grants, world, site, kind):
    return [g for g in grants if counts(g, world) and names_site(g, site) and names_kind(g, kind)]


def place(grants, world, site):
    found = "withheld"
    for grant in grants:
        if counts(grant, world) and names_site(grant, site) and PLACES.index(grant["place"]) > PLACES.index(found):
            found = grant["place"]
    return found


def serial(grants, world, site, kind):
    found = "withheld"
    for grant in covering(grants, world, site, kind):
        if SERIALS.index(grant["serial"]) > SERIALS.index(found):
            found = grant["serial"]
    return found


def granted(grants, world, site, kind, field, data_class):
    return any(names_field(g, field, data_class) for g in covering(grants, world, site, kind))


def guard(window, aggregate, world):
    start, end = window
    if aggregate == "integral":
        start -= 5 * MINUTE
    if aggregate == "increment":
        start -= HOUR
        end += HOUR
    end = min(end, world["now_us"])
    if world["tenure"][0] is not None:
        start = max(start, world["tenure"][0])
    if world["tenure"][1] is not None:
        end = min(end, world["tenure"][1])
    return start, end


def own_days(grants, world, site, kind, field, data_class):
    """Rule 10, and no granted window is cut by a day's edge."""
    if PLACES.index(place(grants, world, site)) < PLACES.index("region"):
        return False
    for grant in covering(grants, world, site, kind):
        minutes = WINDOW_MINUTES.get(grant["rank"], 1)
        if names_field(grant, field, data_class) and world["align_min"] % minutes != 0:
            return False
    return True


def admits_window(grant, rank, grid, own):
    """Rule 20: the window is a multiple of the granted one, on the same grid."""
    if grant["rank"] > rank:
        return False
    if grid == "site" and not own:
        return False
    return grant["rank"] < 5 or grid == ("site" if own else "utc")


def visible(grants, world, site, kind, field, data_class, aggregate, rank, grid, window, extremes=False):
    """Whether the window of ``rank`` may be shown at ``now`` (whether it is over is asked elsewhere)."""
    start, end = guard(window, aggregate, world)
    if start >= end:
        return False
    if rank < 5:
        grid = "utc"
    own = own_days(grants, world, site, kind, field, data_class)
    helping = [
        g
        for g in covering(grants, world, site, kind)
        if names_field(g, field, data_class) and admits_window(g, rank, grid, own) and (g["extremes"] or not extremes)
    ]
    edges = {start}
    for g in helping:
        edges |= {g["data_from_us"], world["now_us"] - (g["history_us"] or 0)}
    for a, b in world["restrictions"]:
        edges |= {a, b if b is not None else a}
    instants = [edge for edge in edges if start <= edge < end] + [end - 1]
    return all(any(reaches(g, instant, world) for g in helping) for instant in instants)


def served_ranks(grants, world, site, kind, field, data_class, asked):
    """Rule 20: the coarser of asked and granted, for each resolution granted."""
    return sorted(
        {max(asked, g["rank"]) for g in covering(grants, world, site, kind) if names_field(g, field, data_class)}
    )


def shown(grants, world, site, kind, field, data_class, aggregate, asked, grid, rank, window, kept=False):
    """Whether a window of ``rank`` is part of the answer to ``asked``: visible, and not served finer.

    ``kept``: it is stored at this rank, so that nothing finer of it can be served.
    """
    ranks = served_ranks(grants, world, site, kind, field, data_class, asked)
    arguments = (grants, world, site, kind, field, data_class, aggregate)
    if not ranks or rank < ranks[0] or not visible(*arguments, rank, grid, window):
        return False
    if kept:
        return True
    return rank in ranks and not any(visible(*arguments, finer, grid, window) for finer in ranks if finer < rank)
