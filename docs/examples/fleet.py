# %% [markdown]
# # A morning with a fleet
#
# Which homes share something with us, how was yesterday, and which inverter needs a look?
# Run it as it stands (`python docs/examples/fleet.py`), or cell by cell in an editor that knows `# %%`.
# `API` is the service's address, `TOKEN` a recipient's token with the scopes `read` and `export`, bound to one purpose.

# %%
import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from telemetry.client import Client

api = Client(os.environ["API"], os.environ["TOKEN"])
today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
week_ago, yesterday = today - timedelta(days=7), today - timedelta(days=1)

# %% [markdown]
# ## Who shares what
# Names are ours alone: another recipient sees the same home under another name. What is not shared is listed as such.

# %%
for site in api.fleet():
    kinds = "; ".join(f"{kind.kind}: {', '.join(each.field for each in kind.shared)}" for kind in site.kinds)
    print(f"{site.site}  {site.devices} devices  {kinds}")

# %% [markdown]
# ## Energy by day
# A window holds the mean power over what was measured of it. Hours that nothing was measured of are not there.

# %%
hours = api.series(week_ago, today, resolution="PT1H", fields=["ac_power_w"])
days = (
    hours.filter(pl.col("coverage") == "full")
    .group_by("device", pl.col("start").dt.date().alias("day"))
    .agg((pl.col("value").sum() / 1000).alias("kwh"))
    .sort("device", "day")
)
print(days.filter(pl.col("day") == yesterday.date()))

# %% [markdown]
# ## Which one made less than the others did
# Each inverter's yesterday as a share of its own usual day. Weather moves all homes of a region alike, so whoever lies
# far below the fleet's middle is not in the shade of a cloud.

# %%
usual = days.filter(pl.col("day") < yesterday.date()).group_by("device").agg(pl.col("kwh").median().alias("usual_kwh"))
shares = (
    days.filter(pl.col("day") == yesterday.date())
    .join(usual, on="device")
    .with_columns((pl.col("kwh") / pl.col("usual_kwh")).alias("share"))
    .with_columns((pl.col("share") / pl.col("share").median()).alias("of_fleet"))
)
suspects = shares.filter(pl.col("of_fleet") < 0.7).sort("of_fleet")
for device, of_fleet in suspects.select("device", "of_fleet").iter_rows():
    print(f"look at {device}: {of_fleet:.0%} of what the fleet did")

# %% [markdown]
# ## What it looks like now, and the whole week as a file

# %%
if not suspects.is_empty():
    print(api.latest(devices=suspects["device"].to_list(), fields=["ac_power_w"]).select("device", "end", "value"))
with tempfile.TemporaryDirectory() as folder:
    target = Path(folder) / "week.parquet"
    api.export(target, week_ago, today, "parquet", fields=["ac_power_w"])
    print(f"{pl.read_parquet(target).height} windows exported")

# %%
api.close()
