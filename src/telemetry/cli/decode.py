"""`telemetry decode`: what the service would make of a message, without a service."""

import json
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from telemetry.cli.common import JsonOption, reported
from telemetry.cli.decode_frame import ADVERTISEMENTS, decoded_frame, given_key


def decode(
    file: Annotated[str, typer.Argument(help="File that holds one payload; - is standard input.")],
    format_: Annotated[
        str,
        typer.Option(
            "--format", help="Name of the format; one that does not exist lists them. victron-ble, bthome: hex."
        ),
    ],
    topic: Annotated[str | None, typer.Option(help="Topic below gw/<gateway>/; the format's own without.")] = None,
    key: Annotated[str | None, typer.Option(help="Key of a Bluetooth device, hex. Shows in the process list.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="File that holds the key, hex.")] = None,
    mac: Annotated[str | None, typer.Option(help="Address of the Bluetooth device: bthome needs it.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the rows, what is withheld, and what is rejected and why. Identifiers appear as placeholders.

    Example: telemetry decode --format native-json reading.json
    Example: telemetry decode --format victron-ble --key-file shunt.key - < advertisement.hex
    """
    with reported():
        payload = _payload(file)
        if format_ in ADVERTISEMENTS:
            told = decoded_frame(payload, format_, key=given_key(key, key_file), mac=mac)
        else:
            told = _decoded(payload, format_, topic)
        if as_json:
            typer.echo(json.dumps(told))
        else:
            _show(told)
    if told["rejections"]:
        raise typer.Exit(1)


def _payload(file: str) -> bytes:
    from telemetry.errors import InputError

    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the file: {error.strerror}") from None


def _decoded(payload: bytes, format_: str, topic: str | None) -> dict[str, Any]:
    from telemetry.codecs.limits import CodecLimits
    from telemetry.codecs.names import safe_name
    from telemetry.codecs.registry import CODEC_BY_NAME, decode_as
    from telemetry.errors import InputError
    from telemetry.model.batch import RawMessage
    from telemetry.privacy.identifiers import Scrubber
    from telemetry.privacy.known import KnownIdentifiers

    row = CODEC_BY_NAME.get(format_)
    if row is None:
        raise InputError("there is no such format", remedy=f"one of {', '.join((*CODEC_BY_NAME, *ADVERTISEMENTS))}")
    if topic is not None and not row.claims_topic(topic):
        raise InputError("the format does not read this topic", remedy=f"it reads {', '.join(row.topics)}")
    if topic is None and set(row.topics[0]) & set("+#"):
        raise InputError("the format needs --topic", remedy=f"it reads {', '.join(row.topics)}")
    message = RawMessage("gateway", topic or row.topics[0], payload, 0, time.time_ns() // 1000)
    found = decode_as(format_, [message], CodecLimits()).decoded
    known = KnownIdentifiers(found.rows["serial"].drop_nulls().unique().to_list())
    scrub = Scrubber(known)
    return {
        "rows": _rows(found.rows),
        "unlisted": _counted(
            (known.replaced(safe_name(name), "<name>"), count) for name, count in found.unlisted.items()
        ),
        "place": _counted((known.replaced(safe_name(name), "<name>"), count) for name, count in found.place.items()),
        "implausible": dict(found.implausible),
        "withheld_rows": {reason.value: count for reason, count in found.withheld_rows.items()},
        "rejections": [
            {"reason": one.reason.value, "readings": one.readings, "detail": scrub(one.detail)}
            for one in found.rejections
        ],
    }


def _counted(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The counts by name: several names may have become one placeholder."""
    total: dict[str, int] = {}
    for name, count in counts:
        total[name] = total.get(name, 0) + count
    return total


def _rows(rows: Any) -> list[dict[str, Any]]:
    """Rows as JSON takes them: serials by number, kinds by name, times in RFC 3339."""
    from datetime import UTC, datetime, timedelta

    from telemetry.model.fields import DeviceKind

    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    numbers: dict[str, int] = {}
    told = []
    for row in rows.iter_rows(named=True):
        number = numbers.setdefault(row["serial"], len(numbers) + 1)
        kind, ts = row["kind"], row["ts"]
        try:
            time_text = None if ts is None else (epoch + timedelta(microseconds=ts)).isoformat()
        except OverflowError:
            time_text = f"{ts} µs since 1970"
        told.append(
            {
                "serial": f"<serial {number}>",
                "kind": None if kind is None else DeviceKind(kind).label,
                "ts": time_text,
                **{
                    name: value
                    for name, value in row.items()
                    if value is not None and name not in {"message", "serial", "kind", "ts"}
                },
            }
        )
    return told


def _show(told: Mapping[str, Any]) -> None:
    for row in told["rows"]:
        values = "  ".join(f"{name}={value}" for name, value in row.items() if name not in {"serial", "kind", "ts"})
        typer.echo(f"{row['serial']}  {row['kind'] or '-'}  {row['ts'] or 'time of receipt'}  {values}")
    for title, counts in (
        ("not listed, withheld", told["unlisted"]),
        ("place, withheld", told["place"]),
        ("implausible, dropped", told["implausible"]),
        ("readings withheld", told["withheld_rows"]),
    ):
        for name, count in counts.items():
            typer.echo(f"{title}: {name} ({count})")
    if told.get("trusted") is False:
        typer.echo("not authenticated: anybody in range could have sent it; not taken unless ble.untrusted = true")
    for one in told["rejections"]:
        detail = f": {one['detail']}" if one["detail"] else ""
        typer.echo(f"rejected: {one['reason']}, {one['readings']} readings{detail}")
