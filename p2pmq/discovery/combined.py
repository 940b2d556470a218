"""Several sources as one: all run at once, and none stops another.

Sightings pass through as they come. They are not made unique: a repeat is how
a source asks for another try.

Invariant: every source that was started is closed, also if others failed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from p2pmq.discovery.base import Announcement, Discovery, Found
from p2pmq.errors import UsageError

__all__ = ["CombinedDiscovery"]

logger = logging.getLogger(__name__)


class CombinedDiscovery:
    """Runs `sources` side by side; with none it is a discovery that finds nothing."""

    def __init__(self, sources: Sequence[Discovery]) -> None:
        self._sources = tuple(sources)

    async def start(self, announce: Announcement, found: Found) -> None:
        """Start all sources at once; one that fails is logged and the others go on.

        A `UsageError` is the caller's to mend, so it is raised, after the others are closed.
        """
        try:
            results = await asyncio.gather(
                *(source.start(announce, found) for source in self._sources),
                return_exceptions=True,
            )
        except asyncio.CancelledError:
            await self.close()
            raise
        for source, result in zip(self._sources, results, strict=True):
            if isinstance(result, UsageError):
                await self.close()
                raise result
            if result is not None:
                logger.warning(
                    "%s did not start (%s): the other sources of addresses go on without it",
                    type(source).__name__,
                    result,
                    exc_info=result,
                )

    async def close(self) -> None:
        """Close all sources at once; one that fails is logged and the others are closed."""
        results = await asyncio.gather(
            *(source.close() for source in self._sources), return_exceptions=True
        )
        for source, result in zip(self._sources, results, strict=True):
            if result is not None:
                logger.warning(
                    "%s did not close cleanly (%s): what it announced may linger until it expires",
                    type(source).__name__,
                    result,
                    exc_info=result,
                )
