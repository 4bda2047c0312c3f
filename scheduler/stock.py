"""The library (SPEC §7): the files of a directory, deployed as the system's workflows whenever one of them has changed.

It goes on beside the service until all are there: an executor may come later, the package index may be out of reach.
"""

import asyncio
import hashlib
from pathlib import Path

from kit.clock import Clock
from kit.errors import NotFound, Problem
from kit.telemetry import log
from scheduler.catalog import Catalog, Change
from scheduler.deploy import Deploy, Deployment
from scheduler.library import text_of
from scheduler.workflow import SYSTEM, Visibility

FIRST_SECONDS = 1.0
LONGEST_SECONDS = 300.0


class Stock:
    """`directory` holds a workflow a file; its name is the service id. Folders in it hold what they share."""

    def __init__(self, directory: Path, deploy: Deploy, catalog: Catalog, clock: Clock) -> None:
        self._directory = directory
        self._deploy = deploy
        self._catalog = catalog
        self._clock = clock

    async def run(self) -> None:
        """Until everything is deployed, however long that takes; then for ever idle."""
        seconds = FIRST_SECONDS
        while not await self.once():
            await self._clock.sleep(seconds)
            seconds = min(2 * seconds, LONGEST_SECONDS)
        await asyncio.Event().wait()

    async def once(self) -> bool:
        """Whether all of it is as it should be."""
        files = sorted(self._directory.glob("*.py"))
        waiting: dict[str, list[str]] = {}
        done = all([await self._stocked(file, waiting) for file in files])
        for reason, services in waiting.items():  # a line for each would fill the screen of a first start
            log().warning("library.waiting", services=services, reason=reason)
        return done

    async def _stocked(self, file: Path, waiting: dict[str, list[str]]) -> bool:
        service_id = file.stem
        try:
            code = text_of(file, self._directory)
            if not await self._is_served(service_id, code):
                deployed = await self._deploy(Deployment(SYSTEM, code, service_id, service_id, preload=False))
                log().info("library.deployed", service_id=service_id, version=deployed.number)
            await self._share(service_id)
        except Problem as problem:
            waiting.setdefault(problem.message, []).append(service_id)
            return False
        except Exception as error:  # noqa: BLE001  # another scheduler was faster, say; runs go on without the library
            log().error("library.failed", service_id=service_id, exc_info=error)
            return False
        return True

    async def _is_served(self, service_id: str, code: str) -> bool:
        try:
            _, version = await self._catalog.resolve(SYSTEM, service_id)
        except NotFound:
            return False
        return version.source_digest == hashlib.sha256(code.encode()).hexdigest()

    async def _share(self, service_id: str) -> None:
        workflow, _ = await self._catalog.get(SYSTEM, service_id)
        if workflow.visibility is not Visibility.PUBLIC:
            await self._catalog.update(SYSTEM, service_id, Change(visibility=Visibility.PUBLIC))
