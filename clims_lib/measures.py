"""From a trained network to the rows of results.json, and to pseudo masks on disk.

Thresholds are chosen on train pictures, never on val or test; the image-level labels are given to
every weakly supervised method, as in the papers. Notebook 07 lists the rows.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from clims_lib import clip_model, crf, metrics, oracle, prompts, pseudo_masks
from clims_lib.artifacts import artifact, key_in, read_json, read_manifest, write_json
from clims_lib.cam import multi_scale_cam
from clims_lib.config import Profile
from clims_lib.results import rounded
from clims_lib.stages import (
    clip_texts,
    device_of,
    load_network,
    loss_weights,
    make_data,
    read_split,
    train_cam,
)
from clims_lib.voc import VOCFolder, ground_names

CLASSIC_MAPS = ("cam", "cam_longer", "puzzle_cam")  # ReLU maps; the others are trained sigmoids
LEAKS = {"railroad->train": ("railroad", "train"), "water->boat": ("water", "boat")}


@torch.no_grad()
def compute_cams(profile: Profile, method: str, images: Tensor) -> Tensor:
    """Maps (N, K, H, W) of uint8 pictures (N, 3, H, W), before normalisation."""
    model, device = load_network(profile, method), device_of(profile)
    settings = profile.inference
    activation = "relu" if method in CLASSIC_MAPS else "sigmoid"
    with clip_model.autocast(device, True):
        return torch.cat([
            multi_scale_cam(model, part.to(device).float() / 255, scales=settings.scales,
                            flip=settings.flip, activation=activation).float().cpu()
            for part in images.split(settings.batch)
        ])  # fmt: skip


def choose_threshold(profile: Profile, method: str, use_crf: bool = False) -> dict:
    """{"how", "threshold"} of the best mIoU on the first `chosen_on` train pictures."""
    settings = profile.crf if use_crf else profile.inference
    images, labels, masks = (t[: settings.chosen_on] for t in read_split(profile, "train", True))
    cams = compute_cams(profile, method, images)
    best = (-1.0, {})
    for how in ("max",) if method in CLASSIC_MAPS else ("max", "none"):
        normal = pseudo_masks.normalise_cam(cams, labels, how)
        if use_crf:
            scores = [score(refine(profile, images, normal, t), masks) for t in settings.thresholds]
            at = int(torch.tensor(scores).argmax())
            threshold, value = settings.thresholds[at], scores[at]
        else:
            threshold, value = pseudo_masks.best_threshold(
                list(normal), list(labels), list(masks), settings.thresholds, "none"
            )
        best = max(best, (value, {"how": how, "threshold": threshold}), key=lambda pair: pair[0])
    return best[1]


def score(prediction: Tensor, truth: Tensor) -> float:
    """mIoU of MiniWorld-sized masks, with as many labels as the larger of the two holds."""
    labels = int(max(prediction.max(), truth[truth != 255].max())) + 1
    return float(metrics.miou(metrics.confusion(truth, prediction, labels)))


def refine(profile: Profile, images: Tensor, cams: Tensor, threshold: float) -> Tensor:
    """CRF masks uint8 (N, H, W) of normalised maps with the profile's settings."""
    c = profile.crf
    return torch.cat([
        crf.refine(x.float() / 255, m, threshold, sharpness=c.sharpness,
                   bilateral_weight=c.bilateral_weight, bilateral_sxy=c.bilateral_sxy,
                   bilateral_srgb=c.bilateral_srgb, gaussian_weight=c.gaussian_weight,
                   gaussian_sxy=c.gaussian_sxy, iterations=c.iterations)
        for x, m in zip(images.split(32), cams.split(32), strict=True)
    ])  # fmt: skip


def segment(
    profile: Profile, method: str, images: Tensor, labels: Tensor, choice: dict, use_crf: bool
) -> Tensor:
    """Masks uint8 (N, H, W) of pictures with known image-level labels."""
    cams = compute_cams(profile, method, images)
    cams = pseudo_masks.normalise_cam(cams, labels, choice["how"])
    if use_crf:
        return refine(profile, images, cams, choice["threshold"])
    return pseudo_masks.cam_to_mask(cams, choice["threshold"])


def leaks(profile: Profile, split: str, prediction: Tensor) -> dict[str, float]:
    """Leak rates of the grounds the data set knows; empty where it has none."""
    root = make_data(profile)
    if not (root / "grounds.txt").is_file():
        return {}
    ground = ground_masks(profile, split)
    names, classes = list(ground_names(root)), list(profile.data.classes)
    found = {}
    for key, (under, name) in LEAKS.items():
        labelled, total = metrics.leak_rate(
            prediction, ground, names.index(under) + 1, classes.index(name) + 1
        )
        found[key] = float(labelled) / max(1.0, float(total))
    return found


def row_of(profile: Profile, method: str, split: str, prediction: Tensor, truth: Tensor) -> dict:
    """The scores of one row of results.json."""
    names = ["background", *profile.data.classes]
    counts = metrics.confusion(truth, prediction, len(names))
    return {
        "method": method, "split": split, "seed": profile.seed,
        "miou": float(metrics.miou(counts)),
        "iou": {n: float(v) for n, v in zip(names, metrics.iou(counts), strict=True)},
        "leak": leaks(profile, split, prediction),
    }  # fmt: skip


def measure(profile: Profile, method: str, use_crf: bool = False) -> list[dict]:
    """Rows of one method on val and test; its threshold comes from train."""
    weights = train_cam(profile, method)

    def make(folder: Path) -> None:
        choice, rows = choose_threshold(profile, method, use_crf), []
        for split in ("val", "test"):
            images, labels, truth = read_split(profile, split, masks=True)
            prediction = segment(profile, method, images, labels, choice, use_crf)
            name = f"{method}_crf" if use_crf else method
            rows.append(row_of(profile, name, split, prediction, truth) | choice | {
                "crf": use_crf, "seconds": read_manifest(weights)["seconds"]})  # fmt: skip
        write_json(folder / "rows.json", rounded(rows))

    recipe = {"weights": key_in(weights), "inference": profile.inference,
              "crf": profile.crf if use_crf else None}  # fmt: skip
    name = f"{method}_crf" if use_crf else method
    return read_json(artifact(profile.outputs / "measured", name, recipe, make) / "rows.json")


@torch.no_grad()
def zero_shot(profile: Profile, clip_folder: Path, name: str, split: str = "test") -> dict:
    """Per-class accuracy of "a photo of {class}" on the pictures that hold one class only."""
    device = device_of(profile)
    model = clip_model.load_clip(clip_folder / "clip.pt", device)
    images, labels, _ = read_split(profile, split)
    alone = labels.sum(1) == 1
    encode = clip_model.image_encoder(model)
    texts = clip_model.encode_texts(model, prompts.class_texts(profile.data.classes))
    pictures = clip_model.normalise(images[alone].to(device).float() / 255).split(256)
    guess = torch.cat([(encode(part) @ texts.T).argmax(1).cpu() for part in pictures])
    truth = labels[alone].argmax(1)
    accuracy = {
        c: float((guess[truth == k] == k).float().mean()) if bool((truth == k).any()) else None
        for k, c in enumerate(profile.data.classes)
    }
    return {"model": name, "split": split, "seed": profile.seed, "accuracy": accuracy}


def oracle_check(profile: Profile, clip_folder: Path, pictures: int = 80) -> list[dict]:
    """results.json's oracle rows on val: the CLIMS loss at seven masks of every class."""
    device = device_of(profile)
    model = clip_model.load_clip(clip_folder / "clip.pt", device)
    class_text, background_text = clip_texts(profile, model)
    images, labels, masks = read_split(profile, "val", masks=True)
    ground = ground_masks(profile, "val")
    form, rows = profile.losses, []
    for k, name in enumerate(profile.data.classes):
        some = labels[:, k].nonzero()[:pictures, 0]
        if not len(some):
            continue
        losses = oracle.losses_at_masks(
            clip_model.image_encoder(model),
            clip_model.normalise(images[some].to(device).float() / 255),
            (masks[some] == k + 1).float().to(device), home_ground(ground[some]).to(device), k,
            class_text, background_text, weights=loss_weights(profile), stride=profile.cam.stride,
            cbs_threshold=form.cbs_threshold if form.cbs_form == "thresholded" else None,
        )  # fmt: skip
        rows += [{"class": name, "mask": m, "seed": profile.seed} | v for m, v in losses.items()]
    return rows


def ground_masks(profile: Profile, split: str) -> Tensor:
    """uint8 (N, H, W): the ground's number under every pixel, 0 at objects."""
    folder = VOCFolder(make_data(profile), split, profile.data.classes, masks=False)
    return torch.stack([torch.as_tensor(folder.ground(i)) for i in range(len(folder))])


def home_ground(ground: Tensor) -> Tensor:
    """float (N, H, W): the pixels of the ground that most of these pictures' ground is."""
    counts = torch.bincount(ground[ground > 0].long())
    return (ground == int(counts.argmax())).float()
