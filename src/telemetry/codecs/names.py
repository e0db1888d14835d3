"""Names on the wire: which identify a reading, which the catalogue lists, which may be printed."""

import re
from typing import Final

from telemetry.model.fields import FIELD_NAMES

IDENTITY: Final = ("serial", "kind", "ts")
LISTED: Final = frozenset((*IDENTITY, *FIELD_NAMES))

_PRINTABLE: Final = re.compile(r"(?!.*[0-9]{4})[a-z][a-z0-9_.]{0,40}")


def safe_name(name: str) -> str:
    """``name`` where it looks like a field's name, else ``<name>``: senders put serials into names too."""
    return name if _PRINTABLE.fullmatch(name) else "<name>"
