"""The composition root."""

from contextlib import AsyncExitStack
from datetime import timedelta

from mesh.filestore.v1 import blobs_pb2_grpc, files_pb2_grpc

from filestore.addresses import Addresses
from filestore.backend import Backend
from filestore.blobs import Blobs
from filestore.charge import Charge
from filestore.clients import LedgerClient
from filestore.disk import DiskBackend
from filestore.files import Files
from filestore.http import app
from filestore.http_server import http_server
from filestore.quota import Quota
from filestore.rpc import BlobsServicer, FilesServicer
from filestore.s3 import MOST_BLOB_BYTES, MOST_FILE_BYTES, S3Backend
from filestore.settings import Settings
from filestore.storage_store import SqlStorage
from filestore.store import SqlFileStore
from filestore.sweep import sweep, sweep_blobs
from kit.clock import Clock, SystemClock
from kit.db import open_db
from kit.lifecycle import background
from kit.rpc_client import connect
from kit.rpc_server import RpcServer
from kit.settings import BadSettings, read_key


async def build(
    settings: Settings, stack: AsyncExitStack, *, clock: Clock | None = None, backend: Backend | None = None
) -> RpcServer:
    """Everything wired and entered on `stack`; tests pass their clock and backend."""
    clock = clock or SystemClock()
    backend = backend or await _backend(settings)
    addresses = Addresses(read_key(settings.key_file("files")), settings.public_url)
    db = await stack.enter_async_context(open_db(settings.database_url("filestore")))
    store, storage = SqlFileStore(db), SqlStorage(db)
    ledger = LedgerClient(await stack.enter_async_context(connect(settings.address("keys"))))
    charge = Charge(storage, ledger, clock)
    files = Files(
        store,
        backend,
        addresses,
        clock,
        Quota(storage, clock, settings.organization_file_bytes),
        ledger,
        max_bytes=settings.max_file_bytes,
        lifetime=timedelta(days=settings.file_days),
    )
    await stack.enter_async_context(background(sweep(store, backend, clock, charge.close)))
    await stack.enter_async_context(background(charge.run()))
    await stack.enter_async_context(background(sweep_blobs(backend, settings.blob_lifetime, clock)))
    grace = settings.drain_seconds / 2  # the two servers drain one after the other
    await stack.enter_async_context(http_server(app(files), settings.http_socket, grace))
    server = RpcServer(settings.address("filestore"), grace=grace)
    server.needs(db.answers)
    server.add(files_pb2_grpc.add_FilesServicer_to_server, FilesServicer(files), "mesh.filestore.v1.Files")
    blobs = BlobsServicer(Blobs(backend, settings.max_blob_bytes))
    server.add(blobs_pb2_grpc.add_BlobsServicer_to_server, blobs, "mesh.filestore.v1.Blobs")
    return await stack.enter_async_context(server)


async def _backend(settings: Settings) -> Backend:
    if (bucket := settings.s3) is None:
        return DiskBackend(settings.storage)
    if settings.max_file_bytes > MOST_FILE_BYTES or settings.max_blob_bytes > MOST_BLOB_BYTES:
        most = f"{MOST_FILE_BYTES} and {MOST_BLOB_BYTES}"
        raise BadSettings([f"RUNMESH_MAX_FILE_BYTES and RUNMESH_MAX_BLOB_BYTES: in a bucket at most {most}"])
    s3 = S3Backend(bucket, settings.home / "files" / "spool")
    await s3.announce()
    return s3
