"""Keys never lie: what changes when a setting, a file of the data or a piece of code changes.

No stage runs here. Every key is computed as the stages compute it, once for each change. The tables
tests/keys/*.txt, which a reader can check line by line, say for each change whose recipe has it:

    losses.weights.btm    weights: clims clims_no_btm clims_no_cbs clims_no_otm clims_no_reg

What is made from these gets another key, too; a test follows the inputs to see that it is so. After
a change that is meant, PYTHONPATH=.:ci:tests python tests/test_keys.py writes the tables anew: read
the diff.
"""

import dataclasses
import io
import json
import sys
import tempfile
import typing
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from conftest import profile_of, write_small_voc
from PIL import Image

from clims_lib import sources, stage
from clims_lib.artifacts import folder_of, key_of
from clims_lib.config import Profile, load_profile
from clims_lib.data import splits
from clims_lib.stages import cams, clip, counts, masks, measures, methods, networks

PROFILES = (
    *("mini", "tiny", "voc2012", "voc2012_release", "voc2012_sample"),
    *("voc2012_smoke", "voc2012_release_smoke"),
)
TABLES = Path(__file__).parent / "keys"
# Settings without influence on what a stage makes.
HARMLESS = {*stage.HARMLESS} - {"seed"}


@pytest.fixture
def dry(monkeypatch):
    """keys(profile) -> {kind/name: key} of all that a run makes, without making it."""
    yield dry_run(monkeypatch)


class Made(NamedTuple):
    """What the run would make: its key, the recipe without references, the folders it refers to."""

    key: str
    own: str
    inputs: tuple[str, ...]


def dry_run(patch, real_data=False):
    made: dict[str, Made] = {}

    def artifact(root, name, recipe, make, about, team):
        folder = folder_of(root, name, recipe)
        references = {k: v for k, v in recipe["inputs"].items() if "/" in str(v)}
        others = {k: v for k, v in recipe["inputs"].items() if k not in references}
        inputs = tuple(str(v).rpartition("-")[0] for v in references.values())
        own = key_of(recipe | {"inputs": [others, inputs]})
        made[f"{root.name}/{name}"] = Made(folder.name.rpartition("-")[2], own, inputs)
        return folder

    patch.setattr(stage, "artifact", artifact)
    patch.setattr(stage, "why", lambda folder, recipe: [])
    # the threshold that would be chosen stands for the folder that it is chosen from
    patch.setattr(masks, "read_json", lambda path: {"max": [f"thresholds/{path.parent.name}"]})
    chosen = lambda profile, name: {  # noqa: E731
        "how": "max", "threshold": masks.threshold_scores(profile, name)["max"][0]}  # fmt: skip
    for module in (masks, measures):
        patch.setattr(module, "choose_threshold", chosen)
    patch.setattr(measures, "read_json", lambda path: [])
    patch.setattr(measures, "read_manifest", lambda folder: {"seconds": 0})
    # other texts and classes have keys, too, whether or not they fit together
    patch.setattr(networks, "check_losses", lambda profile: None)
    patch.setattr(clip, "find_clip", lambda profile: Path(profile.clip_checkpoint))
    patch.setattr(clip, "digest_of", lambda files, known: str(files[0]))
    hashes: dict = {}

    def code_of(*items):  # once for each set of items, until somebody reads modules otherwise
        names = (sources.read_module, *((i.__module__, i.__qualname__) for i in items))
        if names not in hashes:
            hashes[names] = sources.code_of(*items)
        return hashes[names]

    patch.setattr(stage, "code_of", code_of)
    forget = remember_stages(patch)
    if not real_data:
        fake_data(patch)

    def keys(profile):
        made.clear()
        forget()
        for name in methods.table_rows(profile):
            measures.measure(profile, name)
            if name not in methods.trainers(profile):
                for split in ("train", *profile.data.evaluated):
                    cams.make_cams(profile, methods.row_of(name).maps, split)
        return dict(made)

    return keys


def library():
    return [m for name, m in list(sys.modules.items()) if name.startswith("clims_lib.")]


def remember_stages(patch):
    """Each stage is asked once a run, however many others ask for it; returns what forgets."""
    stages = {
        f"{module.__name__}.{name}"
        for module in library()
        for name, one in sources.read_module(module.__name__).definitions.items()
        if sources.STAGE in one.uses
    }
    caches = []
    for module in library():
        for name, function in list(vars(module).items()):
            if f"{getattr(function, '__module__', '')}.{name}" in stages:
                caches.append({})
                patch.setattr(module, name, _remembered(function, caches[-1]))
    return lambda: [one.clear() for one in caches]


def _remembered(function, found):
    @wraps(function)
    def asked_once(*given, **named):
        key = repr((given[1:], named))  # the first one is the profile, the same for a whole run
        if key not in found:
            found[key] = function(*given, **named)
        return found[key]

    return asked_once


def fake_data(patch):
    """Data sets of the sizes that the profile names; their contents change with these."""

    def open_split(profile, split, masks=False, labels=True):
        data = profile.data
        counts = {"train": data.train - 2, "train_labelled": data.labelled}
        return SimpleNamespace(names=tuple(map(str, range(max(1, counts.get(split, 8))))))

    def contents(profile, split, kind):
        data = profile.data
        drawn = [data.train, data.val, data.test, data.labelled, data.size]
        listed = [data.train_list] if split.startswith("train") else []
        return key_of([split, kind, listed, drawn if data.source == "miniworld" else data.labelled])

    for name, fake in (("open_split", open_split), ("contents", contents)):
        for module in [m for m in library() if hasattr(m, name)]:
            patch.setattr(module, name, fake)
    for module in (splits, measures, counts):
        patch.setattr(module, "make_data", lambda profile: Path("nowhere"))


# ---- Settings -----------------------------------------------------------------------------------


def settings_of(value, where=""):
    """{dotted name: value} of every setting."""
    found = {}
    for name, inner in stage._flat("", dataclasses.asdict(value)).items():
        found[name.removeprefix(".")] = inner
    return found


def other(name, value):
    """Another value of the same kind, as an override."""
    choices = {
        "device": '"cpu"',
        "data.source": None,  # another data set altogether
        # ResNet-50, 101 and their width: others have no ImageNet weights
        "cam.layers": "[3, 4, 23, 3]" if value == (3, 4, 6, 3) else "[2, 2, 2, 2]",
        "cam.thin": None if value == 1 else "4",
        "deeplab.layers": "[3, 4, 6, 3]" if value == (3, 4, 23, 3) else None,
        "deeplab.pyramid": "[0.5]",
        "pseudo.method": '"cam_walk"' if value != "cam_walk" else '"cam"',
        "finetune.loss": '"contrastive"' if value == "hinge" else None,
        "losses.cbs_form": '"thresholded"' if value == "class_related" else '"class_related"',
        "losses.class_weights": "{cow = 2.0}",
        "losses.clamped": '["otm"]',
        "data.seeds_on": '""' if value else '"train_labelled"',
        "inference.published_thresholds": "[0.3]",
        "walk.form": '"irnet"' if value != "irnet" else '"ours"',
        "walk.normalise": '"joint"' if value == "max" else '"max"',
        "walk.thresholds": "[0.5]",
        "losses.background": '["cow: grass"]',
        "data.subsets": '"drawn"' if value == "first" else '"first"',
        "compute.optimiser": '"sgd"' if value == "adamw" else '"adamw"',
        "cct.start": '"random"' if value != "random" else '"cam"',
        "deeplab.start": '"random"' if value != "random" else '"cam"',
        "cam.backbone": '"efficientnet_lite0"' if value == "resnet" else '"resnet"',
    }
    if name in choices:
        return choices[name]
    if name in ("walk.radius", "walk.stride", "walk.crop"):  # whole places
        return repr(value + 1 if name == "walk.radius" else 2 * value)
    if name.endswith(".resize"):  # the lowest and the highest
        return json.dumps([value[0], value[1] + 0.125])
    if name == "data.evaluated":
        return '["val"]' if len(value) > 1 else '["val", "train"]'
    if choices := choices_of(name):
        return json.dumps(next(choice for choice in choices if choice != value))
    if isinstance(value, bool):
        return str(not value).lower()
    if isinstance(value, int | float):
        return repr(value + 1 if isinstance(value, int) else value + 0.125)
    if isinstance(value, str):
        return f'"{value}x"'
    if isinstance(value, list | tuple):
        again = [*value, "zebra" if isinstance(value[0], str) else value[-1] + 1]
        return "[" + ", ".join(f'"{v}"' if isinstance(v, str) else repr(v) for v in again) + "]"
    return None if value is None else f'"{value}x"'  # paths


def choices_of(name):
    """What a setting that is one of several words or numbers may be; () for another one."""
    kind = Profile
    for part in name.split("."):
        kind = typing.get_type_hints(kind).get(part) if dataclasses.is_dataclass(kind) else None
    return typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()


def table_of_settings(keys, name):
    """One line a setting: which results get another key."""
    profile, lines = load_profile(name), []
    before = keys(profile)
    for setting, value in settings_of(profile).items():
        text = other(setting, value)
        if text is None or setting in ("name", "note"):
            continue
        lines.append((setting, before, keys(load_profile(name, [f"{setting}={text}"]))))
    return lines


def changed(before, after):
    """The folders that get another key; it is asserted that these are the ones whose own recipe
    changed with all that is made from them, and nothing else."""
    names = before.keys() | after.keys()
    found = {n for n in names if n not in before or n not in after or before[n].key != after[n].key}
    expected = directly(before, after)
    while more := {n for n in after if set(after[n].inputs) & expected} - expected:
        expected |= more
    assert found == expected
    return found


def directly(before, after):
    """The folders whose own settings, data or code changed."""
    names = before.keys() | after.keys()
    return {n for n in names if n not in before or n not in after or before[n].own != after[n].own}


def written(lines):
    """The lines of a table: [(what changed, before, after)]."""
    width = max(len(first) for first, _, _ in lines)
    return "".join(f"{first:{width}}  {summary(b, directly(b, a))}\n" for first, b, a in lines)


def summary(made, names):
    """The kinds of folder and, of each, whose they are: "weights: cam clims; measured: all"."""
    parts = []
    for kind in dict.fromkeys(name.split("/")[0] for name in [*made, *sorted(names)]):
        own = {whose(n) for n in made if n.startswith(f"{kind}/")}
        these = {whose(n) for n in names if n.startswith(f"{kind}/")}
        if these:
            parts.append(f"{kind}: {'all' if these == own else ' '.join(sorted(these))}")
    return "; ".join(parts) or "nothing"


def whose(name):
    """ "clims" of "cams/clims_val": maps and masks of all splits share their fate, mostly."""
    kind, _, rest = name.partition("/")
    return rest.rpartition("_")[0] if kind in ("cams", "pseudo_masks", "segmentations") else rest


def weights_of(names):
    return {name.removeprefix("weights/") for name in names if name.startswith("weights/")}


@pytest.mark.parametrize("name", PROFILES)
def test_every_setting_changes_the_keys_of_what_it_decides(dry, name):
    text = written(table_of_settings(dry, name))
    assert text == (TABLES / f"{name}.txt").read_text(), "python tests/test_keys.py, read the diff"


def test_what_a_setting_must_and_must_not_change(dry):
    """The table's lines that a reader would look up first, said once more by hand."""
    lines = table_of_settings(dry, "mini")
    found = {name: changed(b, a) for name, b, a in lines}
    own = {name: weights_of(directly(b, a)) for name, b, a in lines}  # not by what is made from
    assert not any(found[name] for name in HARMLESS if name in found)
    idle = {name for name, names in found.items() if not names} - HARMLESS
    of_other_choices = {"finetune.correct_shared", "finetune.weight_decay", "cct.base"}
    of_other_choices |= {"finetune.texts", "finetune.directions", "finetune.crop"}
    of_other_choices |= {"cct.vat_xi", "cct.cutout_rule", "deeplab.pyramid", "clims.head_init"}
    of_other_choices |= {"losses.cbs_threshold", "inference.published_thresholds"}
    crf = ("bilateral_weight", "bilateral_sxy", "bilateral_srgb", "gaussian_weight", "gaussian_sxy")
    walks = {"crop", "resize", "weight_decay", "training_radius", "displacement_lr_factor"}
    elsewhere = {f"deeplab.crf.{name}" for name in crf} | {f"walk.{name}" for name in walks}
    assert idle == of_other_choices | elsewhere
    learned = {"cct_clims", "deeplab_clims", "deeplab_clims_longer", "pseudo_only"}
    assert {"clims_walk"} <= weights_of(found["walk.form"]) < {"clims_walk"} | learned
    assert {n.split("/")[1].partition("_longer")[0] for n in found["cam.longer_epochs"]} == {"cam"}
    weights = {name: weights_of(names) for name, names in found.items()}
    assert weights["cam.area_weight"] == {"cam_area"}
    assert weights["crf.chosen_on"] == learned  # by the masks
    cct = {"supervised", "supervised_scratch", "pseudo_only", "cct", "cct_longer", "cct_clims"}
    assert weights["cct.steps"] == cct
    assert cct - weights["cam.epochs"] == {"supervised_scratch"}  # it starts from no CAM
    assert weights["clip.text_width"] >= {"cam_corpus_tower"}  # whose first weights are CLIP's
    assert weights["clip.cutouts.hole"] >= {"cam_corpus", "cam_corpus_train", "clims"}
    assert not {"cam_corpus", "cam"} & weights["clip.text_width"]
    assert weights["inference.batch"] == weights["inference.thresholds"] == set()
    assert "clip" in weights["data.size"]
    assert {"cct", "deeplab_clims"} <= own["compute.accumulate"] - own["compute.optimiser"]
    assert weights["cct.unsupervised_weight"] == {"cct", "cct_longer", "cct_clims"}
    unused = ("cct.base", "cct.vat_xi", "cct.cutout_rule", "deeplab.pyramid")
    assert not any(weights[name] for name in unused)
    assert "clims_no_otm" in weights["losses.weights.btm"] and "cam" not in weights[
        "losses.weights.btm"]  # fmt: skip


# ---- Data ---------------------------------------------------------------------------------------


def table_of_data(small_voc, patch):
    """Contents count: some changed files have their old length."""
    main, aug = small_voc / "ImageSets" / "Main", small_voc / "SegmentationClassAug"
    main.mkdir()
    aug.mkdir()
    profile = profile_of(small_voc, "pseudo.method=cam")
    for k, name in enumerate(profile.data.classes):
        for split, some in (("trainaug", range(8)), ("val", (8, 9))):
            lines = [f"p{i} {1 if i % 20 == k else -1:2d}" for i in some]
            (main / f"{name}_{split}.txt").write_text("\n".join(lines))
    keys, lines = dry_run(patch, real_data=True), []
    before = keys(profile)
    assert keys(profile) == before

    def change(what, path, content):
        nonlocal before
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        lines.append((what, before, before := keys(profile)))

    def picture(value):
        file = io.BytesIO()
        Image.new("RGB", (32, 24), (value, 9, 9)).save(file, "JPEG")
        return file.getvalue()

    def mask(value):
        pixels = Image.new("P", (32, 24), value)
        pixels.putpalette(Image.open(small_voc / "SegmentationClass/p0.png").getpalette())
        file = io.BytesIO()
        pixels.save(file, "PNG")
        return file.getvalue()

    lists = small_voc / "ImageSets" / "Segmentation"
    change("a train image", small_voc / "JPEGImages/p0.jpg", picture(1))
    change("a val image", small_voc / "JPEGImages/p8.jpg", picture(2))
    change("a train mask", small_voc / "SegmentationClass/p0.png", mask(3))
    change("the same, of equal length", small_voc / "SegmentationClass/p0.png", mask(5))
    change("a val mask", small_voc / "SegmentationClass/p8.png", mask(4))
    flipped = (main / "boat_trainaug.txt").read_text().replace("p0 -1", "p0  1")
    change("a label in ImageSets/Main", main / "boat_trainaug.txt", flipped)
    some = (lists / "trainaug.txt").read_text().split()
    change("the order of train's list", lists / "trainaug.txt", "\n".join(some[::-1]))
    change("a list of labelled pictures", lists / "train_labelled.txt", "p1\np2\n")
    change("an image that no split names", small_voc / "JPEGImages/nobody.jpg", picture(3))
    change("an SBD mask beside VOC's own", aug / "p1.png", mask(7))
    (small_voc / "SegmentationClass/p1.png").unlink()
    change("an SBD mask alone", aug / "p1.png", mask(8))
    return lines


def test_every_file_of_a_data_set_changes_the_keys_of_what_it_decides(small_voc, monkeypatch):
    lines = table_of_data(small_voc, monkeypatch)
    assert written(lines) == (TABLES / "data.txt").read_text(), "read the diff"
    found = {what: changed(b, a) for what, b, a in lines}
    label = found["a label in ImageSets/Main"]
    assert {"weights/cam", "weights/clims", "weights/cct_cam"} <= label
    assert "weights/cct" not in label  # it starts from no network that saw labels
    for what in ("a train mask", "the same, of equal length", "an SBD mask alone"):
        assert {"weights/full_masks", "splits/train_masks", "thresholds/cam"} <= found[what]
        assert not {"weights/cam", "weights/clims"} & found[what]  # they never see one
    assert not found["an image that no split names"] and not found["an SBD mask beside VOC's own"]


def test_a_mask_rewritten_at_equal_length_is_noticed(tmp_path):
    from clims_lib.data.pictures import digest_of

    file, known = tmp_path / "a.png", tmp_path / "known.json"
    file.write_bytes(b"one")
    first = digest_of([file], known)
    file.write_bytes(b"two")
    assert digest_of([file], known) != first
    file.write_bytes(b"one")
    assert digest_of([file], known) == first


# ---- Code ---------------------------------------------------------------------------------------

PIECES = (
    "losses.otm_loss", "losses.btm_loss", "losses.area_loss", "losses.cut_out",
    "objectives.pooled_scores", "objectives.puzzle_loss", "objectives.full_mask_loss",
    "prompts.class_texts", "clip_model.contrastive_loss", "finetune.hinge_training_loss",
    "miniworld.captions.cut_views", "miniworld.train.draw_train", "backbones.ThinResNet",
    "training.train", "batches.random_crops", "cam.multi_scale_cam", "cam.CAMNet",
    "seeds.normalise_cam", "seeds.cam_to_mask", "seeds.threshold_curve", "crf.dense_crf",
    "random_walk.affinity_loss", "random_walk.random_walk", "deeplab.DeepLab",
    "cct.consistency", "cct_network.CCT", "perturbations.feature_drop", "metrics.confusion",
    "metrics.leak_rate", "data.voc.VOCFolder", "stages.networks.train_cam", "config.load_profile",
    "artifacts.artifact", "devices.device_of", "plots.panels.gallery",
    "results.tables.results_table",
)  # fmt: skip


def table_of_code(keys, patch):
    profile, read = load_profile("mini"), sources.read_module
    before, lines = keys(profile), []
    for piece in PIECES:
        where, _, name = f"clims_lib.{piece}".rpartition(".")

        def edited(module, where=where, name=name):
            found = read(module)
            if module != where:
                return found
            one = found.definitions[name]
            one = dataclasses.replace(one, text=one.text + "  # edited")
            return dataclasses.replace(found, definitions=found.definitions | {name: one})

        with patch.context() as inner:
            inner.setattr(sources, "read_module", edited)
            sources._hashes.cache_clear()
            lines.append((piece, before, keys(profile)))
        sources._hashes.cache_clear()
    return lines


def test_every_piece_of_code_changes_the_keys_of_what_runs_it(dry, monkeypatch):
    lines = table_of_code(dry, monkeypatch)
    assert written(lines) == (TABLES / "code.txt").read_text(), "read the diff, then write it anew"
    found = {piece: changed(b, a) for piece, b, a in lines}
    weights = {piece: weights_of(names) for piece, names in found.items()}
    clims = {"clims", "clims_no_otm", "clims_no_btm", "clims_no_cbs", "clims_no_reg"}
    learned = {"clims_walk", "pseudo_only", "cct_clims", "deeplab_clims", "deeplab_clims_longer"}
    assert weights["losses.btm_loss"] == clims | learned
    assert weights["objectives.puzzle_loss"] == {"puzzle_cam"}
    cct = {"supervised", "supervised_scratch", "pseudo_only", "cct", "cct_longer", "cct_clims"}
    assert weights["cct.consistency"] == cct
    for piece in (
        "plots.panels.gallery",
        "devices.device_of",
        "artifacts.artifact",
        "config.load_profile",
    ):
        assert not found[piece]


def write_tables() -> None:
    TABLES.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        lines = table_of_data(write_small_voc(Path(folder)), patch)
        (TABLES / "data.txt").write_text(written(lines))
    with pytest.MonkeyPatch.context() as patch:
        keys = dry_run(patch)
        for name in PROFILES:
            (TABLES / f"{name}.txt").write_text(written(table_of_settings(keys, name)))
        (TABLES / "code.txt").write_text(written(table_of_code(keys, patch)))


if __name__ == "__main__":
    write_tables()
