"""What the hours of a GPU and of a CPU cost, in the space file's section ``cost``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["PRICES", "CostSpec", "Price", "money_text"]

PRICES = ("per_gpu_hour", "per_cpu_hour")


@dataclass(frozen=True)
class Price:
    """Prices of one kind of machine.

    Attributes:
        per_gpu_hour: Of a GPU that a trial holds for an hour.
        per_cpu_hour: Of a CPU that a trial holds for an hour.
    """

    per_gpu_hour: float = 0.0
    per_cpu_hour: float = 0.0

    def per_hour(self, gpus: float, cpus: float) -> float:
        """The price of an hour of so many GPUs and CPUs."""
        return gpus * self.per_gpu_hour + cpus * self.per_cpu_hour


@dataclass(frozen=True)
class CostSpec:
    """Prices, by which a sweep is shown in money and can be limited (``budget.cost``).

    Attributes:
        currency: What amounts are in; only shown.
        per_gpu_hour: Price of a GPU that a trial holds for an hour.
        per_cpu_hour: Price of a CPU that a trial holds for an hour.
        node_types: Prices of machines of a kind, by the name of a node type of the cluster or of a GPU; they
            replace the prices above.
    """

    currency: str = "USD"
    per_gpu_hour: float = 0.0
    per_cpu_hour: float = 0.0
    node_types: Mapping[str, Price] = field(default_factory=dict)

    def price(self, node_type: str = "") -> Price:
        """The prices of a kind of machine; those of all others if it has none of its own."""
        return self.node_types.get(node_type) or Price(self.per_gpu_hour, self.per_cpu_hour)

    def to_dict(self) -> dict[str, Any]:
        """The section as plain types; `from_dict` reads it back equal."""
        return {
            "currency": self.currency,
            "per_gpu_hour": self.per_gpu_hour,
            "per_cpu_hour": self.per_cpu_hour,
            "node_types": {
                name: {"per_gpu_hour": price.per_gpu_hour, "per_cpu_hour": price.per_cpu_hour}
                for name, price in self.node_types.items()
            },
        }

    @staticmethod
    def from_dict(plain: Mapping[str, Any]) -> CostSpec:
        """The section that `to_dict` wrote."""
        types = {name: Price(**price) for name, price in plain["node_types"].items()}
        return CostSpec(**{**plain, "node_types": types})


def money_text(amount: float, currency: str) -> str:
    """An amount of money, e.g. ``12.40 EUR``; small amounts with more digits."""
    digits = 2 if abs(amount) >= 1 or amount == 0 else 4
    return f"{amount:,.{digits}f} {currency}"
