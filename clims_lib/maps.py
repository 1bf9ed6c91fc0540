"""From a trained network to masks: maps, a random walk over them, a threshold, a CRF.

A method's name says which steps it takes: "clims", "clims_walk", and with `use_crf` also a CRF.
Pictures go through in batches, so that memory does not grow with their number. Thresholds are
chosen on train pictures, never on val or test; the image-level labels are given to every weakly
supervised method, as in the papers.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from clims_lib import clip_model, crf, metrics, pseudo_masks, random_walk
from clims_lib.artifacts import (
    artifact,
    key_in,
    load_checkpoint,
    load_tensors,
    read_json,
    save_checkpoint,
    save_tensors,
    write_json,
)
from clims_lib.cam import CAMNet, multi_scale_cam
from clims_lib.config import Profile
from clims_lib.metrics import IGNORE
from clims_lib.running import bar, device_of
from clims_lib.splits import open_split, read_sizes, read_split, split_folder
from clims_lib.stages import load_network, train_cam
from clims_lib.voc import read_mask, write_mask

CLASSIC_MAPS = ("cam", "cam_longer", "puzzle_cam")  # ReLU maps; the others are trained sigmoids
WALK = "_walk"


def network_of(method: str) -> str:
    """The method of the network behind the maps: "clims" of "clims_walk"."""
    return method.removesuffix(WALK)


def train_maps(profile: Profile, method: str) -> Path:
    """Train what the method's maps need; returns the folder of what was trained last."""
    train = train_affinity if method.endswith(WALK) else train_cam
    return train(profile, network_of(method))


def compute_cams(profile: Profile, method: str, images: Tensor) -> Tensor:
    """Maps (N, K, S, S) of uint8 pictures (N, 3, S, S), before normalisation."""
    return torch.cat(list(_map_batches(profile, method, images)))


def _map_batches(profile: Profile, method: str, images: Tensor) -> Iterator[Tensor]:
    """The same, one batch of `inference.batch` pictures after the other."""
    name, device, settings = network_of(method), device_of(profile), profile.inference
    model = load_network(profile, name)
    walk = _walker(profile, name, model) if method.endswith(WALK) else lambda x, maps: maps
    activation = "relu" if name in CLASSIC_MAPS else "sigmoid"
    for part in images.split(settings.batch):
        x = part.to(device).float() / 255
        with torch.no_grad(), clip_model.autocast(device, True):
            maps = multi_scale_cam(model, x, scales=settings.scales, flip=settings.flip,
                                   activation=activation).float()  # fmt: skip
        yield walk(x, maps).cpu()


def _walker(profile: Profile, name: str, model: CAMNet):
    """(pictures, maps) -> maps after the random walk, at the pictures' size again."""
    settings = profile.walk
    steps, head = random_walk.offsets(settings.radius), load_affinity(profile, name)

    @torch.no_grad()
    def walk(x: Tensor, maps: Tensor) -> Tensor:
        walked = []
        for some, scores in zip(x.split(8), maps.split(8), strict=True):  # affinities are large
            values = random_walk.affinity(head(features(model, some, settings.stride)), steps)
            small = F.interpolate(scores, values.shape[-2:], mode="bilinear", align_corners=False)
            small = random_walk.random_walk(
                small, values, steps, beta=settings.beta, times=settings.times
            )
            walked.append(
                F.interpolate(small, maps.shape[-2:], mode="bilinear", align_corners=False)
            )
        return torch.cat(walked)

    return walk


def features(model: CAMNet, x: Tensor, stride: int) -> list[Tensor]:
    """The backbone's features that are not finer than `stride`."""
    return [z.float() for z in model.stages(x) if z.shape[-1] <= x.shape[-1] // stride]


def new_affinity(profile: Profile, model: CAMNet) -> random_walk.AffinityHead:
    """An affinity head on the network's features, with fresh weights from the profile's seed."""
    side = 64 * profile.walk.stride
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(profile.seed)
        x = torch.zeros(1, 3, side, side, device=next(model.parameters()).device)
        channels = [z.shape[1] for z in features(model.eval(), x, profile.walk.stride)]
        return random_walk.AffinityHead(channels, profile.walk.embedding)


def load_affinity(profile: Profile, name: str) -> random_walk.AffinityHead:
    """The trained affinity head of a network's maps, trained now when it is not there yet."""
    head = new_affinity(profile, load_network(profile, name))
    head.load_state_dict(load_tensors(train_affinity(profile, name) / "weights.safetensors"))
    return head.to(device_of(profile)).eval()


def train_affinity(profile: Profile, name: str) -> Path:
    """Learn which places belong together from the confident parts of a network's maps.

    No mask is read: the labels are what CRFs at a low and at a high threshold agree on. Returns the
    folder of weights and history.json.
    """
    settings, weights = profile.walk, train_cam(profile, name)

    def make(folder: Path) -> None:
        device, model = device_of(profile), load_network(profile, name)
        images, labels, _ = read_split(profile, "train")
        images, labels = images[: settings.pictures], labels[: settings.pictures]
        sure = sure_labels(profile, name, images, labels)
        head = new_affinity(profile, model).to(device)
        steps = random_walk.offsets(settings.radius)
        optimiser = torch.optim.Adam(head.parameters(), lr=settings.lr)
        generator, history = torch.Generator().manual_seed(profile.seed), []
        state = load_checkpoint(folder)
        if state:
            head.load_state_dict(state["head"])
            optimiser.load_state_dict(state["optimiser"])
            generator.set_state(state["generator"])
            history = list(state["history"])
        with bar(settings.steps, f"affinities of {name}", len(history)) as progress:
            for step in range(len(history), settings.steps):
                some = torch.randint(len(images), (settings.batch,), generator=generator)
                x = images[some].to(device).float() / 255
                with torch.no_grad():
                    stages = features(model, x, settings.stride)
                values = random_walk.affinity(head(stages), steps)
                here = sure[some][:, :: settings.stride, :: settings.stride].to(device)
                loss = random_walk.affinity_loss(values, here, steps)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                history.append(loss.item())
                progress(loss=history[-1])
                if step % 100 == 99:
                    save_checkpoint(folder, step, head=head, optimiser=optimiser,
                                    generator=generator, history=history)  # fmt: skip
        write_json(folder / "history.json", history)
        save_tensors(folder / "weights.safetensors", head.state_dict())

    recipe = {"walk": settings, "weights": key_in(weights), "inference": profile.inference,
              "crf": profile.crf, "seed": profile.seed}  # fmt: skip
    return artifact(profile.outputs / "weights", f"{name}{WALK}", recipe, make)


def sure_labels(profile: Profile, name: str, images: Tensor, labels: Tensor) -> Tensor:
    """uint8 (N, S, S): objects that a CRF at walk.high finds, ground where one at walk.low finds
    none, 255 between."""
    settings, found = profile.walk, []
    for i, maps in _batches(profile, name, images):
        maps = pseudo_masks.normalise_cam(maps, labels[i], "max")
        low, high = (refine(profile, images[i], maps, t) for t in (settings.low, settings.high))
        unsure = torch.full_like(low, IGNORE).masked_fill(low == 0, 0)
        found.append(torch.where(high > 0, high, unsure))
    return torch.cat(found)


def _batches(profile: Profile, method: str, images: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(slice, maps) of one batch after the other, with a bar when there are many."""
    size = profile.inference.batch
    starts = tqdm(range(0, len(images), size), desc=f"maps of {method}", leave=False,
                  disable=len(images) <= 1000)  # fmt: skip
    for start, maps in zip(starts, _map_batches(profile, method, images), strict=True):
        yield slice(start, start + size), maps


def threshold_scores(profile: Profile, method: str, use_crf: bool = False) -> dict:
    """{how: mIoU at every threshold} on the first `chosen_on` train pictures.

    how: "max" for maps divided by their maxima; "none" as they are, for trained sigmoids.
    """
    settings, weights = profile.crf if use_crf else profile.inference, train_maps(profile, method)
    hows = ("max",) if network_of(method) in CLASSIC_MAPS else ("max", "none")

    def make(folder: Path) -> None:
        split = read_split(profile, "train", masks=True)
        images, labels, masks = (t[: settings.chosen_on] for t in split)
        classes, counts = labels.shape[1] + 1, dict.fromkeys(hows, 0)
        for i, maps in _batches(profile, method, images):
            for how in hows:
                normal = pseudo_masks.normalise_cam(maps, labels[i], how)
                cut = partial(refine, profile, images[i]) if use_crf else pseudo_masks.cam_to_mask
                counts[how] = counts[how] + torch.stack([
                    metrics.confusion(masks[i], cut(normal, t), classes)
                    for t in settings.thresholds
                ])  # fmt: skip
        scores = {how: [float(metrics.miou(c)) for c in found] for how, found in counts.items()}
        write_json(folder / "scores.json", scores)

    recipe = {"weights": key_in(weights), "inference": profile.inference,
              "masks": key_in(split_folder(profile, "train", "masks")),
              "crf": profile.crf if use_crf else None}  # fmt: skip
    name = f"{method}_crf" if use_crf else method
    return read_json(artifact(profile.outputs / "thresholds", name, recipe, make) / "scores.json")


def choose_threshold(profile: Profile, method: str, use_crf: bool = False) -> dict:
    """{"how", "threshold"} of the best of `threshold_scores`."""
    thresholds = (profile.crf if use_crf else profile.inference).thresholds
    scores = threshold_scores(profile, method, use_crf)
    how = max(scores, key=lambda h: max(scores[h]))
    return {"how": how, "threshold": thresholds[scores[how].index(max(scores[how]))]}


def score(prediction: Tensor, truth: Tensor) -> float:
    """mIoU of a few masks, with as many labels as the larger of the two holds."""
    labels = int(max(prediction.max(), truth[truth != IGNORE].max())) + 1
    return float(metrics.miou(metrics.confusion(truth, prediction, labels)))


CRF_SETTINGS = ("sharpness", "bilateral_weight", "bilateral_sxy", "bilateral_srgb",
                "gaussian_weight", "gaussian_sxy", "iterations")  # fmt: skip


def refine(
    profile: Profile, images: Tensor, cams: Tensor, threshold: float, **changes
) -> Tensor:
    """CRF masks uint8 (N, S, S) of normalised maps with the profile's settings, some changed."""
    settings = {name: getattr(profile.crf, name) for name in CRF_SETTINGS} | changes
    together = max(1, 2**17 // images[0, 0].numel())  # large ones one by one: then only the
    device = device_of(profile)  # classes in that picture cost time
    return torch.cat([
        crf.refine(x.to(device).float() / 255, m.to(device), threshold, **settings).cpu()
        for x, m in zip(images.split(together), cams.split(together), strict=True)
    ])  # fmt: skip


def segment(
    profile: Profile, method: str, images: Tensor, labels: Tensor, choice: dict, use_crf: bool
) -> Tensor:
    """Masks uint8 (N, S, S) of pictures with known image-level labels."""
    masks, threshold = [], choice["threshold"]
    for i, maps in _batches(profile, method, images):
        maps = pseudo_masks.normalise_cam(maps, labels[i], choice["how"])
        masks.append(refine(profile, images[i], maps, threshold) if use_crf
                     else pseudo_masks.cam_to_mask(maps, threshold))  # fmt: skip
    return torch.cat(masks)


def make_pseudo_masks(profile: Profile, method: str, split: str, use_crf: bool = True) -> Path:
    """Segment a split from its image-level labels; returns the folder of <name>.png masks."""
    weights = train_maps(profile, method)

    def make(folder: Path) -> None:
        names, sizes = open_split(profile, split).names, read_sizes(profile, split)
        images, labels, _ = read_split(profile, split)
        choice = choose_threshold(profile, method, use_crf)
        masks = segment(profile, method, images, labels, choice, use_crf)
        for name, mask, (height, width) in zip(names, masks, sizes.tolist(), strict=True):
            write_mask(folder / f"{name}.png", mask[:height, :width].numpy())

    recipe = {"weights": key_in(weights), "split": split, "inference": profile.inference,
              "crf": profile.crf if use_crf else None}  # fmt: skip
    return artifact(profile.outputs / "pseudo_masks", f"{method}_{split}", recipe, make)


def read_pseudo_masks(profile: Profile, folder: Path, split: str) -> Tensor:
    """The masks in a folder for a split's pictures: uint8 (N, S, S), 255 beyond each picture."""
    names, side = open_split(profile, split).names, profile.data.size
    masks = torch.full((len(names), side, side), IGNORE, dtype=torch.uint8)
    for canvas, name in zip(masks, names, strict=True):
        mask = torch.as_tensor(read_mask(folder / f"{name}.png"))
        canvas[: len(mask), : mask.shape[1]] = mask
    return masks
