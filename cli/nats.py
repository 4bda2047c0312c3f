"""The nats-server of `runmesh up`: who may speak to it, and what to.

The mesh and each service of the library that keeps something have an account of their own. An account's subjects,
streams and inboxes are no other account's: whoever has the password of one can't name anything of another.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

MESH = "MESH"
API = "$JS.API.STREAM"


@dataclass(frozen=True)
class Keeper:
    """A service of the library with a bucket of its own. `may`: the subjects that it may publish to, and no other;
    `hears`: those that it may subscribe to, besides answers to what it asks.
    """

    name: str
    may: tuple[str, ...]
    hears: tuple[str, ...] = ()

    @property
    def account(self) -> str:
        return self.name.upper()

    @property
    def setting(self) -> str:
        """Where it is told its address."""
        return f"RUNMESH_{self.account}_NATS_URL"


def _bucket(name: str) -> tuple[str, ...]:
    stream = "*" if name == "*" else f"KV_{name}"
    return (f"{API}.CREATE.{stream}", f"{API}.UPDATE.{stream}", f"{API}.MSG.GET.{stream}", f"$KV.{name}.>")


KEEPERS = (
    Keeper("redis_coordinator", (*_bucket("*"), f"{API}.PURGE.*")),  # it has a bucket for each organization
    Keeper("user_login", _bucket("user_login")),
    Keeper(
        "chrome_extension",
        (*_bucket("chrome_extension"), f"{API}.PURGE.KV_chrome_extension", "wake.>", "done.>"),
        hears=("wake.>", "done.>"),
    ),
)


def address(port: int, user: str, password: str) -> str:
    """What a client connects to."""
    return f"nats://{user}:{password}@127.0.0.1:{port}"


def write_config(file: Path, store: Path, port: int, mesh: str, keepers: dict[str, str]) -> None:
    """Not arguments but a file: passwords are in it. `mesh`: the mesh's own; `keepers`: each one's, by its name."""
    _keep_what_was(store)
    with open(file, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as config:
        config.write(
            f'listen: "127.0.0.1:{port}"\n'
            # Strings are quoted as JSON's are.
            f"jetstream {{ store_dir: {json.dumps(str(store), ensure_ascii=False)} }}\n"
            f"max_payload: 1MB\naccounts {{\n{_account(MESH, 'mesh', mesh)}"
        )
        for keeper in KEEPERS:
            permissions = {
                "publish": {"allow": keeper.may},
                "subscribe": {"allow": [f"_INBOX_{keeper.name}.>", *keeper.hears]},
            }
            config.write(_account(keeper.account, keeper.name, keepers[keeper.name], permissions))
        config.write("}\n")


def _account(name: str, user: str, password: str, permissions: dict[str, object] | None = None) -> str:
    login: dict[str, object] = {"user": user, "password": password}
    login |= {"permissions": permissions} if permissions else {}
    return f"  {name} {{ jetstream: enabled, users: [{json.dumps(login)}] }}\n"


def _keep_what_was(store: Path) -> None:
    """Before there were accounts, the mesh's streams lay in the one that is there anyway."""
    before, now = store / "jetstream" / "$G", store / "jetstream" / MESH
    if before.exists() and not now.exists():
        before.rename(now)
