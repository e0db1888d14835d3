"""BTHome v2 advertisements (service data FCD2), their objects read by the library ``bthome-ble``.

    info | [address, reversed] | objects                                    in clear: bit 0 of info is 0
    info | [address, reversed] | AES-CCM of objects | counter u32 | tag     nonce: address + D2FC + info + counter

Source: https://bthome.io/format. Deciphering, the bounds of every object and their order are checked here: the library
takes the part of a broken frame that it understands, and accepts a counter that starts again. Here a frame is whole
or it is refused, and what no table lists is counted, whatever it is.
"""

import logging
from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

from telemetry.codecs.advertised import KEY_BYTES, MAX_FRAME_BYTES, Fault, Frame, Gathered
from telemetry.errors import ConfigurationError
from telemetry.model.fields import DeviceKind

UUID: Final = "0000fcd2-0000-1000-8000-00805f9b34fb"
COUNTER_BITS: Final = 32
ADDRESS_BYTES: Final = 6
_VERSION: Final = 2
_ENCRYPTED, _WITH_ADDRESS = 1, 2  # bits of info
_TAG_BYTES = _COUNTER_BYTES = 4
_SPOKEN: Final = frozenset({"raw", "string", "command"})  # formats that say their own length
_NOWHERE: Final = "00:00:00:00:00:00"  # what the library is told: the sender's address is none of its business

# By the library's name of a measurement, for what the device is said to be; the factor is to the catalogue's unit.
# A sensor's own battery, humidity, buttons, doors and motion are in no table: they would tell who is at home.
_METER: Final = MappingProxyType(
    {
        "power": ("ac_power_w", 1.0),
        "energy": ("energy_total_wh", 1000.0),
        "voltage": ("ac_voltage_v", 1.0),
        "current": ("ac_current_a", 1.0),
        "temperature": ("temperature_c", 1.0),
    }
)
# BTHome does not say which way a battery's current is positive: power and current of a battery are not taken.
_BATTERY: Final = MappingProxyType(
    {
        "voltage": ("battery_voltage_v", 1.0),
        "battery": ("battery_soc_pct", 1.0),
        "temperature": ("battery_temperature_c", 1.0),
    }
)
_TABLES: Final = MappingProxyType({DeviceKind.BATTERY: _BATTERY})


class Opened(NamedTuple):
    """A frame in clear: its objects, the counter of an encrypted one, whether the device's key opened it."""

    objects: bytes
    counter: int | None
    trusted: bool


def decode_bthome(data: bytes, key: bytes | None, address: bytes, kind: DeviceKind = DeviceKind.METER) -> Frame | Fault:
    """The frame in ``data``, the service data. ``address``: the sender's, 6 bytes. Pure; any thread.

    A frame in clear comes back with ``trusted`` false: the caller decides whether to take it.
    """
    opened = open_frame(data, key, address)
    if isinstance(opened, Fault):
        return opened
    measured = measure(opened.objects)
    if isinstance(measured, Fault):
        return measured
    found = Gathered()
    table = _TABLES.get(kind, _METER)
    for name, value in measured:
        field, factor = table.get(name, (None, 1.0))
        listed = field if isinstance(value, int | float) and not isinstance(value, bool) else None
        found.add(listed, value * factor if listed else 0.0, name)
    impossible = tuple(found.out_of_range())
    for field in impossible:
        del found.values[field]
    bits = COUNTER_BITS if opened.counter is not None else 0
    return Frame(kind, found.values, dict(found.unlisted), impossible, opened.counter, bits, opened.trusted)


def open_frame(data: bytes, key: bytes | None, address: bytes) -> Opened | Fault:
    """Check the envelope, and decipher."""
    if (fault := _envelope(data, address)) is not None:
        return fault
    info = data[0]
    body = data[1 + ADDRESS_BYTES :] if info & _WITH_ADDRESS else data[1:]
    if info & _ENCRYPTED:
        return _deciphered(info, body, key, address)
    if key is not None:
        return Fault.DOWNGRADED
    return Opened(body, None, trusted=False) if body else Fault.TRUNCATED


def _envelope(data: bytes, address: bytes) -> Fault | None:
    """What is wrong with length, version or the address in the frame."""
    fault = None
    if not data:
        fault = Fault.TRUNCATED
    elif len(data) > MAX_FRAME_BYTES:
        fault = Fault.EXTENDED
    elif data[0] >> 5 != _VERSION:
        fault = Fault.UNSUPPORTED
    elif data[0] & _WITH_ADDRESS:
        said = data[1 : 1 + ADDRESS_BYTES][::-1]
        if len(said) < ADDRESS_BYTES:
            fault = Fault.TRUNCATED
        elif said != address:
            fault = Fault.WRONG_KEY  # a key belongs to an address
    return fault


def _deciphered(info: int, body: bytes, key: bytes | None, address: bytes) -> Opened | Fault:
    if len(body) < 1 + _COUNTER_BYTES + _TAG_BYTES:
        return Fault.TRUNCATED
    if key is None:
        return Fault.NO_KEY
    if len(key) != KEY_BYTES:
        return Fault.WRONG_KEY
    sealed, counter, tag = body[:-8], body[-8:-4], body[-4:]
    nonce = b"".join((address, b"\xd2\xfc", bytes([info]), counter))
    try:
        objects = AESCCM(key, tag_length=_TAG_BYTES).decrypt(nonce, sealed + tag, None)
    except InvalidTag:
        return Fault.WRONG_KEY
    return Opened(objects, int.from_bytes(counter, "little"), trusted=True)


def measure(objects: bytes) -> list[tuple[str, Any]] | Fault:
    """Name and value of every object, in their order, units as BTHome has them; the rest of what is not known.

    The length of an unknown object is unknown as well, so everything behind it counts as one value.
    """
    known: list[bytes] = []
    unknown: list[tuple[str, Any]] = []
    for number, piece in _pieces(objects):
        if piece is None:
            return Fault.TRUNCATED
        if number < 0:
            unknown.append(("unknown_object", None))
        else:
            known.append(piece)
    named: list[tuple[str, Any]] = []
    for piece in known:
        read = _read(piece)
        if isinstance(read, Fault):
            return read
        named += read
    return named + unknown


def _pieces(objects: bytes) -> Iterator[tuple[int, bytes | None]]:
    """Each object with its number; (-1, rest) where nobody knows it, (number, None) where it is cut short."""
    kinds = _library().kinds
    at = 0
    while at < len(objects):
        number = objects[at]
        kind = kinds.get(number)
        if kind is None:
            yield -1, objects[at:]
            return
        start, length = at + 1, kind.data_length
        if kind.data_format in _SPOKEN:
            said = objects[start] if start < len(objects) else len(objects)
            start, length = at + 2, 1 + (said & 0x1F) if kind.data_format == "command" else said
        if start + length > len(objects):
            yield number, None
            return
        yield number, objects[at : start + length]
        at = start + length


def _read(piece: bytes) -> list[tuple[str, Any]] | Fault:
    """One object as the library names and scales it; an event or a text comes back without its content."""
    library = _library()
    device = library.device()
    try:
        update = device.update(library.advertisement(bytes([_VERSION << 5]) + piece))
    except (ValueError, IndexError, KeyError, ArithmeticError, AssertionError, UnicodeError):
        return Fault.MALFORMED
    values = [*update.entity_values.values(), *update.binary_entity_values.values()]
    found = [(value.device_key.key, value.native_value) for value in values]
    found = [(name, value) for name, value in found if name != "signal_strength"]
    return found or [("event", None)]


class _Library(NamedTuple):
    device: Any
    info: Any
    kinds: Mapping[int, Any]

    def advertisement(self, data: bytes) -> Any:
        """An advertisement as the library takes it, from nobody."""
        return self.info(
            name=_NOWHERE,
            address=_NOWHERE,
            rssi=0,
            manufacturer_data={},
            service_data={UUID: data},
            service_uuids=[UUID],
            source="",
            device=None,
            advertisement=None,
            connectable=False,
            time=0.0,
            tx_power=None,
        )


@cache
def _library() -> _Library:
    """What is used of the library.

    Raises:
        ConfigurationError: it is not installed.

    """
    try:
        from bthome_ble import BTHomeBluetoothDeviceData
        from bthome_ble.const import MEAS_TYPES
        from habluetooth import BluetoothServiceInfoBleak
    except ImportError:
        raise ConfigurationError(
            "BTHome advertisements need the library bthome-ble", remedy="pip install 'telemetry[ble]'"
        ) from None
    logging.getLogger("bthome_ble").disabled = True
    logging.getLogger("bthome_ble.parser").disabled = True  # it logs payloads
    return _Library(BTHomeBluetoothDeviceData, BluetoothServiceInfoBleak, MEAS_TYPES)
