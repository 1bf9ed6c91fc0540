"""Maps at 4 scales and mirrored against pytorch-grad-cam's GradCAM, and memory against count.

    python ci/benchmarks/cam_inference.py [--device cuda] [--crop 256] [--count 4]

The same network, the same pictures, the same maps: those of the classes that a picture holds.
GradCAM needs a backward pass for each class and scale; a CAM network's head is linear, so its maps
come out of the forward pass. And without a backward pass to come, its batch norms go into its
convolutions, as `maps.network_maps` does it.
"""

from __future__ import annotations

import argparse
import copy
import resource
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from pairs import keep, pair
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from clims_lib.cam import CAMNet, fold_batch_norms, multi_scale_cam
from clims_lib.stages.maps import read_cam, write_cam

SCALES = (0.5, 1.0, 1.5, 2.0)


class Pooled(nn.Module):
    """The network as a classifier, which is what GradCAM explains."""

    def __init__(self, network: CAMNet):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images).mean((2, 3))


def grad_cam(model: Pooled, images: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    """Maps (n, H, W) of each picture's classes: GradCAM at every scale, mirrored and not."""
    size, found = images.shape[-2:], []
    with GradCAM(model, [model.network.backbone.layer4]) as explain:
        for image, label in zip(images, labels, strict=True):
            maps = []
            for k in label.nonzero()[:, 0].tolist():
                total = torch.zeros(size)
                for scale in SCALES:
                    to = [round(side * scale) for side in size]
                    x = F.interpolate(image[None], to, mode="bilinear", align_corners=False)
                    for mirror in (False, True):
                        seen = x.flip(-1) if mirror else x
                        cam = torch.from_numpy(explain(seen, [ClassifierOutputTarget(k)]))[0]
                        cam = cam.flip(-1) if mirror else cam
                        total += F.interpolate(cam[None, None], size, mode="bilinear")[0, 0]
                maps.append(total)
            found.append(torch.stack(maps))
    return found


def ours(network: CAMNet, images: torch.Tensor, batch: int, amp: bool) -> list[torch.Tensor]:
    maps = []
    for part in images.split(batch):
        with torch.autocast(part.device.type, torch.bfloat16, enabled=amp):
            maps.append(
                multi_scale_cam(
                    network,
                    part.contiguous(memory_format=torch.channels_last),
                    scales=SCALES,
                    flip=True,
                    activation="relu",
                    stride=4,
                ).float()
            )
    return maps


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    network = CAMNet(20, (3, 4, 6, 3), stride=16).eval().to(options.device)
    network = network.to(memory_format=torch.channels_last)
    folded = fold_batch_norms(copy.deepcopy(network))
    images = torch.rand(options.count, 3, options.crop, options.crop, device=options.device)
    labels = torch.zeros(options.count, 20)
    for i, row in enumerate(labels):
        row[torch.randperm(20)[: 1 + i % 2]] = 1  # 1.5 classes a picture, as in VOC
    rows = []
    for amp in (False, True):
        found = pair(
            lambda amp=amp: ours(folded, images, 8, amp),
            lambda: grad_cam(Pooled(network), images, labels),
            options.rounds,
        )
        rows.append(
            {
                "what": f"maps of ResNet-50, {options.crop} pixels, 4 scales x 2, "
                f"{options.device}, {'bf16' if amp else 'fp32'}",
                "peer": "pytorch-grad-cam",
                "goal": 10.0,
                "ours_images_s": options.count / found["ours_s"],
            }
            | found
        )

    # Streaming: the memory of many pictures is that of few.
    thin = CAMNet(20, (1, 1, 1, 1), thin=8, stride=16).eval()
    before, peaks = peak_mib(), []
    with tempfile.TemporaryDirectory() as folder:
        for count in (64, 256, 1024):
            for start in range(0, count, 8):
                x = torch.rand(8, 3, 128, 128)
                maps = multi_scale_cam(
                    thin, x, scales=(1.0,), flip=True, activation="relu", stride=4
                )
                for i, cams in enumerate(maps):
                    write_cam(
                        Path(folder) / f"{start + i}.npz",
                        cams,
                        labels[i % len(labels)],
                        torch.tensor([128, 128]),
                        4,
                    )
            peaks.append(round(peak_mib() - before))
        size = sum(f.stat().st_size for f in Path(folder).iterdir()) / 2**20
        read_cam(Path(folder) / "0.npz", (128, 128), 4)
    rows.append(
        {
            "what": "memory of 64, 256, 1024 streamed pictures",
            "peak_MiB_above_start": peaks,
            "MiB_per_1024_pictures_on_disk": round(size, 1),
        }
    )
    keep(
        f"cam_inference_{options.device}",
        rows,
        "python ci/benchmarks/cam_inference.py " + " ".join(arguments or sys.argv[1:]),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
