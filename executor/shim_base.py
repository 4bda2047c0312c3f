"""A process that has the usual frameworks of an environment loaded: its templates are forked from it, and share them.

Standard library only, beside shim.py in the sandbox. It runs nobody's script and knows no secret, only what the
environment's packages do when they are imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import shim_template  # type: ignore[import-not-found]  # it lies beside us in the sandbox
import shim_warm  # type: ignore[import-not-found]


def stand_apart() -> None:
    """Goes on as pid 3: templates are pid 1 and slots pid 2, and a fork with another pid than its parent's draws other
    random numbers (bubblewrap.py).
    """
    if child := os.fork():
        shim_template.be_init(child)


def serve(control: Any, modules: Iterable[str], ours: logging.Handler) -> None:
    """Loads what there is of these, and waits for forks; returns in each template. `ours` is to have no part in it."""
    for module in modules:
        with suppress(Exception):  # then a template fails that needs it, and says so
            if importlib.util.find_spec(module) is not None:
                importlib.import_module(module)
    if (uvicorn := sys.modules.get("uvicorn")) is not None:
        with suppress(Exception):
            config = uvicorn.Config(_app, log_config=None)
            config.load()
            shim_warm.touch_once(config.loaded_app)
        logging.getLogger("uvicorn.error").removeHandler(ours)
    shim_template.Template(control, base=True).serve(lambda content: control.send(b"R", content), lambda _: None)


async def _app(scope: Any, receive: Any, send: Any) -> None:
    """Nobody's."""
