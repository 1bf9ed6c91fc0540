"""The training loop of every network, on one process or on many.

What is minimised comes from objectives.py, cct.py, clip_model.py, finetune.py, random_walk.py and
irnet.py, the batches from batches.py. Optimisers and schedules are torch's own, made by whoever
calls; optimisers.py has those of the papers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from clims_lib.clip_model import autocast
from clims_lib.devices import ALONE, Team
from clims_lib.objectives import Counted, Loss, LossAndParts
from clims_lib.shares import StepBatch, Weight, micro_batches, prefetch

Batches = Callable[[int], Iterable[StepBatch]]  # start -> those of steps start, start + 1, ...


@torch.random.fork_rng()  # whoever calls draws on as if nothing had been drawn here
def train(
    model: nn.Module,
    loss: Loss,
    batches: Batches,
    *,
    steps: int,
    optimiser: Optimizer,
    schedule: LRScheduler | None = None,
    steps_per_epoch: int | None = None,
    amp: bool = True,
    clip_norm: float = 0.0,
    accumulate: int = 1,
    frozen_norm: nn.Module | None = None,
    generator: Generator | None = None,
    seed: int = 0,
    team: Team = ALONE,
    state: dict | None = None,
    save: Callable[[dict], None] | None = None,
    save_every: float = 60.0,
    progress: Callable[..., object] | None = None,
    watch: Callable[[int, nn.Module], None] | None = None,
) -> list[dict[str, float]]:
    """Train in place; returns {"loss": ..., and its parts by name} of every step.

    loss(model, batch, share of training done) -> (loss, its parts). batches(start) -> the batches
    of steps start, start + 1, ...; seed and step alone decide each, so that a run resumed from
    `state` (what `save` was last given) ends in the same weights. amp: bfloat16. accumulate: in how
    many micro-batches a batch goes through the network (small cards). frozen_norm: the part of the
    model whose batch norms keep their running statistics, so that neither micro-batches nor
    processes change a gradient. generator: what the loss draws from; seed: dropout's, with the
    epoch. team: the processes that train; the batches of each are its shares of theirs.

    At the end of every epoch, by default once, come watch(epoch, model) and save(state); `save`
    also when `save_every` seconds have passed. It must write at once: the next step changes the
    tensors. progress(loss=...) is called for every step, on a GPU for several together. Raises
    FloatingPointError when the loss diverges, ValueError when the batches run out.
    """
    device, steps_per_epoch = next(model.parameters()).device, steps_per_epoch or steps
    rng = torch.cuda if device.type == "cuda" else torch  # where dropout draws
    objects = {"model": model, "optimiser": optimiser, "schedule": schedule, "generator": generator}
    objects = {name: one for name, one in objects.items() if one is not None}
    history: list[dict[str, float]] = []
    if state:
        history = list(state["history"])
        load_states(objects, state)
        rng.set_rng_state(state["rng"])
    start, saved = len(history), time.monotonic()
    unread: list[list[dict[str, Tensor]]] = []  # step by step, of each micro-batch
    whole_step = team.share(Step(model, loss))
    learn(model, frozen_norm)
    for step, batch in zip(range(start, steps), prefetch(batches(start), device), strict=False):
        epoch, done = divmod(step, steps_per_epoch)
        if done == 0:
            torch.manual_seed(seed * 100_003 + epoch)
        optimiser.zero_grad()
        unread.append([])
        weighed = micro_batches(batch, accumulate, team, loss, model)
        for i, (some, weight) in enumerate(weighed):
            with team.together(whole_step, yet=i + 1 == len(weighed)):
                with autocast(device, amp):
                    value, parts = whole_step(some, weight, step / steps)
                (team.size * value).backward()  # times size: the team takes the mean
            unread[-1].append(parts)
        if clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimiser.step()
        if schedule:
            schedule.step()

        ends = done + 1 == steps_per_epoch or step + 1 == steps
        late = save and team.size == 1 and time.monotonic() - saved > save_every  # clocks differ
        if ends or late or device.type == "cpu" or len(unread) == 20:  # reading makes a GPU wait
            for values in team.total([add_up(one) for one in unread]):
                history.append(values)
                if not math.isfinite(values["loss"]):
                    raise FloatingPointError(
                        f"the loss is {values['loss']} in step {len(history)} of {steps}: lower "
                        "the learning rate (lr in the profile)"
                    )
                if progress:
                    progress(loss=values["loss"])
            unread = []
        if ends:
            team.average(b for b in model.buffers() if b.is_floating_point())
            if watch and team.rank == 0:
                watch(epoch + 1, model)
                learn(model, frozen_norm)
        if save and team.rank == 0 and (ends or late) and step + 1 < steps:
            state = {"step": step + 1, "history": history, "rng": rng.get_rng_state()}
            save(state | states_of(objects))
            saved = time.monotonic()
    if len(history) < steps:
        raise ValueError(f"the batches ran out after {len(history)} of {steps} steps")
    model.eval()
    return history


class Step(nn.Module):
    """A step's network and loss as one module: what a team shares is all that happens in it."""

    def __init__(self, model: nn.Module, loss: Loss):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: StepBatch, weight: Weight, progress: float) -> LossAndParts:
        """The weighted loss of a micro-batch and, detached, the loss and its weighted parts."""
        if not len(batch[0]):  # of a batch smaller than the team: it only waits for the others
            return 0.0 * next(p for p in self.parameters() if p.requires_grad).sum(), {}
        value, parts = self.loss(self.model, batch, progress)
        if isinstance(weight, dict):  # each part has its own
            assert isinstance(self.loss, Counted) and self.loss.total is not None
            parts = {name: weight[name] * part for name, part in parts.items()}
            value = self.loss.total(parts)
        else:
            value, parts = weight * value, {name: weight * part for name, part in parts.items()}
        return value, {name: part.detach() for name, part in {"loss": value, **parts}.items()}


def states_of(objects: dict) -> dict:
    """What `load_states` needs, by name: of modules, optimisers, schedules and generators."""
    return {
        name: one.get_state() if isinstance(one, Generator) else one.state_dict()
        for name, one in objects.items()
    }


def load_states(objects: dict, states: dict) -> None:
    """Give each of the objects its state of the same name."""
    for name, one in objects.items():
        load = one.set_state if isinstance(one, Generator) else one.load_state_dict
        load(states[name])


def learn(model: nn.Module, frozen_norm: nn.Module | None) -> None:
    """Training mode, but for the batch norms of `frozen_norm`."""
    model.train()
    for module in frozen_norm.modules() if frozen_norm else ():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def add_up(parts: list[dict[str, Tensor]]) -> dict[str, float]:
    """The numbers of one step, from its micro-batches' weighted parts."""
    values: dict[str, float] = {}
    for some in parts:
        for name, part in some.items():
            values[name] = values.get(name, 0.0) + part.item()
    return values


def epoch_means(history: list[dict[str, float]], steps_per_epoch: int) -> list[dict[str, float]]:
    """The mean loss and parts of every epoch, from those of every step."""
    means: list[dict[str, float]] = []
    for start in range(0, len(history), steps_per_epoch):
        some = history[start : start + steps_per_epoch]  # the last epoch may be cut short
        means.append(dict.fromkeys(some[0], 0.0))
        for values in some:
            for name, part in values.items():
                means[-1][name] += part / len(some)
    return means
