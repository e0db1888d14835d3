"""The golden cases of tests/golden (docs/ADDING-A-FORMAT.md) as messages to change and decode again."""

import base64
import json
from pathlib import Path
from typing import Any

from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.registry import decode_remembering, forgetful
from telemetry.model.batch import RawMessage

ROOT = Path(__file__).parent.parent / "golden"
RECEIVED_US = 1_777_636_800_000_000
LIMITS = CodecLimits()
IDENTITY = {"message", "serial", "kind", "ts"}


def cases(*formats: str) -> list[Path]:
    """The folders of these formats' cases."""
    return [path.parent for name in formats for path in sorted((ROOT / name).glob("*/messages.jsonl"))]


def load(case: Path) -> list[dict[str, Any]]:
    """A case's messages, without restarts."""
    lines = [json.loads(line) for line in (case / "messages.jsonl").read_text().splitlines() if line.strip()]
    return [line for line in lines if not line.get("restart")]


def payload(message: dict[str, Any]) -> bytes:
    if "json" in message:
        return json.dumps(message["json"], separators=(",", ":")).encode()
    return base64.b64decode(message["base64"]) if "base64" in message else message.get("text", "").encode()


def raw(message: dict[str, Any]) -> RawMessage:
    return RawMessage(
        "gw-golden", message["topic"], payload(message), 0, RECEIVED_US, retained=message.get("retained", False)
    )


def told(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """What comes of these messages in one batch: rows and counts."""
    decoded = decode_remembering([raw(message) for message in messages], LIMITS, forgetful).decoded
    return {
        "rows": [
            {name: value for name, value in row.items() if value is not None}
            for row in decoded.rows.iter_rows(named=True)
        ],
        "unlisted": dict(decoded.unlisted),
        "place": dict(decoded.place),
        "implausible": dict(decoded.implausible),
        "withheld": {reason.value: count for reason, count in decoded.withheld_rows.items()},
        "rejected": [[one.message, one.reason.value, one.readings, one.detail] for one in decoded.rejections],
    }
