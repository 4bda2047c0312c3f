"""What a run pays from, made of numbers."""

from dataclasses import dataclass, field

from executor.bill import cost
from kit.errors import Exhausted


@dataclass
class FakeTab:
    """`prices` by meter, `credit` in micro-credits. `lines`: what was booked; `promised`: what is taken at present."""

    credit: int = 10**12
    prices: dict[str, int] = field(default_factory=dict)
    default: int | None = 1_000_000
    lines: dict[str, int] = field(default_factory=dict)
    promised: int = 0
    asked: list[int] = field(default_factory=list)
    covered: int = 0

    def price(self, meter: str) -> int | None:
        return self.prices.get(meter, self.default)

    async def promise(self, amount: int) -> None:
        self.asked.append(amount)
        if amount > self._left:
            raise Exhausted("the credit is used up", code="payment_required")
        self.promised += amount

    def release(self, amount: int) -> None:
        self.promised -= amount

    def book(self, meter: str, quantity: int) -> None:
        self.lines[meter] = self.lines.get(meter, 0) + quantity

    async def cover(self) -> None:
        """What was booked is gone from the credit, which may end below nothing."""
        self.covered += 1

    async def room(self) -> int:
        return max(0, self._left)

    @property
    def _left(self) -> int:
        booked = sum(cost(quantity, self.price(meter) or 0) for meter, quantity in self.lines.items())
        return self.credit - self.promised - booked
