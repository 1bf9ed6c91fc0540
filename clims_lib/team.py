"""Several processes that train one network: Hugging Face accelerate starts them and connects them.

Each takes its share of every batch, and all take the same step with the mean of their gradients. So
the network is the one that a single process would train, as long as batch normalisation is frozen
(`compute.frozen_norm`); otherwise each share is normalised by itself, as usual.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor


class Team:
    """This process among its team: `rank` of `size`. Without an accelerator it is alone."""

    def __init__(self, accelerator=None):
        self.accelerator = accelerator
        self.rank = accelerator.process_index if accelerator else 0
        self.size = accelerator.num_processes if accelerator else 1

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the team."""
        if self.size > 1:
            for tensor in tensors:
                tensor.copy_(self.accelerator.reduce(tensor, "mean"))

    def total(self, values: dict[str, float]) -> dict[str, float]:
        """The sums of numbers over the team."""
        everyone = self.gather(values)
        return {name: sum(one[name] for one in everyone) for name in values}

    def gather(self, value: Any) -> list:
        """Everyone's value, in the order of ranks, for plain values and tensors on the CPU."""
        if self.size == 1:
            return [value]
        from accelerate.utils import gather_object

        return gather_object([value])

    def told(self, value: Any) -> Any:
        """The first one's value."""
        return self.gather(value)[0]


ALONE = Team()
