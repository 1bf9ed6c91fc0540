"""The arrows of the tutorial: data -> CLIP -> finetuned CLIP -> CAM networks.

Each stage takes the profile, returns a finished artifact's folder, and computes it only when its
settings, its seed or its inputs' changed. The only code that knows settings, disk and pieces.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from clims_lib import clip_model, finetune, miniworld, prompts, training
from clims_lib.artifacts import (
    artifact,
    key_in,
    load_checkpoint,
    load_tensors,
    save_checkpoint,
    save_tensors,
    write_json,
)
from clims_lib.cam import CAMNet
from clims_lib.captions import cut_views
from clims_lib.config import Profile, did_you_mean
from clims_lib.voc import VOCFolder

# CLIMS without one of its terms: the ablation of notebook 03.
ABLATIONS = {f"clims_no_{term}": term for term in ("otm", "btm", "cbs", "reg")}
CLASSIC = ("cam", "cam_longer", "puzzle_cam", "full_masks")  # from random weights
METHODS = (*CLASSIC, "cam_area", "clims", *ABLATIONS)


def device_of(profile: Profile) -> torch.device:
    """The profile's device; "auto" is a GPU where there is one."""
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(auto if profile.device == "auto" else profile.device)


def make_data(profile: Profile) -> Path:
    """Return the data set's folder; MiniWorld is drawn on first use, VOC must be there."""
    data = profile.data
    if data.source == "miniworld":
        sizes = {name: getattr(data, name) for name in ("train", "val", "test", "labelled", "size")}
        return miniworld.write_dataset(profile.data_root, seed=0, **sizes)
    if not (profile.data_root / "JPEGImages").is_dir():
        raise FileNotFoundError(f"no VOC-layout data set at {profile.data_root}")
    return profile.data_root


def read_split(profile: Profile, split: str, masks: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """A split in memory: images uint8 (N, 3, H, W), labels (N, K), masks uint8 (N, H, W) or None.

    Stages that learn from image-level labels leave `masks` False: they never hold one.
    """
    folder = VOCFolder(make_data(profile), split, profile.data.classes, masks=masks)
    samples = [folder[i] for i in range(len(folder))]
    images, labels = (torch.stack([s[i] for s in samples]) for i in (1, 2))
    return images, labels, torch.stack([s.mask for s in samples]) if masks else None


class CaptionBatches:
    """Batches of cut views with captions for the small CLIP; step and seed decide each one."""

    def __init__(self, profile: Profile, size: int, salt: int = 0):
        self.corpus = miniworld.make_corpus(0, profile.data.captions)
        self.size, self.seed = size // 2, 2 * profile.seed + salt
        self.cuts = asdict(profile.clip.cutouts)

    def __call__(self, step: int) -> tuple[Tensor, list[str]]:
        """Two views each of size / 2 scenes: (size, 3, H, W) in CLIP's units, size captions."""
        g = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        some = torch.randint(len(self.corpus.images), (self.size,), generator=g).repeat(2)
        images = clip_model.normalise(self.corpus.images[some].float() / 255)
        maps, mirror = self.corpus.thing_maps[some], torch.rand(self.size, generator=g) < 0.5
        mirror = mirror.repeat(2)
        images = torch.where(mirror[:, None, None, None], images.flip(-1), images)
        maps = torch.where(mirror[:, None, None], maps.flip(-1), maps)
        things = [self.corpus.things[i] for i in some.tolist()]
        images, captions = cut_views(images, maps, things, g, self.cuts)
        return images.contiguous(memory_format=torch.channels_last), captions


def make_clip(profile: Profile) -> Path:
    """Train the small CLIP from the caption corpus (about 5 minutes), or take a checkpoint.

    Returns the folder of clip.pt, a state dict that `clip.load` reads.
    """
    settings, device = profile.clip, device_of(profile)

    def make(folder: Path) -> None:
        model = clip_model.new_clip(
            resolution=profile.data.size, layers=settings.layers, width=settings.width,
            embed_dim=settings.embedding, text_width=settings.text_width,
            text_layers=settings.text_layers, context_length=settings.context, seed=profile.seed,
        ).to(device, memory_format=torch.channels_last)  # fmt: skip
        state = load_checkpoint(folder)
        batches = CaptionBatches(profile, settings.batch)
        with bar(settings.steps, "CLIP from captions", (state or {}).get("step", 0)) as progress:
            losses = clip_model.train_clip(
                model, batches, steps=settings.steps, lr=settings.lr, state=state,
                save=lambda step, parts: save_checkpoint(folder, **parts), progress=progress,
            )  # fmt: skip
        write_json(folder / "history.json", losses)
        clip_model.save_clip(model, folder / "clip.pt")

    recipe = {"clip": settings, "captions": profile.data.captions, "seed": profile.seed,
              "world": miniworld._drawing_version()}  # fmt: skip
    return artifact(profile.outputs / "weights", "clip", recipe, make)


def finetune_clip(profile: Profile) -> Path:
    """Finetune CLIP on the class texts from image-level labels; returns the folder of clip.pt."""
    settings, source = profile.finetune, make_clip(profile)

    def make(folder: Path) -> None:
        model = clip_model.load_clip(source / "clip.pt", device_of(profile))
        images, labels, _ = read_split(profile, "train")
        pictures = clip_model.normalise(images.float() / 255)
        common = {"steps": settings.steps, "lr": settings.lr, "batch_size": settings.batch,
                  "generator": torch.Generator().manual_seed(profile.seed)}  # fmt: skip
        texts = prompts.class_texts(profile.data.classes)
        with bar(settings.steps, "finetuning CLIP") as progress:
            if settings.loss == "hinge":
                replay = CaptionBatches(profile, settings.replay, salt=1)
                losses = finetune.finetune_text_tower(
                    model, pictures, labels, texts, replay,
                    margin=settings.margin, progress=progress, **common,
                )  # fmt: skip
            else:
                losses = finetune.finetune_both_towers(
                    model, pictures, labels, texts, weight_decay=settings.weight_decay,
                    correct_shared=settings.correct_shared, progress=progress, **common,
                )  # fmt: skip
        write_json(folder / "history.json", losses)
        clip_model.save_clip(model, folder / "clip.pt")

    recipe = {"finetune": settings, "clip": key_in(source), "seed": profile.seed}
    return artifact(profile.outputs / "weights", "clip_finetuned", recipe, make)


def clip_texts(profile: Profile, model) -> tuple[Tensor, Tensor]:
    """Class texts (K, D) and background texts (K, L, D), encoded once; NaN fills short lists up."""
    classes = profile.data.classes
    table = prompts.parse_background(profile.losses.background)
    with torch.no_grad():
        rows = [clip_model.encode_texts(model, texts)
                for texts in prompts.background_texts(classes, table)]  # fmt: skip
        return (clip_model.encode_texts(model, prompts.class_texts(classes)),
                prompts.stack_ragged(rows))  # fmt: skip


def loss_weights(profile: Profile, method: str = "clims") -> tuple[float, float, float, float]:
    """(OTM, BTM, CBS, REG) of CLIMS or of one of its ablations."""
    without = ABLATIONS.get(method)
    names = ("otm", "btm", "cbs", "reg")
    return tuple(0.0 if n == without else getattr(profile.losses, n) for n in names)


def new_network(profile: Profile) -> CAMNet:
    """The profile's CAM network with fresh weights from its seed."""
    cam = profile.cam
    with torch.random.fork_rng():
        torch.manual_seed(profile.seed)
        return CAMNet(len(profile.data.classes), cam.layers, thin=cam.thin, stride=cam.stride)


def load_network(profile: Profile, method: str) -> CAMNet:
    """A trained network in eval mode, trained now when it is not there yet."""
    model = new_network(profile)
    model.load_state_dict(load_tensors(train_cam(profile, method) / "weights.safetensors"))
    return model.to(device_of(profile), memory_format=torch.channels_last).eval()


def train_cam(profile: Profile, method: str) -> Path:
    """Train the CAM network by one of METHODS; returns the folder of weights and history.json."""
    if method not in METHODS:
        raise ValueError(f"no method {method!r}{did_you_mean(method, METHODS)}")
    settings, inputs = _cam_settings(profile, method), {}
    if method not in CLASSIC:
        inputs["start"] = key_in(train_cam(profile, "cam"))
    if method == "clims" or method in ABLATIONS:
        inputs["clip"] = key_in(finetune_clip(profile))
        form = asdict(profile.losses) | {"weights": loss_weights(profile, method)}
        inputs["losses"] = {k: v for k, v in form.items() if k not in ("otm", "btm", "cbs", "reg")}

    def make(folder: Path) -> None:
        device = device_of(profile)
        model = new_network(profile) if "start" not in inputs else load_network(profile, "cam")
        model = model.to(device, memory_format=torch.channels_last)
        data = read_split(profile, "train", masks=method == "full_masks")
        batches = training.MemoryBatches(*data, settings["batch"], profile.seed)
        state, per_epoch = load_checkpoint(folder), len(batches(0))
        done = (state or {}).get("epoch", 0) * per_epoch
        with bar(settings["epochs"] * per_epoch, method, done) as progress:
            history = training.train(
                model, _cam_loss(profile, method), batches, epochs=settings["epochs"],
                lr=settings["lr"], weight_decay=settings["weight_decay"],
                head_lr_factor=settings.get("head_lr_factor", 1.0),
                clip_norm=settings.get("clip_norm", 0.0), state=state,
                save=lambda parts: save_checkpoint(folder, parts["epoch"], **parts),
                progress=progress, watch=_keep_maps(profile, folder),
            )  # fmt: skip
        write_json(folder / "history.json", history)
        save_tensors(folder / "weights.safetensors", model.state_dict())

    recipe = {"method": method, "settings": settings, "cam": profile.cam, "seed": profile.seed,
              "data": profile.data, "world": miniworld._drawing_version(), **inputs}  # fmt: skip
    return artifact(profile.outputs / "weights", method, recipe, make)


def _keep_maps(profile: Profile, folder: Path):
    """A `watch` for training: the score maps of 48 val pictures after every epoch, on disk."""
    images = read_split(profile, "val")[0][:48].float() / 255

    @torch.no_grad()
    def watch(epoch: int, model: CAMNet) -> None:
        x = images.to(device_of(profile)).contiguous(memory_format=torch.channels_last)
        scores = model.eval()(x).float().half()
        save_tensors(folder / f"maps_{epoch:02d}.safetensors", {"scores": scores})

    return watch


def _cam_settings(profile: Profile, method: str) -> dict:
    if method == "puzzle_cam":
        return asdict(profile.puzzle)
    if method in ("clims", "cam_area", *ABLATIONS):
        area = {"area_weight": profile.cam.area_weight} if method == "cam_area" else {}
        return asdict(profile.clims) | area
    epochs = profile.cam.longer_epochs if method == "cam_longer" else profile.cam.epochs
    return {"epochs": epochs, "batch": profile.cam.batch, "lr": profile.cam.lr,
            "weight_decay": profile.cam.weight_decay}  # fmt: skip


def _cam_loss(profile: Profile, method: str) -> training.Loss:
    if method == "puzzle_cam":
        puzzle = profile.puzzle
        return training.puzzle_loss(
            tiles=puzzle.tiles, alpha=puzzle.alpha, ramp=puzzle.alpha_ramp
        )
    if method == "full_masks":
        return training.full_mask_loss(len(profile.data.classes))
    if method in ("cam", "cam_longer", "cam_area"):
        return training.cam_loss(profile.cam.area_weight if method == "cam_area" else 0.0)
    model = clip_model.load_clip(finetune_clip(profile) / "clip.pt", device_of(profile))
    form = profile.losses
    return training.clims_training_loss(
        clip_model.image_encoder(model), *clip_texts(profile, model),
        weights=loss_weights(profile, method),
        cbs_threshold=form.cbs_threshold if form.cbs_form == "thresholded" else None,
    )  # fmt: skip


def side_by_side(stage: Callable[[Profile, str], Path], profile: Profile, names: list[str]) -> None:
    """Run stage(profile, name) of every name, as many at a time as there are cores (at most 4).

    Small networks keep one core busy, not two: two trainings of one thread each are done sooner
    than one after the other. On a GPU they take turns. What is finished stays when another fails.
    """
    cores = len(os.sched_getaffinity(0))
    jobs = 1 if device_of(profile).type == "cuda" else min(4, cores, len(names))
    if jobs == 1:
        for name in names:
            stage(profile, name)
        return
    quiet = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"  # their bars would overwrite each other: one bar counts them
    spawn = multiprocessing.get_context("spawn")  # forking a process with torch threads can hang
    try:
        with ProcessPoolExecutor(
            jobs, spawn, initializer=torch.set_num_threads, initargs=(cores // jobs,)
        ) as pool:
            work = [pool.submit(stage, profile, name) for name in names]
            for future in tqdm(as_completed(work), total=len(work), desc=", ".join(names)):
                future.result()
    finally:
        os.environ.pop("TQDM_DISABLE")
        if quiet is not None:
            os.environ["TQDM_DISABLE"] = quiet


class bar:
    """A tqdm bar for the training loops' `progress(loss=...)`, going on from `done`."""

    def __init__(self, steps: int, title: str, done: int = 0):
        self.bar = tqdm(total=steps, initial=done, desc=title)

    def __enter__(self):
        return lambda loss: (self.bar.update(), self.bar.set_postfix(loss=f"{loss:.3f}"))

    def __exit__(self, *_):
        self.bar.close()
