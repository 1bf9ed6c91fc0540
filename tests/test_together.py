"""Three processes train the networks that one trains, with every kind of loss, over gloo."""

import os
import socket

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clims_lib import cct, objectives, optimisers, training
from clims_lib.batches import MemoryBatches
from clims_lib.cam import CAMNet
from clims_lib.cct_network import CCT
from clims_lib.devices import ALONE, Team
from clims_lib.losses import Forms

SIZE, STEPS = 3, 6


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def data():
    """18 pictures, of whose masks more and more is unknown; classes are not equally many."""
    images = torch.randint(0, 256, (18, 3, 32, 32), generator=seeded(), dtype=torch.uint8)
    labels = (torch.rand(18, 4, generator=seeded(1)) < 0.4).float()
    labels[:, 0] = (labels[:, 1:].sum(1) == 0).float()
    masks = torch.randint(0, 5, (18, 32, 32), generator=seeded(2), dtype=torch.uint8)
    for i, mask in enumerate(masks):
        mask[: 3 * i % 32] = 255
    return images, labels, masks


def new_cam():
    return CAMNet(4, (1, 1, 1, 1), thin=16, stride=8)


class OneMore(CAMNet):
    """A CAM network with a part that takes no part."""

    def __init__(self):
        super().__init__(4, (1, 1, 1, 1), thin=16, stride=8)
        self.idle = nn.Linear(3, 3)


def new_cct(*perturbations):
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8))
    return CCT(backbone, 8, 5, 6, perturbations)


def clims_loss():
    project = torch.rand(3 * 32 * 32, 6, generator=seeded(3))
    texts = F.normalize(1 + torch.rand(4, 6, generator=seeded(4)), dim=-1)
    return objectives.clims_training_loss(
        lambda x: F.normalize(x.flatten(1) @ project + 99, dim=-1),
        texts,
        texts[:, None],
        size=32,
        weights={"otm": 1.0, "btm": 1.0, "cbs": 0.1, "reg": 1.0},
        forms=Forms("pair_mean", "pair_sum", class_weights=(1.0, 1.0, 3.0, 1.0)),
    )


def cct_loss():
    return cct.cct_training_loss(
        steps=STEPS, generator=seeded(), weak_weight_auxiliary=0.0, annealed=False
    )


CASES = {  # a loss may call its network twice, or parts of it, or not all of them
    "cam": (new_cam, objectives.cam_loss),
    "idle": (OneMore, objectives.cam_loss),
    "puzzle_cam": (new_cam, lambda: objectives.puzzle_loss(tiles=2, alpha=4.0, ramp=0.5)),
    "clims": (new_cam, clims_loss),
    "full_masks": (new_cam, objectives.full_mask_loss),
    "supervised": (lambda: new_cct("object_mask"), cct_loss),
    "cct": (lambda: new_cct("object_mask", "context_mask"), cct_loss),
}


def batches_of(name, team):
    """Batches of 8, 8 and, for three processes, 2; CCT's are 12 pictures and 12 weak ones."""
    images, labels, masks = data()
    if name not in ("supervised", "cct"):
        return MemoryBatches(images, labels, masks, 8, 0, crop=32, resize=(0.7, 1.4), team=team)

    def batches(start):
        for step in range(start, STEPS):
            i = torch.arange(12)[team.rank :: team.size] + step % 2 * 6
            x, known = images.float() / 255, masks.clamp(max=4)  # as many pixels for everyone
            yield x[i], known[i], None if name == "supervised" else x.flip(0)[i], None

    return batches


def fit(name, team, accumulate, frozen=True):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, loss = (new() for new in CASES[name])
    history = training.train(
        model,
        loss,
        batches_of(name, team),
        steps=STEPS,
        steps_per_epoch=3,
        optimiser=optimisers.new_optimiser("sgd", model.parameters(), 1e-2, 1e-2),
        accumulate=accumulate,
        frozen_norm=model if frozen else None,
        clip_norm=1.0,
        amp=False,
        team=team,
    )
    return history, model.state_dict()


def member(rank, port, folder):
    """One of the processes; leaves what it trained in the folder."""
    from accelerate import Accelerator

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(SIZE)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    team = Team(Accelerator(cpu=True))
    assert (team.rank, team.size) == (rank, SIZE)
    found = {(name, n): fit(name, team, n) for name in CASES for n in (1, 2)}
    found["norms learn"] = fit("cam", team, 1, frozen=False)
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    pytest.importorskip("accelerate", reason="several processes need accelerate")
    folder = tmp_path_factory.mktemp("together")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(member, (port, folder), SIZE)
    return [torch.load(folder / f"{rank}.pt") for rank in range(SIZE)]


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_three_train_what_one_trains(trained, name, accumulate):
    history, state = fit(name, ALONE, 1)
    for told, weights in (found[name, accumulate] for found in trained):
        for key, value in state.items():
            torch.testing.assert_close(weights[key], value, atol=1e-5, rtol=1e-4)
        for one, other in zip(history, told, strict=True):
            assert other == pytest.approx(one, rel=1e-4, abs=1e-5)
    start = new_cam().state_dict() if name == "cam" else {}
    assert all(not torch.equal(state[k], v) for k, v in start.items() if k.endswith("conv1.weight"))


@pytest.mark.slow
def test_running_statistics_are_the_teams_mean(trained):
    """Each has normalised its share by itself; in the end they agree."""
    first, *others = (found["norms learn"][1] for found in trained)
    for key, value in first.items():
        if value.is_floating_point():  # who has no picture counts no batch
            assert all(torch.equal(other[key], value) for other in others), key
    assert any(first[key].any() for key in first if key.endswith("running_mean"))
