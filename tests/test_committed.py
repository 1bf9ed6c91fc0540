"""The committed table is complete, the README says what it says, and the trained CLIP passes."""

from itertools import combinations

import pytest
from everything import CORPORA
from update_readme import BEGIN, END, TABLES, with_results

from clims_lib import oracle
from clims_lib.config import load_profile
from clims_lib.results.claims import CLAIMS
from clims_lib.results.tables import read_committed
from clims_lib.results.tuning import at_the_end, read_tuning
from clims_lib.stage import value_of
from clims_lib.stages.clip import finetune_clip
from clims_lib.stages.masks import thresholds_of
from clims_lib.stages.measures import oracle_check
from clims_lib.stages.methods import table_rows

METHOD_OF = dict.fromkeys(CORPORA, "clims")


@pytest.fixture(scope="module")
def profile():
    return load_profile("mini")


def test_the_readme_shows_the_committed_table(root):
    readme = (root / "README.md").read_text(encoding="utf-8")
    assert with_results(readme) == readme, "run: python ci/update_readme.py"
    for name in TABLES:
        with pytest.raises(ValueError, match="marks"):
            with_results(readme.replace(BEGIN.format(name), ""))
    with pytest.raises(ValueError, match="marks"):
        with_results(readme.replace(END, ""))


# Rows that the code makes and that no table has yet: the next ci/results measures them, and
# ci/tuning what their tests need besides.
NOT_YET = {
    *("cam_corpus", "cam_corpus_tower", "cam_corpus_train", "full_masks_crf"),
    *("supervised_scratch", "cct_longer", "deeplab_clims_longer"),
    "clims_blurred",
}
waits = pytest.mark.skipif(bool(NOT_YET), reason="NOT_YET waits for ci/tuning and ci/results")


def test_every_method_was_measured_on_three_seeds(profile):
    rows = read_committed(profile)
    seeds = {(row["method"], row["split"]): set() for row in rows}
    for row in rows:
        seeds[row["method"], row["split"]].add(row["seed"])
    assert not NOT_YET & {method for method, _ in seeds}, "take it out of NOT_YET"
    for method in set(table_rows(profile)) - NOT_YET:
        for split in ("val", "test"):
            assert len(seeds[method, split]) >= 3, (method, split)
    for name in () if NOT_YET else CORPORA:
        assert len(seeds[name, "test"]) >= 3, name
    models = [(e["model"], e["seed"]) for e in read_committed(profile, "zero_shot")]
    assert len(set(models)) == len(models) >= 6


def test_no_row_stands_under_two_names(profile):
    """Rows of equal numbers on all seeds would be one row twice."""
    numbers: dict[str, list] = {}
    for row in read_committed(profile):
        one = (row["split"], row["seed"], row["miou"], *row["iou"].values())
        numbers.setdefault(row["method"], []).append(one)
    pairs = combinations(numbers, 2)
    assert not [(a, b) for a, b in pairs if sorted(numbers[a]) == sorted(numbers[b])]


@waits
def test_every_claim_knows_its_error_over_the_pictures(profile):
    known = {one["claim"]: one["error"] for one in read_committed(profile, "claims")}
    assert set(known) == {claim.text for claim in CLAIMS}
    assert all(error > 0 for error in known.values())
    assert all(row["error"] > 0 for row in read_committed(profile))


@waits
def test_the_best_values_lie_inside_what_was_tried(profile):
    """Of thresholds, whose grids are the profile's, and of what ci/tuning has tried."""
    for row in read_committed(profile):
        if row["threshold"] is not None:
            tried = thresholds_of(profile, METHOD_OF.get(row["method"], row["method"]))[1]
            assert min(tried) < row["threshold"] < max(tried), (row["method"], row["seed"])
    tuning = read_tuning(profile)
    ends = {row: at_the_end(trials) for row, trials in tuning["tried"].items()}
    assert tuning["tried"] and not any(ends.values()), ends
    for opponent in ("cam", "cam_area", "puzzle_cam", "cct"):
        for name, value in tuning["chosen"][opponent].items():
            assert value_of(profile, name) == value, f"{name}: {opponent} was best with {value}"
    for row in read_committed(profile):
        if row["method"] in CORPORA:
            assert row["settings"] == tuning["chosen"][row["method"]]


@pytest.mark.slow
def test_the_loss_is_lowest_at_the_true_mask(profile):
    """Of every class, on val: the check without which CLIMS cannot work."""
    margins = oracle.margins(oracle_check(profile, finetune_clip(profile)))
    assert set(margins) == set(profile.data.classes)
    assert all(margin > 0 for margin in margins.values()), margins
