"""Opens real serials and exact places for a view, through the registry: each look is in the owner's audit."""

from collections.abc import Mapping, Sequence

from telemetry.privacy.keys import Purpose
from telemetry.store.administration import Administration


class RegistryOpener:
    """A naming.VaultOpener. One event loop; the administration is used by one caller at a time."""

    def __init__(self, administration: Administration) -> None:
        self._administration = administration

    async def serials(self, subjects: Sequence[tuple[int, int]]) -> Mapping[int, str]:
        """Device key → serial. Raises as ``Administration.reveal``."""
        return await self._administration.reveal(Purpose.DEVICE_SERIAL, subjects)

    async def coordinates(self, subjects: Sequence[tuple[int, int]]) -> Mapping[int, tuple[float, float]]:
        """Site key → latitude and longitude. Raises as ``Administration.reveal``."""
        opened = await self._administration.reveal(Purpose.SITE_COORDINATES, subjects)
        found = {}
        for site, text in opened.items():
            latitude, longitude = text.split(",")
            found[site] = (float(latitude), float(longitude))
        return found
