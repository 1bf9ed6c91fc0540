"""What code would cost on a GPU, counted without one: memory, arithmetic and traffic.

Inside `counting` tensors are fake: torch works out shapes and types, computes nothing and needs no
memory, so a step of the real networks at their real sizes takes a second on a laptop. Where code
asks for a value, it gets an answer that stands for any: a number is 1, everything is chosen, and of
labels (B, K) as many are present as the caller says.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from clims_lib.config import did_you_mean

GIB = 2**30
aten = torch.ops.aten


class GPU(NamedTuple):
    """A card as its maker states it: GiB, 10^12 bfloat16 operations a second (dense), GB a second.

    Only cards with bfloat16, which all trainings here use.
    """

    name: str
    memory: float
    teraflops: float
    bandwidth: float


GPUS = {
    gpu.name: gpu
    for gpu in (
        GPU("H200", 141, 989, 4800),
        GPU("H100", 80, 989, 3350),
        GPU("A100", 80, 312, 2039),
        GPU("A100 40GB", 40, 312, 1555),
        GPU("L40S", 48, 362, 864),
        GPU("RTX A6000", 48, 155, 768),
        GPU("RTX 4090", 24, 165, 1008),
        GPU("RTX 3090", 24, 71, 936),
        GPU("L4", 24, 121, 300),
    )
}
# Of what the makers state, this much is reached; and an operation lasts so long at least.
ARITHMETIC, TRAFFIC, LAUNCH = 0.5, 0.75, 6e-6


def gpu_called(name: str) -> GPU:
    """One of GPUS. Raises ValueError, naming the nearest, for another name."""
    if name not in GPUS:
        raise ValueError(f"no figures of a GPU {name!r}{did_you_mean(name, GPUS)}")
    return GPUS[name]


@dataclass
class Cost:
    """peak: bytes, the most that tensors held at once; work: (FLOPs, bytes read and written) of
    every operation, a multiplication with an addition being two FLOPs."""

    peak: int = 0
    work: list[tuple[int, int]] = field(default_factory=list)

    @property
    def flops(self) -> int:
        return sum(flops for flops, _ in self.work)

    def seconds(self, gpu: GPU) -> float:
        """An estimate: each operation waits for arithmetic, for memory, or to be started at all."""
        rate, flow = ARITHMETIC * gpu.teraflops * 1e12, TRAFFIC * gpu.bandwidth * 1e9
        return sum(max(flops / rate, moved / flow, LAUNCH) for flops, moved in self.work)


class Counter(TorchDispatchMode):
    """Adds up what every operation costs, and answers what fake tensors cannot."""

    def __init__(self, present: float):
        super().__init__()
        self.cost, self.present = Cost(), present
        self.now, self.known = 0, weakref.WeakSet[Any]()
        self.answers: dict[Any, Callable[..., Any]] = {
            aten._local_scalar_dense.default: lambda x: {torch.bool: True}.get(x.dtype, 1),
            aten.equal.default: lambda x, y: True,
            aten.nonzero.default: self._present,
            aten._unique2.default: lambda x, *_, **__: (x.new_empty(0),) * 3,
            aten.masked_select.default: lambda x, mask: x.new_empty(x.numel()),
        }

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is aten.index.Tensor and any(_is_mask(i) for i in args[1]):
            out = args[0].new_empty(args[0].numel())
        else:
            out = self.answers.get(func, func)(*args, **kwargs)
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        for tensor in (*given, *made):
            self._hold(tensor)
        if made and not func.is_view and "empty" not in func.name():
            formula = flop_registry.get(func._overloadpacket)
            flops = formula(*args, **kwargs, out_val=out) if formula else 0
            moved = sum(x.numel() * x.element_size() for x in (*given, *made))
            self.cost.work.append((int(flops), moved))
        return out

    def restart(self) -> None:
        """Forget the work until now; the peak stays."""
        self.cost.work.clear()

    def _hold(self, tensor: Tensor) -> None:
        """Count a storage once, for as long as anything holds it."""
        storage = tensor.untyped_storage()
        if storage not in self.known:
            self.known.add(storage)
            size = storage.nbytes()
            self.now += size
            self.cost.peak = max(self.cost.peak, self.now)
            weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.now -= size

    def _present(self, x: Tensor) -> Tensor:
        """Labels (B, K): some of each row; of other tensors every element."""
        labels = x.ndim == 2 and x.is_floating_point()
        count = min(x.numel(), max(1, round(self.present * len(x)))) if labels else x.numel()
        return x.new_empty((count, x.ndim), dtype=torch.long)


def _is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


@contextmanager
def counting(present: float = 1.0) -> Iterator[Counter]:
    """Run the block on fake tensors and count: `.cost` of what came since the last `.restart()`.

    present: how many labels of a row are present. Modules are made inside the block and stay where
    they are made: torch cannot move fake ones.
    """
    counter = Counter(present)
    with FakeTensorMode(allow_non_fake_inputs=True), counter:
        yield counter
