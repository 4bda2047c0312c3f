"""The groups of commands."""

from typing import Any

from typer.core import TyperGroup

_USUAL = {"list": "ls", "get": "show", "delete": "rm", "remove": "rm"}


class Group(TyperGroup):
    """`workflows`, `secrets` and so on. What other command lines call `list` or `delete` works, too."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = super().get_command(ctx, cmd_name)
        return found or super().get_command(ctx, _USUAL.get(cmd_name, cmd_name))
