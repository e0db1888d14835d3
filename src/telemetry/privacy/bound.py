"""What binding hands to the core: a decoded frame and whom each row belongs to."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from telemetry.model.fields import DeviceKind
from telemetry.privacy.plan import Plan


@dataclass(frozen=True, slots=True, repr=False)
class Unknown:
    """A device nobody has enrolled yet. ``serial`` is in clear: seal it, and never log this object.

    ``kind`` is the first that the batch gives for it, None where the format does not say.
    """

    gateway_key: int
    site_key: int
    owner_key: int
    serial: str
    serial_blind: bytes
    kind: DeviceKind | None


@dataclass(frozen=True, slots=True)
class Bound:
    """A decoded frame of n rows and m messages, and whom each row belongs to. A snapshot: later changes of the
    registry do not reach it, and the plan is the one that its plan classes belong to.

    ``device_key``: int64[n], 0 where the row is bound to no device. ``plan_class``: int32[n].
    ``unknown_gateway``, ``revoked``, ``announced_only``: bool[m]; ``backfill_us``, ``tenure_from_us``: int64[m]; by
    message.
    ``unknown``: devices to enrol; bind again afterwards.
    """

    rows: pl.DataFrame
    plan: Plan
    device_key: npt.NDArray[np.int64]
    plan_class: npt.NDArray[np.int32]
    unknown_gateway: npt.NDArray[np.bool_]
    revoked: npt.NDArray[np.bool_]
    announced_only: npt.NDArray[np.bool_]
    backfill_us: npt.NDArray[np.int64]
    tenure_from_us: npt.NDArray[np.int64]
    unknown: tuple[Unknown, ...] = ()
