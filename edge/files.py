"""/file: a place for an upload. The bytes themselves pass by this service (Envoy's route /files/)."""

from typing import Protocol

from edge.http import Answer, Request, json_answer
from edge.model import Upload
from kit.errors import Invalid

DEFAULT_NAME = "file"


class Files(Protocol):
    """The filestore."""

    async def create(self, organization_id: str, file_name: str) -> Upload:
        """Errors: Invalid for a name that can't be one."""
        ...


class FileHandlers:
    """Handlers of mesh.edge.v1.Files."""

    def __init__(self, files: Files) -> None:
        self._files = files

    async def create(self, request: Request) -> Answer:
        """The published clients send no body, or the JSON `null`."""
        if (await request.read(1024)).strip() not in {b"", b"null", b"{}"}:
            raise Invalid("POST /file takes no body: PUT the bytes to the upload_uri of its answer")
        name = request.parameter("filename") or DEFAULT_NAME
        place = await self._files.create(request.who.organization_id, name)
        return json_answer(
            {
                "upload_uri": place.upload_uri,
                "download_uri": place.download_uri,
                "upload_headers": place.upload_headers,
            }
        )
