"""`telemetry decode` for Bluetooth advertisements: one frame in hex, with the key of its device."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from telemetry.errors import InputError

if TYPE_CHECKING:
    from telemetry.codecs.advertised import Fault, Frame

ADVERTISEMENTS: Final = ("victron-ble", "bthome")
_SPACES: Final = re.compile(r"[\s:]+")


def given_key(key: str | None, file: Path | None) -> bytes | None:
    """The key given on the command line or in a file.

    Raises:
        InputError: both, or not 32 hexadecimal digits. What was given is not repeated.

    """
    if key is not None and file is not None:
        raise InputError("--key and --key-file are both given", remedy="give one of them")
    if file is not None:
        try:
            key = file.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not hexadecimal"
            raise InputError(f"cannot read the key file: {reason}") from None
    if key is None:
        return None
    found = _unhex(key)
    if found is None or len(found) != 16:
        raise InputError("the key is not 32 hexadecimal digits", remedy="copy it from the maker's app")
    return found


def decoded_frame(payload: bytes, format_: str, *, key: bytes | None, mac: str | None) -> dict[str, Any]:
    """What `telemetry decode` tells about one advertisement.

    Raises:
        InputError: the frame is not hexadecimal, or bthome lacks the address.

    """
    from telemetry.codecs.advertised import Fault

    data = _unhex(payload.decode("ascii", "replace"))
    if data is None:
        raise InputError("the advertisement is not in hexadecimal digits")
    found = _read(data, format_, key, mac)
    told: dict[str, Any] = {"rows": [], "unlisted": {}, "implausible": {}, "withheld_rows": {}, "rejections": []}
    if isinstance(found, Fault):
        return told | {"rejections": [{"reason": found.value, "readings": 1, "detail": ""}]}
    row = {"serial": "<serial 1>", "kind": found.kind.label, "ts": None, **found.values}
    return told | {
        "rows": [row] if found.values else [],
        "withheld_rows": {} if found.values else {"unlisted": 1},
        "unlisted": dict(found.unlisted),
        "place": {},  # neither format carries any
        "implausible": dict.fromkeys(found.implausible, 1),
        "trusted": found.trusted,
        "counter": found.counter,
    }


def _read(data: bytes, format_: str, key: bytes | None, mac: str | None) -> "Frame | Fault":
    from telemetry.codecs.bthome import decode_bthome
    from telemetry.codecs.victron import decode_victron

    if format_ == "victron-ble":
        return decode_victron(data, key)
    address = None if mac is None else _unhex(mac)
    if address is None or len(address) != 6:
        raise InputError("bthome needs the device's address", remedy="--mac AA:BB:CC:DD:EE:FF")
    return decode_bthome(data, key, address)


def _unhex(text: str) -> bytes | None:
    try:
        return bytes.fromhex(_SPACES.sub("", text))
    except ValueError:
        return None
