"""Bluetooth devices that an owner lets be listened to, and why a frame of theirs is not taken."""

import re
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from telemetry.model.fields import DeviceKind

KEY_BYTES: Final = 16  # AES-128, both formats
ADDRESS_BYTES: Final = 6
_ADDRESS: Final = re.compile(r"[0-9A-F]{2}(:[0-9A-F]{2}){5}")


class Fault(StrEnum):
    """Why an advertisement is not taken. Stable names: they are metric labels."""

    FOREIGN = "foreign"  # not of this format
    TRUNCATED = "truncated"
    EXTENDED = "extended"  # more bytes than the format can have
    MALFORMED = "malformed"
    UNSUPPORTED = "unsupported"  # a version or kind of record that nobody here knows
    NO_KEY = "no_key"  # encrypted, and no key was given
    WRONG_KEY = "wrong_key"
    DOWNGRADED = "downgraded"  # in clear, although the device has a key: somebody pretends to be it
    UNTRUSTED = "untrusted"  # in clear: anybody in range could have sent it
    IMPLAUSIBLE = "implausible"  # an impossible value in a format that has no checksum
    REPLAYED = "replayed"  # its counter is below the highest one seen


class BleFormat(StrEnum):
    """How a device tells its values."""

    VICTRON = "victron-ble"
    BTHOME = "bthome"
    GATT = "gatt"  # a battery that is connected to


@dataclass(frozen=True, slots=True)
class BleDevice:
    """A device that may be listened to. What identifies it does not show in repr().

    ``generation``: grows when the device is added anew, which starts its counter anew.
    """

    address: bytes = field(repr=False)
    format: BleFormat
    key: bytes | None = field(default=None, repr=False)
    kind: DeviceKind | None = None
    generation: int = 0

    @property
    def serial(self) -> str:
        """What the device is called where serials are: its address. It is sealed with them."""
        return shown_address(self.address)


@dataclass(slots=True)
class Heard:
    """What became of advertisements since this was made. Counts of frames.

    ``untrusted``: the part of ``taken`` that nobody had authenticated, where that is allowed.
    ``strangers``: of devices that nobody registered, whose content was not looked at. ``missed``: numbers that never
    arrived. ``repeated``: with a number known already. ``thinned``: sooner than the interval allows. ``empty``:
    without a listed value. ``values_unlisted``: values withheld within frames.
    """

    taken: int = 0
    untrusted: int = 0
    strangers: int = 0
    missed: int = 0
    repeated: int = 0
    thinned: int = 0
    empty: int = 0
    values_unlisted: int = 0
    refused: Counter[Fault] = field(default_factory=Counter)


def shown_address(address: bytes) -> str:
    """An address as people write it."""
    return ":".join(f"{byte:02X}" for byte in address)


def parsed_address(text: str) -> bytes | None:
    """The six bytes of an address in text; None where it is none (macOS gives identifiers of its own)."""
    upper = text.strip().upper().replace("-", ":")
    return bytes.fromhex(upper.replace(":", "")) if _ADDRESS.fullmatch(upper) else None
