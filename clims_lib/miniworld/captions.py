"""Pictures with captions for the small CLIP: whole scenes and cut-outs, described by what is seen.

OpenAI's CLIP met cut-out pictures, logos and product photos on the web; a small CLIP has to be
shown some. The cut-outs are drawn from the generator's own layers. Neither CLIP nor CLIMS is ever
given a mask: CLIP gets a picture and a sentence. Notebook 02 measures a CLIP without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from clims_lib.prompts import with_article

# How a view is cut; the profile's clip.cutouts say how often. A view says only what it still shows.
CUTS = (
    "whole",  # the scene as it is
    "alone",  # one thing, everything else removed
    "hole",  # everything but the objects: a hole in the shape of a train
    "subset",  # any of the things
    "blobs",  # soft round windows, wherever they fall
    "parts",  # one object with a piece missing, or that piece
    "blank",  # nothing at all
    "dimmed",  # the whole scene, darker
    "blurred",  # one object sharp, as through a wide lens: the rest out of focus, or one colour
)
SEEN = 0.3  # a thing is named when at least this share of it is still to be seen
EMPTY = ("an empty picture", "nothing")
PREFIXES = ("", "", "a photo of ", "a picture of ")


def keep_weights(cut: str, things: Sequence, generator: torch.Generator) -> list[float]:
    """T weights in {0, 1}: which things of a scene stay in the picture under this cut."""
    draw = torch.rand(len(things), generator=generator).tolist()
    objects = [t.is_object for t in things]

    def drawn(among: list[bool]) -> list[float]:
        """1 for the one of these with the highest draw."""
        best = max(range(len(things)), key=lambda i: among[i] * (draw[i] + 0.01))
        return [float(i == best) for i in range(len(things))]

    if cut == "blank":
        return [0.0] * len(things)
    if cut == "hole" and any(objects):
        # Mostly all objects go; sometimes only one of them, so that holes and objects also meet.
        all_go = torch.rand((), generator=generator) < 0.7
        return [1.0 - out for out in (objects if all_go else drawn(objects))]
    if cut == "blurred" and any(objects):
        return drawn(objects)
    if cut in ("alone", "parts"):
        use_objects = any(objects) and (cut == "parts" or draw[0] < 0.75)
        return drawn(objects if use_objects or all(objects) else [not o for o in objects])
    if cut == "subset":
        return [float(d < 0.5) for d in draw]
    return [1.0] * len(things)


def soft_blobs(count: int, size: int, generator: torch.Generator) -> Tensor:
    """(count, size, size) soft windows in [0, 1]: a disc with blurred edge, or all but it."""
    r = lambda: torch.rand((count, 1, 1), generator=generator)  # noqa: E731
    y = torch.linspace(0, 1, size)[None, :, None]
    x = torch.linspace(0, 1, size)[None, None, :]
    radius, stretch = 0.12 + 0.35 * r(), 0.5 + r()
    distance = (((y - r()) / stretch) ** 2 + ((x - r()) * stretch) ** 2).sqrt()
    blob = torch.sigmoid((radius - distance) / (0.02 + 0.08 * r()))
    return torch.where(r() < 0.5, blob, 1 - blob)


def half_planes(count: int, size: int, generator: torch.Generator) -> Tensor:
    """(count, size, size) windows in {0, 1} with one straight edge, anywhere and any way."""
    angle = 2 * torch.pi * torch.rand((count, 1, 1), generator=generator)
    offset = 0.5 * torch.rand((count, 1, 1), generator=generator) - 0.25
    grid = torch.linspace(-0.5, 0.5, size)
    return (grid[:, None] * angle.sin() + grid[None] * angle.cos() > offset).float()


def rough_edges(keep: Tensor, some: Tensor, generator: torch.Generator) -> Tensor:
    """Grow, shrink or blur (as an upsampled CAM is blurred) some (V,) of the windows (V, H, W)."""
    choice = torch.rand(len(keep), generator=generator)
    grown, blurred = some & (choice < 0.15), some & (choice >= 0.5)
    shrunk = some & (choice >= 0.15) & (choice < 0.25)
    out = keep[:, None].clone()
    out[grown] = F.max_pool2d(out[grown], 3, 1, 1)
    out[shrunk] = -F.max_pool2d(-out[shrunk], 3, 1, 1)
    coarse = F.avg_pool2d(out[blurred], 4)
    out[blurred] = F.interpolate(coarse, keep.shape[-2:], mode="bilinear", align_corners=False)
    return out[:, 0]


def unfocused(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (V, 3, H, W) with only broad patches of their colours left, or their mean colour."""
    broad = F.interpolate(F.avg_pool2d(images, 8), images.shape[-2:], mode="bilinear")
    flat = torch.rand((len(images), 1, 1, 1), generator=generator) < 0.5
    return torch.where(flat, images.mean((2, 3), keepdim=True), broad)


def caption(seen: Sequence, generator: torch.Generator) -> str:
    """A short sentence that names the things seen: objects first, then some of the grounds.

    Web captions are incomplete: where an object is seen, each ground is named half of the time.
    """
    rand = lambda: float(torch.rand((), generator=generator))  # noqa: E731
    objects = [with_article(t.noun) for t in seen if t.is_object]
    grounds = [t.noun for t in seen if not t.is_object]
    if objects:
        grounds = [g for g in grounds if rand() < 0.5][-2:]  # the nearest: captions stay short
    elif len(grounds) > 1:
        grounds = [g for g in grounds if rand() < 0.75] or grounds[:1]
    if not objects and not grounds:
        return EMPTY[int(rand() < 0.5)]
    names = list(dict.fromkeys(objects)) + list(dict.fromkeys(grounds))
    prefix = PREFIXES[int(rand() * len(PREFIXES))]
    if len(objects) == 1 and len(names) == 1 and rand() < 0.5:  # "a photo of train", as CLIMS says
        names = [seen[[t.is_object for t in seen].index(True)].noun]
    return prefix + " and ".join(names)


def cut_views(
    images: Tensor,
    thing_maps: Tensor,
    things: Sequence[Sequence],
    generator: torch.Generator,
    cuts: Mapping[str, float],
) -> tuple[Tensor, list[str]]:
    """One cut view of each scene and its caption.

    images: (V, 3, H, W) in CLIP's normalised units (mean colour = 0); thing_maps: (V, H, W) indices
    into things[v]; cuts: how often each of CUTS is taken. Repeat a scene to get several views of
    it: two views in one batch are each other's hard negatives. Returns pictures (V, 3, H, W) and
    V captions. Raises ValueError for an unknown cut.
    """
    unknown = set(cuts) - set(CUTS)
    if unknown:
        raise ValueError(f"unknown cuts {sorted(unknown)}; known: {sorted(CUTS)}")
    count, size = len(images), images.shape[-1]
    names = list(cuts)
    which = torch.multinomial(torch.tensor(list(cuts.values())), count, True, generator=generator)
    width = max(len(t) for t in things)
    weights = torch.tensor(
        [
            keep_weights(names[cut], scene, generator) + [0.0] * (width - len(scene))
            for cut, scene in zip(which.tolist(), things, strict=True)
        ]
    )
    maps = thing_maps.long()
    keep = weights.gather(1, maps.flatten(1)).view(maps.shape)
    is_cut = lambda name: which == names.index(name) if name in names else which < 0  # noqa: E731
    blobs, planes = is_cut("blobs"), is_cut("parts")
    keep[blobs] = soft_blobs(int(blobs.sum()), size, generator)
    keep[planes] *= half_planes(int(planes.sum()), size, generator)
    keep = rough_edges(keep, ~(is_cut("whole") | is_cut("dimmed")), generator)

    area = torch.zeros(count, width).scatter_add(
        1, maps.flatten(1), torch.ones_like(keep).flatten(1)
    )
    left = torch.zeros(count, width).scatter_add(1, maps.flatten(1), keep.flatten(1))
    visible = (left > SEEN * area) & (left > 0.006 * size * size)
    captions = [
        caption([t for t, ok in zip(scene, seen, strict=False) if ok], generator)
        for scene, seen in zip(things, visible.tolist(), strict=True)
    ]
    fill = torch.rand((count, 1, 1, 1), generator=generator)
    colour = 4 * torch.rand((count, 3, 1, 1), generator=generator) - 2
    colour = torch.where(fill < 0.85, -1.8, colour)
    gain = torch.where(is_cut("dimmed"), 0.5, 1.0)[:, None, None, None]
    keep, filled = keep[:, None], fill.flatten() >= 0.75  # the others' holes are 0, the mean colour
    shown = images * (keep * gain)
    shown[filled] += colour[filled] * (1 - keep[filled])
    if bool((soft := is_cut("blurred")).any()):
        behind = unfocused(images[soft], generator)
        shown[soft] = behind + keep[soft] * (images[soft] - behind)
    return shown, captions
