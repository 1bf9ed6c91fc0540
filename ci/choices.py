"""What each choice of the published recipes does on MiniWorld: python ci/choices.py [--jobs N]

CLIMS is trained again with one setting of `mini` changed to a release's, all else, loss weights
included, as it is tuned for ours; over several seeds. Writes data/results/mini_choices.json, which
a notebook shows. Each training is an artifact: an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from everything import code_of_results  # noqa: E402
from run_results import measure_seeds  # noqa: E402

from clims_lib.artifacts import rounded, write_json  # noqa: E402
from clims_lib.results.choices import PATH  # noqa: E402
from clims_lib.results.tables import commit, environment, results_table  # noqa: E402

ONE_LIST = (
    '["sky, grass, road, water, river, sea, lake, street, meadow, floor, pavement, sand, '
    'railroad, railway, rails"]'
)

# {group: {what is changed: the settings}}; the first is what the others are held against.
CHOICES: dict[str, dict[str, list[str]]] = {
    "": {"as in mini": []},
    "loss": {
        "OTM, BTM: mean over pairs": ["losses.otm_btm=pair_mean"],
        "CBS: mean over pairs": ["losses.cbs=pair_mean"],
        "CBS: sum over pairs": ["losses.cbs=pair_sum"],
        "CBS: one list, thresholded": [
            "losses.cbs_form=thresholded",
            f"losses.background={ONE_LIST}",
        ],
        "no clamp": ["losses.clamped=[]"],
        "boat and train weigh 3": ['losses.class_weights={"boat" = 3.0, "train" = 3.0}'],
    },
    "what CLIP sees and reads": {
        "ImageNet's normalisation": ["losses.normalisation=imagenet"],
        "aligned corners": ["losses.align_corners=true"],
        "a full stop": ['prompts.template="a photo of {}."'],
        "person is “player”": ["prompts.words=improved"],
        "not finetuned": ["finetune.loss=none"],
        "finetuned contrastively": ["finetune.loss=contrastive"],
    },
    "network": {
        "a new head of two layers": ["clims.head=bottleneck", "clims.head_lr_factor=1.0"],
        "norms: fixed": ["clims.norms=fixed"],
        "norms: statistics only": ["clims.norms=statistics_only"],
        "last stage not dilated": ["cam.dilated=false"],
    },
    "maps": {
        "ReLU of the scores": ["clims.maps=relu"],
        "four scales, summed": ["inference.scales=[0.5, 1.0, 1.5, 2.0]", "inference.reduction=sum"],
    },
    # Of rates 0.03, 0.1, 0.3, 1, 3 for CAM and 0.003, 0.01, 0.03, 0.1 for CLIMS the best on val.
    "optimiser": {
        "SGD as released, own rates": [
            "compute.optimiser=released_sgd",
            "cam.lr=1.0",
            "cam.head_lr_factor=10.0",
            "clims.lr=0.03",
            "clims.head_lr_factor=10.0",
        ]
    },
}
SETTINGS = {name: settings for group in CHOICES.values() for name, settings in group.items()}


def measure(profile: str, seed: int, threads: int) -> dict:
    """Every choice of one seed; a training that breaks is a row that says so."""
    import torch

    from clims_lib.config import load_profile
    from clims_lib.stages.measures import measure

    torch.set_num_threads(threads)
    rows, broken = [], []
    for name, settings in SETTINGS.items():
        try:
            made = measure(load_profile(profile, [f"seed={seed}", *settings]), "clims")
        except ArithmeticError as error:  # a loss that is no number
            broken.append({"method": name, "error": str(error).splitlines()[0]})
        else:
            rows += [row | {"method": name} for row in made]
    return {"rows": rows, "broken": broken}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="seeds at a time (default: 2)")
    options = parser.parse_args()

    done = measure_seeds("mini", options.seeds, options.jobs, (measure,))
    if len(done) < len(options.seeds):
        return 1
    table: dict = {
        name: [{"seed": seed} | row for seed, one in sorted(done.items()) for row in one[name]]
        for name in ("rows", "broken")
    }
    groups = {group: list(names) for group, names in CHOICES.items()}
    about = {"environment": environment("cpu"), "commit": commit(), "code": code_of_results()}
    write_json(PATH, rounded(table) | {"groups": groups, "settings": SETTINGS} | about)
    print(results_table(table["rows"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
