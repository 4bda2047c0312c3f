"""The door of the mesh: mesh.filestore.v1 Files and Blobs."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from mesh.filestore.v1 import blobs_pb2, blobs_pb2_grpc, files_pb2, files_pb2_grpc

from filestore import wire
from filestore.blobs import Blobs
from filestore.files import Files
from kit.errors import Invalid


class FilesServicer(files_pb2_grpc.FilesServicer):
    """Places for callers' files."""

    def __init__(self, files: Files) -> None:
        self._files = files

    async def CreateFile(self, request: files_pb2.CreateFileRequest, context: Any) -> files_pb2.CreateFileResponse:
        place = await self._files.create(
            request.organization_id, request.file_name, without_credit=request.without_credit
        )
        return wire.place_to_wire(place)


class BlobsServicer(blobs_pb2_grpc.BlobsServicer):
    """Bytes by digest."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def PutBlob(
        self, request: AsyncIterator[blobs_pb2.PutBlobRequest], context: Any
    ) -> blobs_pb2.PutBlobResponse:
        first = await anext(request, blobs_pb2.PutBlobRequest())
        return wire.stored_to_wire(await self._blobs.put(_data(first, request), lasting=first.lasting))

    async def GetBlob(
        self, request: blobs_pb2.GetBlobRequest, context: Any
    ) -> AsyncIterator[blobs_pb2.GetBlobResponse]:
        async with aclosing(self._blobs.get(request.digest)) as chunks:
            async for chunk in chunks:
                yield blobs_pb2.GetBlobResponse(data=chunk)

    async def StatBlob(self, request: blobs_pb2.StatBlobRequest, context: Any) -> blobs_pb2.StatBlobResponse:
        return blobs_pb2.StatBlobResponse(size=await self._blobs.size(request.digest))


async def _data(first: blobs_pb2.PutBlobRequest, rest: AsyncIterator[blobs_pb2.PutBlobRequest]) -> AsyncIterator[bytes]:
    """Errors: Invalid unless the last message, and only that one, says that all has been sent."""
    yield first.data
    whole = first.whole
    async for message in rest:
        if whole:
            raise Invalid("the blob goes on after its last message")
        yield message.data
        whole = message.whole
    if not whole:  # cancelled, perhaps: grpc ends the stream before the call
        raise Invalid("the blob ended before its last message")
