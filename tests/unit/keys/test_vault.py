from functools import partialmethod

import pytest

from keys.model import PLATFORM_NAMES, Resolved
from keys.sealing import Envelope
from keys.vault import Vault
from kit.clock import FakeClock
from kit.errors import Exhausted, Invalid, NotFound
from tests.fakes.memory_keys import MemorySecretStore

SEAL = Envelope(b"k" * 32)


@pytest.fixture
def store() -> MemorySecretStore:
    return MemorySecretStore()


@pytest.fixture
def vault(store: MemorySecretStore, clock: FakeClock) -> Vault:
    return Vault(store, SEAL, clock)


async def test_what_was_put_is_resolved_what_is_missing_is_left_out(vault: Vault) -> None:
    await vault.put("org_a", "TOKEN", "s3cret", (), "key_1")
    await vault.put("org_a", "EMPTY", "", (), "key_1")
    await vault.put("org_b", "TOKEN", "another", (), "key_1")
    resolved = await vault.resolve("org_a", ["TOKEN", "EMPTY", "MISSING"])
    assert resolved == {"TOKEN": Resolved("s3cret"), "EMPTY": Resolved("")}
    assert "s3cret" not in repr(resolved)
    assert await vault.resolve("org_b", ["TOKEN", "EMPTY"]) == {"TOKEN": Resolved("another")}


async def test_a_secret_is_replaced_and_deleted_and_each_change_is_told(vault: Vault, store: MemorySecretStore) -> None:
    await vault.put("org_a", "TOKEN", "1", (), "key_1")
    await vault.put("org_a", "TOKEN", "2", (), "key_1")
    assert await vault.resolve("org_a", ["TOKEN"]) == {"TOKEN": Resolved("2")}
    await vault.delete("org_a", "TOKEN", "key_1")
    assert await vault.resolve("org_a", ["TOKEN"]) == {}
    with pytest.raises(NotFound):
        await vault.delete("org_a", "TOKEN", "key_1")
    assert await store.changed() == [("org_a", "TOKEN")] * 3


async def test_anothers_secret_is_not_found(vault: Vault) -> None:
    await vault.put("org_a", "TOKEN", "1", (), "key_1")
    with pytest.raises(NotFound):
        await vault.delete("org_b", "TOKEN", "key_1")
    assert (await vault.page("org_b", 0, "")).items == []


async def test_lists_come_in_pages_without_values(vault: Vault, clock: FakeClock) -> None:
    for name in ("C", "A", "B"):
        await vault.put("org_a", name, "hidden", ("API.example.com", "*.example.com:443"), "key_1")
    first = await vault.page("org_a", 2, "")
    assert [item.name for item in first.items] == ["A", "B"]
    assert first.items[0].hosts == ("api.example.com", "*.example.com:443")
    assert first.items[0].updated_at == clock.now()
    rest = await vault.page("org_a", 2, first.next)
    assert ([item.name for item in rest.items], rest.next) == (["C"], "")


@pytest.mark.parametrize("name", [*sorted(PLATFORM_NAMES), "", "1A", "A-B", "A B", "A\n", "Ä", "A" * 129, "A=B", "A\0"])
async def test_a_bad_or_reserved_name_is_refused(vault: Vault, name: str) -> None:
    with pytest.raises(Invalid):
        await vault.put("org_a", name, "v", (), "key_1")


async def test_values_are_bounded_in_bytes(vault: Vault) -> None:
    await vault.put("org_a", "A", "x" * 65536, (), "key_1")
    for value in ("x" * 65537, "é" * 32769):
        with pytest.raises(Invalid) as caught:
            await vault.put("org_a", "A", value, (), "key_1")
        assert caught.value.code == "too_large"
    with pytest.raises(Invalid):
        await vault.put("org_a", "A", "a\0b", (), "key_1")


async def test_hosts_are_told_with_the_value(vault: Vault) -> None:
    hosts = ["API.example.com", "*.example.com:8443", "http://intranet", "https://a.example", "192.0.2.1"]
    await vault.put("org_a", "TOKEN", "s3cret", hosts, "key_1")
    (secret,) = (await vault.resolve("org_a", ["TOKEN"])).values()
    assert secret == Resolved("s3cret", tuple(host.lower() for host in hosts))


BAD_HOSTS = [
    *(["ftp://x"], ["a b"], ["x" * 300], ["*"], [""], [f"h{n}.x" for n in range(51)], ["http://"], ["https://u@a.b"]),
    *(["a.b/c"], ["a..b"], ["a.b:0"], ["a.b:65536"], ["*.com"], ["https://*.com"], ["*.0.0.1"], ["a.*.b"], ["[::1]"]),
    ["ä.example"],
]


@pytest.mark.parametrize("hosts", BAD_HOSTS)
async def test_bad_hosts_are_refused(vault: Vault, hosts: list[str]) -> None:
    with pytest.raises(Invalid):
        await vault.put("org_a", "A", "v", hosts, "key_1")


@pytest.mark.parametrize("value", ["", "a\n", "a\r\nx: y", " a", "a ", "a\tb\x00", "\x7f"])
async def test_a_value_with_hosts_must_fit_a_header(vault: Vault, value: str) -> None:
    with pytest.raises(Invalid):
        await vault.put("org_a", "A", value, ["a.example"], "key_1")
    for good in ("a", "a b", "a\tb", "sché"):
        await vault.put("org_a", "A", good, ["a.example"], "key_1")


async def test_too_many_names_at_once_are_refused(vault: Vault) -> None:
    with pytest.raises(Invalid):
        await vault.resolve("org_a", [f"A{n}" for n in range(1001)])


async def test_no_organization_fills_the_database(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    await vault.put("org_a", "TOKEN", "1", (), "key_1")
    monkeypatch.setattr(MemorySecretStore, "put", partialmethod(MemorySecretStore.put, most=1))
    with pytest.raises(Exhausted, match="at most 1000 secrets"):
        await vault.put("org_a", "ANOTHER", "1", (), "key_1")
    await vault.put("org_a", "TOKEN", "2", (), "key_1")
