"""What a run pays from, as its calls of models see it: one suite, on the real one and on the fake."""

from collections.abc import AsyncIterator

import pytest

from executor.metering import Metering
from executor.model import Limits
from executor.model_calls import Tab
from executor.prices import PriceList
from executor.purses import Purses
from kit.clock import FakeClock
from kit.errors import Exhausted
from tests.fakes.executor import START, make_spec
from tests.fakes.ledger import FakeLedger, price
from tests.fakes.tab import FakeTab

CREDIT, METER = 100, "tokens:openai/m:in"


@pytest.fixture(params=["fake", "real"])
async def tab(request: pytest.FixtureRequest) -> AsyncIterator[Tab]:
    """That of a run which can pay `CREDIT`, where a unit of `METER` costs one."""
    if request.param == "fake":
        yield FakeTab(credit=CREDIT, prices={METER: 1_000_000}, default=None)
        return
    clock, ledger = FakeClock(START), FakeLedger(listed=[price(METER, 1)])
    ledger.credit["org_caller"] = CREDIT
    purses, prices = Purses(ledger, clock, lambda: clock.now().timestamp()), PriceList(ledger, clock)
    await prices.fetch()
    real = Metering(purses, prices, clock).tab(make_spec())
    await real.open(Limits())
    yield real
    for purse in purses:
        await purse.close()


async def test_what_has_a_price(tab: Tab) -> None:
    assert tab.price(METER) == 1_000_000
    assert tab.price("tokens:openai/another:in") is None


async def test_what_is_promised_is_taken_until_it_is_released(tab: Tab) -> None:
    assert await tab.room() == CREDIT
    await tab.promise(60)
    assert await tab.room() == CREDIT - 60
    with pytest.raises(Exhausted) as refused:
        await tab.promise(41)
    assert refused.value.code == "payment_required"
    await tab.promise(40)
    assert await tab.room() == 0
    tab.release(40)
    assert await tab.room() == 40
    await tab.promise(40)


async def test_nothing_is_promised_for_nothing(tab: Tab) -> None:
    await tab.promise(0)
    tab.release(0)
    assert await tab.room() == CREDIT


async def test_what_is_booked_before_its_release_is_paid_from_it(tab: Tab) -> None:
    await tab.promise(100)
    tab.book(METER, 30)
    tab.release(100)
    assert await tab.room() == 70
    with pytest.raises(Exhausted):
        await tab.promise(71)
    await tab.promise(70)


async def test_what_was_booked_above_the_promise_is_taken_too(tab: Tab) -> None:
    await tab.promise(20)
    tab.book(METER, 50)
    tab.release(20)
    await tab.cover()
    assert await tab.room() == 50
    with pytest.raises(Exhausted):
        await tab.promise(51)


async def test_what_cant_be_paid_is_taken_as_far_as_it_goes(tab: Tab) -> None:
    await tab.promise(20)
    tab.book(METER, CREDIT + 50)
    tab.release(20)
    await tab.cover()
    assert await tab.room() == 0
