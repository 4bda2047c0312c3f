"""What starts user code on this host: the second half of the composition root."""

import os
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from executor import host, shim_landlock, wire
from executor import tier as tiers
from executor.driver import BubblewrapDriver, open_driver
from executor.egress.gate import Internet
from executor.environments import Environments
from executor.gvisor_check import GvisorCheck
from executor.gvisor_driver import GvisorDriver, open_gvisor
from executor.imports import Imports
from executor.inspect import Inspect
from executor.none_driver import NoneDriver, open_none
from executor.preload import Preload
from executor.sandbox import Driver
from executor.self_check import SelfCheck, refuse_open
from executor.settings import Settings
from executor.spawner_client import Launched
from executor.syntax import Syntax
from executor.templates import Templates, open_templates
from executor.tier import Tier
from executor.validate import SecretNames, Validate
from kit.clock import Clock
from kit.settings import BadSettings, read_key

_TOKEN_LASTS = timedelta(minutes=5)


@dataclass(frozen=True)
class Sandboxes:
    """The driver, and what is built by it."""

    driver: Driver
    environments: host.Environments
    validate: Validate
    # Where drivers fork templates.
    templates: Templates | None = None


async def open_sandboxes(
    settings: Settings,
    stack: AsyncExitStack,
    secrets: SecretNames,
    launched: Launched | None,
    clock: Clock,
    internet: Internet,
) -> Sandboxes:
    """`launched` is the spawner that `__main__` started. Errors: Unavailable when this host can't confine as it should;
    BadSettings.
    """
    enter = stack.enter_async_context
    imports = _imports(settings, clock, internet)
    starter: BubblewrapDriver | NoneDriver
    match settings.isolation:
        case "none":
            starter, tier = await _none(settings, stack, launched)
        case "gvisor":
            starter, tier = await _gvisor(settings, stack, launched)
        case _:
            starter, tier = await _bubblewrap(settings, stack, launched, imports)
    tiers.announce(tier, settings.run_dir)
    environments = Environments(settings.home, starter.programs, settings.environ, settings.package_hosts)
    stack.push_async_callback(environments.close)
    syntax = Syntax(settings.home, starter.programs, environments.interpreters)
    driver: Driver = starter
    templates = preloading = None
    if isinstance(starter, BubblewrapDriver):
        templates = await enter(open_templates(starter, clock, settings.start_seconds, settings.template_bytes))
        driver, preloading = templates, Preload(templates)
    validate = Validate(
        environments,
        syntax,
        secrets,
        Inspect(starter, imports),
        default=settings.limits,
        most=settings.most,
        preloading=preloading,
    )
    return Sandboxes(driver, environments, validate, templates)


def _imports(settings: Settings, clock: Clock, internet: Internet) -> Imports:
    """Errors: BadSettings."""
    key = read_key(settings.key_file("mesh"))
    nested, nested_tls = settings.run_dir / "nested.sock", settings.run_dir / "nested-tls.sock"
    return Imports(internet, clock, nested, nested_tls, lambda: wire.to_nobody(key, clock.now() + _TOKEN_LASTS))


async def _bubblewrap(
    settings: Settings, stack: AsyncExitStack, launched: Launched | None, imports: Imports
) -> tuple[BubblewrapDriver, Tier]:
    """Errors: Unavailable, which names what is missing."""
    driver = await stack.enter_async_context(open_driver(settings.home, settings.public_url, launched, imports))
    spawner = driver.spawner
    landlock = shim_landlock.VERSION >= 2
    check = SelfCheck(driver, settings.home, spawner.pid, cgroups=not spawner.no_cgroups, landlock=landlock)
    checked = await refuse_open(check)
    return driver, tiers.of_bubblewrap(os.getuid(), spawner.no_cgroups, checked.no_slots)


async def _gvisor(settings: Settings, stack: AsyncExitStack, launched: Launched | None) -> tuple[GvisorDriver, Tier]:
    """Errors: Unavailable, which names what is missing."""
    driver = await stack.enter_async_context(open_gvisor(settings.home, settings.public_url, launched))
    spawner = driver.spawner
    await refuse_open(GvisorCheck(driver, settings.home, spawner.pid, cgroups=not spawner.no_cgroups))
    return driver, tiers.of_gvisor(os.getuid(), spawner.no_cgroups, driver.runsc.complaint(datetime.now(UTC).date()))


async def _none(settings: Settings, stack: AsyncExitStack, launched: Launched | None) -> tuple[NoneDriver, Tier]:
    """Errors: BadSettings where strangers reach us."""
    if not settings.is_local:
        raise BadSettings(
            [f"RUNMESH_ISOLATION=none is refused on {settings.host}: anybody there could take over this host"]
        )
    return await stack.enter_async_context(open_none(settings.home, launched)), tiers.NONE
