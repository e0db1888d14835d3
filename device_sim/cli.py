"""The command line: ``fleet`` simulates, ``replay`` publishes recordings, ``bluetooth`` prints advertisements.

Only arguments and output live here.
"""

import argparse
import asyncio
import json
import math
import signal
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from device_sim.dialects import DIALECTS
from device_sim.engine import load_credentials
from device_sim.faults import Faults
from device_sim.figures import Figures, Summary
from device_sim.formats import FORMATS
from device_sim.gateway import Delivery
from device_sim.link import Broker, Credential
from device_sim.mappings import find_mapping, shipped_mappings

_FLEET_EXAMPLES = """\
examples:
  python -m device_sim fleet --gateways 10 --speed 60 --duration 30
      ten homes, a minute a second, for half a minute
  python -m device_sim fleet --gateways 10 --messages-per-second 400 --duration 60 --ledger run.jsonl --json
      20,000 readings a second; what was published is in run.jsonl
  python -m device_sim fleet --credentials gateways.json --wait-watermark --outage 5:10 --duration 30
      enrolled gateways that keep every message until the service has committed it, offline from second 5 to 15
  python -m device_sim fleet --format opendtu --messages-per-second 20 --duration 30
      as OpenDTU says it, one value a topic; home-assistant, victron, shelly, tasmota, evcc … likewise
  python -m device_sim fleet --poison-share 0.02 --duplicate-share 0.05 --implausible-share 0.01 --duration 20
      what goes wrong in the field
"""
_REPLAY_EXAMPLES = """\
examples:
  python -m device_sim replay TAEFC1044741.csv.gz --mapping inverter-serials --username gw-0001 --password …
      a mapping of device_sim/mappings by name; the gateway is the broker user
  python -m device_sim replay day.csv --mapping my.toml --until now --limit 1000 --json
      the first 1000 readings, moved in time so that the last one is taken now

mappings that come with it: {mappings}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns 0, 1 where something was not acknowledged in the end, 2 for wrong arguments."""
    arguments = _parser().parse_args(argv)
    try:
        return int(asyncio.run(arguments.command(arguments)))
    except (ValueError, OSError) as error:
        print(f"device_sim: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m device_sim", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="fleet | replay | bluetooth")
    _add_fleet(commands)
    _add_replay(commands)
    _add_bluetooth(commands)
    return parser


def _add_fleet(commands: Any) -> None:
    command = commands.add_parser(
        "fleet",
        help="simulate homes and publish what their devices report",
        description="Simulate homes and publish what their devices report.",
        epilog=_FLEET_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(command=_fleet)
    homes = command.add_argument_group("homes")
    homes.add_argument("--gateways", type=int, default=1, metavar="N", help="without --credentials (default 1)")
    homes.add_argument("--gateway-prefix", default="gw-", metavar="TEXT", help="their names (default gw-0001 …)")
    homes.add_argument("--devices-per-home", type=int, default=6, metavar="N", help="default 6, one of each kind")
    homes.add_argument("--serial-prefix", default="", metavar="TEXT", help="in front of serials like INV00000042")
    homes.add_argument("--seed", type=int, default=0, help="everything follows from it (default 0)")
    homes.add_argument("--interval", type=float, metavar="S", help="between a device's readings (default: fits)")
    homes.add_argument("--start", type=datetime.fromisoformat, metavar="TIME", help="of the first reading, RFC 3339")
    pace = command.add_argument_group("pace")
    pace.add_argument("--speed", type=_speed, metavar="X", help="simulated per wall second, or max (default 1)")
    pace.add_argument("--messages-per-second", type=float, metavar="N", help="of the whole fleet, instead of --speed")
    pace.add_argument("--duration", type=float, metavar="S", help="wall seconds (default: until Ctrl-C)")
    pace.add_argument("--messages", type=int, metavar="N", help="at most so many, all gateways together")
    pace.add_argument("--outage-every", type=float, metavar="S", help="mean time between a gateway's outages")
    pace.add_argument("--outage-length", type=float, default=5.0, metavar="S", help="default 5")
    faults = command.add_argument_group("faults (shares from 0 to 1)")
    for name in ("duplicate", "poison", "implausible", "unlisted"):
        faults.add_argument(f"--{name}-share", type=float, default=0.0, metavar="P")
    _add_common(command, readings_per_message=50, formats=(*FORMATS, *DIALECTS))


def _add_replay(commands: Any) -> None:
    command = commands.add_parser(
        "replay",
        help="publish recordings as one or more gateways",
        description="Publish recordings as one or more gateways.",
        epilog=_REPLAY_EXAMPLES.format(mappings=", ".join(shipped_mappings())),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(command=_replay)
    command.add_argument("files", nargs="+", type=Path, metavar="FILE", help="csv, csv.gz")
    command.add_argument("--mapping", required=True, metavar="FILE|NAME", help="what the columns mean, TOML")
    command.add_argument("--gateway", metavar="NAME", help="instead of the mapping's (default: --username)")
    command.add_argument("--speed", type=_speed, default=math.inf, metavar="X", help="recorded per wall second")
    command.add_argument("--limit", type=int, metavar="N", help="only the first N readings of each file")
    command.add_argument("--until", type=_until, metavar="TIME|now", help="move times: the last reading lies there")
    _add_common(command, readings_per_message=200, formats=tuple(FORMATS))


def _add_common(command: argparse.ArgumentParser, *, readings_per_message: int, formats: Sequence[str]) -> None:
    broker = command.add_argument_group("broker")
    broker.add_argument("--host", default="127.0.0.1")
    broker.add_argument("--port", type=int, default=1883)
    broker.add_argument("--username", help="of the only gateway, and its name")
    broker.add_argument("--password")
    broker.add_argument(
        "--credentials", type=Path, metavar="FILE", help='JSON list of {"username", "password"}: a gateway each'
    )
    broker.add_argument("--tls", action="store_true", help="with the system's certificate authorities")
    broker.add_argument("--ca-file", type=Path, metavar="FILE")
    broker.add_argument("--cert-file", type=Path, metavar="FILE")
    broker.add_argument("--key-file", type=Path, metavar="FILE")
    delivery = command.add_argument_group("delivery")
    delivery.add_argument("--format", choices=[*formats, "mixed"], default="array")
    delivery.add_argument("--readings-per-message", type=int, default=readings_per_message, metavar="N")
    delivery.add_argument("--wait-watermark", action="store_true", help="keep each message until it is committed")
    delivery.add_argument("--window", type=int, default=100, metavar="N", help="unacknowledged at once (default 100)")
    delivery.add_argument("--outage", type=_outage, action="append", default=[], metavar="START:LENGTH")
    delivery.add_argument("--drain", type=float, default=60.0, metavar="S", help="wait for the rest (default 60)")
    output = command.add_argument_group("output")
    output.add_argument("--ledger", type=Path, metavar="FILE", help="log every message, as JSON lines")
    output.add_argument("--json", action="store_true", help="the summary as JSON on standard output")
    output.add_argument("--quiet", action="store_true", help="no live figures on standard error")


def _speed(text: str) -> float:
    speed = math.inf if text == "max" else float(text)
    if not speed > 0:
        raise argparse.ArgumentTypeError("must be positive, or max")
    return speed


def _until(text: str) -> datetime | None:
    value = datetime.now().astimezone() if text == "now" else datetime.fromisoformat(text)
    if value.tzinfo is None:
        raise argparse.ArgumentTypeError("needs an offset, as in 2026-05-01T12:00:00Z")
    return value


def _outage(text: str) -> tuple[float, float]:
    start, _, length = text.partition(":")
    return float(start), float(length)


def _credentials(arguments: argparse.Namespace) -> tuple[Credential, ...]:
    if arguments.credentials is not None:
        return load_credentials(arguments.credentials)
    if arguments.username is not None:
        return (Credential(arguments.username, arguments.password),)
    return ()


def _broker(arguments: argparse.Namespace) -> Broker:
    return Broker(
        host=arguments.host,
        port=arguments.port,
        tls=arguments.tls,
        ca_file=arguments.ca_file,
        cert_file=arguments.cert_file,
        key_file=arguments.key_file,
    )


def _delivery(arguments: argparse.Namespace) -> Delivery:
    return Delivery(
        wait_watermark=arguments.wait_watermark, window=arguments.window, outages=tuple(sorted(arguments.outage))
    )


async def _fleet(arguments: argparse.Namespace) -> int:
    stop = _on_signals()  # first: what follows takes seconds, and Ctrl-C meanwhile is an ordinary end too
    from device_sim import fleet  # pvlib, which only this command needs

    start: datetime | None = arguments.start
    if start is not None and start.tzinfo is None:
        raise ValueError("--start needs an offset, as in 2026-05-01T12:00:00Z")
    single = arguments.readings_per_message == 1 and arguments.format == "array"
    settings = fleet.FleetSettings(
        broker=_broker(arguments),
        credentials=_credentials(arguments),
        gateways=arguments.gateways,
        gateway_prefix=arguments.gateway_prefix,
        devices_per_home=arguments.devices_per_home,
        serial_prefix=arguments.serial_prefix,
        seed=arguments.seed,
        format="single" if single else arguments.format,
        readings_per_message=arguments.readings_per_message,
        interval_s=arguments.interval,
        start_s=None if start is None else start.timestamp(),
        speed=arguments.speed,
        messages_per_second=arguments.messages_per_second,
        duration_s=arguments.duration,
        messages=arguments.messages,
        faults=Faults(
            duplicate_share=arguments.duplicate_share,
            poison_share=arguments.poison_share,
            implausible_share=arguments.implausible_share,
            unlisted_share=arguments.unlisted_share,
        ),
        delivery=_delivery(arguments),
        outage_every_s=arguments.outage_every,
        outage_length_s=arguments.outage_length,
        ledger=arguments.ledger,
        drain_s=arguments.drain,
    )
    summary = await fleet.run(settings, progress=_live(arguments), stop=stop)
    return _finish(arguments, summary, {})


async def _replay(arguments: argparse.Namespace) -> int:
    stop = _on_signals()
    from device_sim import replay

    settings = replay.ReplaySettings(
        files=tuple(arguments.files),
        mapping=find_mapping(arguments.mapping),
        broker=_broker(arguments),
        credentials=_credentials(arguments),
        gateway=arguments.gateway,
        format=arguments.format,
        readings_per_message=arguments.readings_per_message,
        speed=arguments.speed,
        limit=arguments.limit,
        until=arguments.until,
        delivery=_delivery(arguments),
        ledger=arguments.ledger,
        drain_s=arguments.drain,
    )
    result = await replay.run(settings, progress=_live(arguments), stop=stop)
    return _finish(arguments, result.summary, result.expected.as_dict())


def _add_bluetooth(commands: Any) -> None:
    parser = commands.add_parser(
        "bluetooth", help="print advertisements of simulated Bluetooth devices, as JSON lines with their keys"
    )
    parser.add_argument("--seed", type=int, default=1, help="another seed, other devices")
    parser.add_argument("--count", type=int, default=3, help="frames of each device")
    parser.set_defaults(command=_bluetooth)


async def _bluetooth(arguments: argparse.Namespace) -> int:
    from device_sim.bluetooth import Shunt, home_devices

    devices = home_devices(arguments.seed)
    for second in range(arguments.count):
        for device in devices:
            found = device.advertise(float(second))
            told = {
                "format": "victron-ble" if isinstance(device, Shunt) else "bthome",
                "mac": found.address,
                "key": (device.key or b"").hex(),
                "advertisement": found.data.hex(),
                "values": found.values,
            }
            print(json.dumps(told))
    return 0


def _on_signals() -> asyncio.Event:
    """Set by the first Ctrl-C or SIGTERM: no more messages, then the rest is delivered."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop


def _live(arguments: argparse.Namespace) -> Any:
    if arguments.quiet:
        return None

    def show(figures: Figures) -> None:
        print(
            f"published {figures.published:,}  acknowledged {figures.acknowledged:,}"
            f"  buffered messages {figures.buffered_messages:,}  online {figures.gateways_online}",
            file=sys.stderr,
        )

    return show


def _finish(arguments: argparse.Namespace, summary: Summary, more: dict[str, Any]) -> int:
    values = more | summary.as_dict()
    if arguments.json:
        print(json.dumps(values))
    else:
        for name, value in values.items():
            print(f"{name.replace('_', ' '):24} {value:,}" if isinstance(value, int) else f"{name:24} {value}")
    return 0 if summary.complete else 1
