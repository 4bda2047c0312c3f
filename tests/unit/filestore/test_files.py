import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from filestore.addresses import Addresses
from filestore.files import Files, Place
from filestore.model import OCTETS, disposition, media_type
from filestore.quota import Quota
from filestore.sweep import sweep, sweep_blobs, sweep_once
from kit.clock import FakeClock
from kit.errors import Conflict, Denied, Invalid, NotFound, Unavailable
from tests.fakes.memory_files import MemoryBackend, MemoryFileStore, MemoryLedger

DAY = 24 * 3600.0


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def parts(uri: str) -> tuple[str, str, dict[str, str]]:
    """(file id, name segment, query) of an address."""
    url = urlsplit(uri)
    assert f"{url.scheme}://{url.netloc}" == "https://runmesh.example"
    segments = url.path.split("/")
    assert segments[:2] == ["", "files"]
    return segments[2], "/".join(segments[3:]), {name: value for name, (value,) in parse_qs(url.query).items()}


class Setup:
    """The use cases on fakes."""

    def __init__(self) -> None:
        self.clock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC))
        self.store, self.backend = MemoryFileStore(), MemoryBackend()
        addresses = Addresses(b"k" * 32, "https://runmesh.example")
        week = timedelta(days=7)
        self.ledger = MemoryLedger()
        quota = Quota(self.store, self.clock, 2**30)
        self.files = Files(
            self.store, self.backend, addresses, self.clock, quota, self.ledger, max_bytes=100, lifetime=week
        )

    async def upload(self, place: Place, *pieces: bytes) -> None:
        file_id, _, query = parts(place.upload_uri)
        file = await self.files.open_upload(file_id, query["expires"], query["signature"])
        await self.files.fill(file, "text/plain", chunks(*pieces))

    async def download(self, place: Place) -> bytes:
        file_id, _, query = parts(place.download_uri)
        file, content = await self.files.readable(file_id, query["signature"])
        async with self.files.open(file) as reader:
            assert reader.size == content.stored.size
            return await reader.read(0, reader.size)


@pytest.fixture
def setup() -> Setup:
    return Setup()


async def test_up_and_down(setup: Setup) -> None:
    place = await setup.files.create("org_a", "a.txt")
    await setup.upload(place, b"hello ", b"world")
    assert await setup.download(place) == b"hello world"


async def test_a_file_is_uploaded_once(setup: Setup) -> None:
    place = await setup.files.create("org_a", "a.txt")
    await setup.upload(place, b"one")
    with pytest.raises(Conflict):
        await setup.upload(place, b"two")
    assert await setup.download(place) == b"one"


async def test_of_two_uploads_at_once_the_first_to_end_counts(setup: Setup) -> None:
    place = await setup.files.create("org_a", "a.txt")

    async def overtaken() -> AsyncIterator[bytes]:
        yield b"slow"
        await setup.upload(place, b"fast")
        yield b"slow"

    file_id, _, query = parts(place.upload_uri)
    file = await setup.files.open_upload(file_id, query["expires"], query["signature"])
    with pytest.raises(Conflict):
        await setup.files.fill(file, "", overtaken())
    assert await setup.download(place) == b"fast"


async def test_a_broken_upload_leaves_nothing_and_may_be_repeated(setup: Setup) -> None:
    place = await setup.files.create("org_a", "a.txt")

    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionError

    file_id, _, query = parts(place.upload_uri)
    file = await setup.files.open_upload(file_id, query["expires"], query["signature"])
    with pytest.raises(ConnectionError):
        await setup.files.fill(file, "", broken())
    assert setup.backend.kept == {}
    with pytest.raises(NotFound):
        await setup.download(place)
    await setup.upload(place, b"whole")
    assert await setup.download(place) == b"whole"


async def test_a_file_has_a_largest_size(setup: Setup) -> None:
    place = await setup.files.create("org_a", "a.txt")
    with pytest.raises(Invalid) as caught:
        await setup.upload(place, b"x" * 60, b"x" * 41)
    assert caught.value.code == "too_large"
    assert setup.backend.kept == {}
    await setup.upload(place, b"x" * 60, b"x" * 40)


async def test_an_upload_address_is_good_for_an_hour(setup: Setup) -> None:
    place = await setup.files.create("org_a", "a.txt")
    await setup.clock.advance(3599)
    file_id, _, query = parts(place.upload_uri)
    await setup.files.open_upload(file_id, query["expires"], query["signature"])
    await setup.clock.advance(1)
    with pytest.raises(Denied):
        await setup.upload(place, b"late")


async def test_forged_addresses_are_refused(setup: Setup) -> None:
    one, two = await setup.files.create("org_a", "a"), await setup.files.create("org_a", "b")
    file_id, _, query = parts(one.upload_uri)
    other_id, _, _ = parts(two.upload_uri)
    _, _, down = parts(one.download_uri)
    later = str(int(query["expires"]) + 1)
    for forged in (
        (other_id, query["expires"], query["signature"]),
        (file_id, later, query["signature"]),
        (file_id, query["expires"], down["signature"]),
        (file_id, "", down["signature"]),
        (file_id, query["expires"], ""),
        (file_id, query["expires"], "é"),
        (file_id, "x", "y"),
    ):
        with pytest.raises(Denied):
            await setup.files.open_upload(*forged)
    await setup.upload(one, b"1")
    for file, signature in (
        (file_id, query["signature"]),
        (other_id, down["signature"]),
        (file_id, ""),
        ("../../etc/passwd", down["signature"]),
    ):
        with pytest.raises(NotFound):
            await setup.files.readable(file, signature)


async def test_files_go_seven_days_after_their_upload(setup: Setup) -> None:
    place, empty = await setup.files.create("org_a", "a"), await setup.files.create("org_a", "never filled")
    await setup.clock.advance(1800)
    await setup.upload(place, b"1")
    await setup.clock.advance(7 * DAY - 1)
    assert await sweep_once(setup.store, setup.backend, setup.clock) == 1
    assert parts(empty.upload_uri)[0] not in setup.store.files
    assert await setup.download(place) == b"1"
    await setup.clock.advance(1)
    with pytest.raises(NotFound):
        await setup.download(place)
    assert await sweep_once(setup.store, setup.backend, setup.clock) == 1
    assert (setup.store.files, setup.backend.kept) == ({}, {})


async def test_many_expired_files_go_in_one_sweep(setup: Setup) -> None:
    for n in range(250):
        await setup.files.create("org_a", str(n))
    await setup.clock.advance(2 * DAY)
    assert await sweep_once(setup.store, setup.backend, setup.clock) == 250


NAMES = ["a.txt", "../../etc/passwd", "..", ".", "a/b\\c", 'q"u%o.te', "grüße 日本.pdf", "a?b#c&d=e;f", "x" * 255, " "]


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_is_metadata_only(setup: Setup, name: str) -> None:
    place = await setup.files.create("org_a", name)
    _, segment, query = parts(place.download_uri)
    shown = unquote(segment)
    assert shown not in {"", ".", ".."}
    assert not set("/\\") & set(shown)
    assert list(query) == ["signature"]
    await setup.upload(place, b"1")
    (key,) = setup.backend.kept
    assert key.startswith("files/")
    assert key.split("/")[2] == parts(place.upload_uri)[0]


@pytest.mark.parametrize("name", ["", "x" * 256, "é" * 128, "a\0b", "a\nb", "a\x7fb", "a\x85b"])
async def test_a_bad_name_is_refused(setup: Setup, name: str) -> None:
    with pytest.raises(Invalid):
        await setup.files.create("org_a", name)
    assert setup.store.files == {}


@pytest.mark.parametrize("name", NAMES)
def test_a_disposition_is_one_safe_header(name: str) -> None:
    header = disposition(name)
    assert header.isascii()
    assert header.isprintable()
    plain, _, encoded = header.removeprefix('attachment; filename="').partition("\"; filename*=UTF-8''")
    assert not set('"\\/') & set(plain)
    assert unquote(encoded) == name
    assert not set(" \"';,") & set(encoded)


def kinds() -> Iterable[tuple[str, str]]:
    for good in ("text/plain", "application/vnd.x+json; charset=utf-8", 'multipart/mixed; boundary="x y"', "a/b;"):
        yield good, good
    for bad in ("", "text", "text/", "/x", "text/plain\r\nX: y", "téxt/plain", "a b/c", "a/b" + "c" * 300, "a/b; é"):
        yield bad, OCTETS


@pytest.mark.parametrize(("sent", "kept"), [*kinds()])
def test_a_content_type_is_kept_if_it_is_one(sent: str, kept: str) -> None:
    assert media_type(sent) == kept


async def test_what_was_too_late_is_deleted(setup: Setup) -> None:
    place = await setup.files.create("org_a", "a.txt")
    file_id, _, query = parts(place.upload_uri)
    file = await setup.files.open_upload(file_id, query["expires"], query["signature"])
    await setup.files.fill(file, "", chunks(b"first"))
    with pytest.raises(Conflict):
        await setup.files.fill(file, "", chunks(b"second"))
    assert list(setup.backend.kept.values()) == [b"first"]


async def test_what_was_kept_and_never_recorded_goes_with_its_file(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    async def fill(*_: object) -> None:
        raise Killed

    place, other = await setup.files.create("org_a", "a"), await setup.files.create("org_a", "b")
    monkeypatch.setattr(setup.store, "fill", fill)
    with pytest.raises(Killed):
        await setup.upload(place, b"nobody's")
    monkeypatch.undo()
    await setup.upload(other, b"kept")
    assert len(setup.backend.kept) == 2
    await setup.clock.advance(2 * DAY)
    await sweep_once(setup.store, setup.backend, setup.clock)
    assert list(setup.backend.kept.values()) == [b"kept"]


async def test_a_sweep_outlives_a_store_that_is_away(setup: Setup) -> None:
    class Away(MemoryBackend):
        is_away = True

        async def delete_all(self, prefix: str) -> None:
            if self.is_away:
                raise Unavailable("away")
            await super().delete_all(prefix)

        async def delete_old(self, prefix: str, before: datetime) -> int:
            if self.is_away:
                raise Unavailable("away")
            return await super().delete_old(prefix, before)

    backend, store = Away(), setup.store
    await setup.files.create("org_a", "a")
    await setup.clock.advance(2 * DAY)
    followed = 0

    async def then() -> None:
        nonlocal followed
        followed += 1

    tasks = [
        asyncio.create_task(sweep(store, backend, setup.clock, then)),
        asyncio.create_task(sweep_blobs(backend, timedelta(days=9), setup.clock)),
    ]
    await setup.clock.advance(0)
    assert (len(store.files), followed) == (1, 0)
    assert not any(task.done() for task in tasks)
    backend.is_away = False
    await setup.clock.advance(60)
    assert (store.files, followed) == ({}, 1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
