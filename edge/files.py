"""/file: a place for an upload. The bytes themselves pass by this service (Envoy's route /files/)."""

from typing import Protocol

from edge.http import Answer, Request, json_answer
from edge.model import Upload
from kit.errors import Invalid

DEFAULT_NAME = "file"


class Files(Protocol):
    """The filestore."""

    async def create(self, organization_id: str, file_name: str, *, without_credit: bool) -> Upload:
        """Of the organization that pays. Errors: Invalid for a name that can't be one; Exhausted (payment_required)
        for one without credit, if storage costs any.
        """
        ...


class FileHandlers:
    """Handlers of mesh.edge.v1.Files."""

    def __init__(self, files: Files) -> None:
        self._files = files

    async def create(self, request: Request) -> Answer:
        """The published clients send no body, or the JSON `null`. What a run makes is its caller's to pay and to
        find room for, whoever it acts as; who has its addresses needs to be neither.
        """
        if (await request.read(1024)).strip() not in {b"", b"null", b"{}"}:
            raise Invalid("POST /file takes no body: PUT the bytes to the upload_uri of its answer")
        name = request.parameter("filename") or DEFAULT_NAME
        who = request.who
        spent = who.credit is not None and who.credit <= 0
        place = await self._files.create(who.caller_id, name, without_credit=spent)
        return json_answer(
            {
                "upload_uri": place.upload_uri,
                "download_uri": place.download_uri,
                "upload_headers": place.upload_headers,
            }
        )
