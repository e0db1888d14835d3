"""Stage ``advertisements``: Victron and BTHome frames to values, on one core, beside native JSON of the same values.

The limit is native JSON with one reading a message, whole batches of it; frames are read one by one, as they come.
"""

import os
from typing import Any

import orjson

from benchmarks.measure import CpuMeter, alternate, result
from device_sim.bluetooth import BTHOME, VICTRON, home_devices
from telemetry.codecs.bthome import decode_bthome
from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.registry import decode_batch
from telemetry.codecs.victron import decode_victron
from telemetry.model.batch import RawMessage

FRAMES = 500


def run(quick: bool) -> dict[str, Any]:
    """Measure; see the module. Rates in frames a second; a frame is a reading."""
    rounds = 5 if quick else 25
    shunt, plug = home_devices(1)
    address = bytes.fromhex(plug.address.replace(":", ""))
    told = [shunt.advertise(float(second)) for second in range(FRAMES)]
    metered = [plug.advertise(float(second)) for second in range(FRAMES)]
    victron = [one.manufacturer[VICTRON] for one in told]
    bthome = [one.services[BTHOME] for one in metered]
    native = [
        RawMessage("gw-0", "readings", orjson.dumps({"serial": "A", "kind": "battery", "ts": n, **one.values}), 0, 0)
        for n, one in enumerate(told)
    ]
    seconds = alternate(
        rounds,
        {
            "victron": lambda: [decode_victron(data, shunt.key) for data in victron],
            "bthome": lambda: [decode_bthome(data, plug.key, address) for data in bthome],
            "native": lambda: decode_batch(native, CodecLimits()),
        },
    )
    with CpuMeter({"decode": os.getpid()}) as meter:
        for data in victron:
            decode_victron(data, shunt.key)
    values = {"victron": sum(len(one.values) for one in told), "bthome": sum(len(one.values) for one in metered)}
    return result(
        readings_per_second=FRAMES / seconds["victron"],
        limit_per_second=FRAMES / seconds["native"],
        cpu_us_per_reading=meter.per_reading(FRAMES),
        **{
            name: {
                "frames_per_second": round(FRAMES / seconds[name]),
                "us_per_frame": round(seconds[name] / FRAMES * 1e6, 1),
                "us_per_value": round(seconds[name] / values[name] * 1e6, 1),
            }
            for name in values
        },
    )
