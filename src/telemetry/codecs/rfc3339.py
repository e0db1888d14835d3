"""Instants as microseconds since 1970 UTC: RFC 3339 text or integer milliseconds.

The vectorised reader understands the same language as the scalar one, and says so where it does not: what it
leaves out goes to the scalar reader.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np

from telemetry.codecs.words import I64, U64, Bools, all_digits

_U = np.uint64
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MICROSECONDS: Final = 1_000_000
_MAX_MS: Final = (2**63 - 1) // 1000
_LONGEST: Final = 64

# RFC 3339, section 5.6; a lower-case t or z and a space for the T are allowed there
_TIMESTAMP: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)


def instant_us(value: object) -> int | None:
    """``value`` of a reading's time as µs since 1970 UTC, or None where it is not one.

    Text follows RFC 3339 with any offset; digits beyond the sixth decimal are cut off. Numbers are whole
    milliseconds. A leap second (``:60``) is not accepted: no clock in use shows one.
    """
    if isinstance(value, str):
        return _text_us(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    return int(value) * 1000 if abs(value) <= _MAX_MS else None


def _text_us(text: str) -> int | None:
    match = _TIMESTAMP.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        return None
    *civil, fraction, sign, hours, minutes = match.groups()
    offset_s = 0
    if sign:
        if int(hours) > 23 or int(minutes) > 59:
            return None
        offset_s = (int(hours) * 60 + int(minutes)) * 60 * (-1 if sign == "-" else 1)
    try:
        local = datetime(*map(int, civil), tzinfo=UTC)  # type: ignore[arg-type,misc]
    except ValueError:
        return None
    micros = int((fraction or "0")[:6].ljust(6, "0"))
    return (local - _EPOCH) // _MICROSECOND + micros - offset_s * _MICROSECONDS


_DATE: Final = _U(int.from_bytes(b"0000-00-", "little"))
_DAY_AND_MINUTE: Final = _U(int.from_bytes(b"00T00:00", "little"))
_TO_SECOND: Final = _U(int.from_bytes(b"0:00:00\0", "little"))
_DATE_MARKS: Final = _U(0xFF0000FF00000000)
_DAY_AND_MINUTE_MARKS: Final = _U(0x0000FF0000FF0000)
_SECOND: Final = _U(0x00FFFFFFFFFFFFFF)
_SECOND_MARKS: Final = _U(0x000000FF0000FF00)
_FRACTION: Final = _U(int.from_bytes(b"00000000", "little"))
_OFFSET: Final = _U(int.from_bytes(b"\0\0+00:00", "little"))
_OFFSET_SIGN: Final = _U(0x0000000000FF0000)
_OFFSET_MARKS: Final = _U(0x0000FF0000000000)
_MINUS: Final = _U((ord("-") ^ ord("+")) << 16)
_ZULU: Final = ord("Z")
_POINT: Final = ord(".")
_SHORTEST: Final = 20  # 2026-05-01T12:00:00Z


def _two(digits: U64, at: int) -> I64:
    """The two-digit number whose first digit is byte ``at`` of a word of digits."""
    tens, ones = (digits >> _U(8 * at)) & _U(15), (digits >> _U(8 * at + 8)) & _U(15)
    return (tens * _U(10) + ones).view(np.int64)


def texts_us(w: U64, start: I64, end: I64) -> tuple[I64, Bools]:
    """Read RFC 3339 texts ``[start, end)``; returns µs since 1970 UTC and whether each was understood.

    Understood is the usual part of the language: upper-case T and Z, offsets, at most nine decimals.
    """
    length = end - start
    date = w[start] ^ _DATE
    time = w[start + 8] ^ _DAY_AND_MINUTE
    second = (w[start + 12] ^ _TO_SECOND) & _SECOND
    ok = length >= _SHORTEST
    ok &= all_digits(date) & all_digits(time) & all_digits(second)
    ok &= ((date & _DATE_MARKS) | (time & _DAY_AND_MINUTE_MARKS) | (second & _SECOND_MARKS)) == 0
    year = _two(date, 0) * 100 + _two(date, 2)
    month, day = _two(date, 5), _two(time, 0)
    hour, minute, seconds = _two(time, 3), _two(time, 6), _two(second, 5)
    ok &= (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1)
    ok &= (hour <= 23) & (minute <= 59) & (seconds <= 59)
    first, following = _months(year, month)
    ok &= day <= following - first
    at = (((first + day - 1) * 24 + hour) * 60 + minute) * 60 + seconds
    at *= _MICROSECONDS
    plain = (length == _SHORTEST) & (_last(w, end) == _ZULU)
    rest = np.flatnonzero(ok & ~plain)
    if rest.size:
        micros, understood = _suffix_us(w, start[rest] + 19, end[rest])
        at[rest] += micros
        ok[rest] = understood
    return at, ok


def _last(w: U64, end: I64) -> I64:
    return (w[end - 8] >> _U(56)).view(np.int64)


def _months(year: I64, month: I64) -> tuple[I64, I64]:
    """Days from 1970-01-01 to the first of each month and of the next, in the Gregorian calendar."""
    months = (year - 1970) * 12 + month - 1
    if months.size and (months == months[0]).all():  # as in most batches
        months = months[:1]
    first, following = (
        each.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) for each in (months, months + 1)
    )
    return first, following


def _suffix_us(w: U64, start: I64, end: I64) -> tuple[I64, Bools]:
    """What follows the seconds: optional decimals, then Z or an offset. Microseconds to add."""
    zulu = _last(w, end) == _ZULU
    zone = w[end - 8] ^ _OFFSET
    sign = zone & _OFFSET_SIGN
    # the two bytes before the offset belong to the seconds or decimals
    digits = zone & _U(0xFFFFFFFFFF000000)
    hours, minutes = _two(digits, 3), _two(digits, 6)
    zone_ok = all_digits(digits) & ((digits & _OFFSET_MARKS) == 0) & ((sign == 0) | (sign == _MINUS))
    zone_ok &= (hours <= 23) & (minutes <= 59)
    offset_s = np.where(zulu, 0, (hours * 60 + minutes) * 60)
    offset_s[sign == _MINUS] *= -1
    places = end - np.where(zulu, 1, 6) - start - 1  # -1: no decimals; 0: a point and nothing after it
    point = (w[start] & _U(255)) == _POINT
    ok = (zulu | zone_ok) & ((places == -1) | (point & (places >= 1) & (places <= 9)))
    micros, decimals_ok = _decimals_us(w, start + 1, places)
    ok &= decimals_ok
    return micros - offset_s * _MICROSECONDS, ok


def _decimals_us(w: U64, start: I64, places: I64) -> tuple[I64, Bools]:
    """Up to nine decimals as microseconds, the rest cut off."""
    micros = np.zeros(start.size, np.int64)
    ok = np.ones(start.size, np.bool_)
    for at in range(9):
        here = places > at
        digit = ((w[start + at] & _U(255)).view(np.int64) - ord("0")) * here
        ok &= (digit >= 0) & (digit <= 9)
        if at < 6:
            micros += digit * 10 ** (5 - at)
    return micros, ok
