"""Calls without a key."""

from edge.http import Request
from edge.model import Principal


class Nobody:
    """edge.auth.Openness where no workflow is open."""

    async def principal(self, _request: Request) -> Principal | None:
        return None
