"""Sentences quote the table: the numbers are worked by hand here."""

import pytest

from clims_lib.config import load_profile
from clims_lib.results.quotes import direction, filled, say


def table(**rows: list[float]) -> dict:
    return {
        "rows": [
            {
                "method": name,
                "split": "test",
                "seed": seed,
                "miou": score,
                "iou": {"train": score / 2},
                "leak": {"railroad->train": 0.1},
            }
            for name, scores in rows.items()
            for seed, score in enumerate(scores)
        ],
        "zero_shot": [{"model": "clip", "split": "test", "seed": 0, "accuracy": {"person": 0.05}}],
    }


SEEN = table(cam=[0.40, 0.38, 0.36], clims=[0.64, 0.64, 0.64], like=[0.41, 0.37, 0.36], one=[0.5])


@pytest.mark.parametrize(
    "text, expected",
    [
        ("{cam}", "38.0 ± 2.0"),
        ("{clims}", "64.0 ± 0.0"),
        ("{one}", "50.0"),
        ("{cam:train}", "19.0 ± 1.0"),
        ("{clims:railroad->train}", "10.0 ± 0.0"),
        ("{clims-cam}", "+26.0 ± 2.0"),  # 24, 26, 28
        ("{cam-clims}", "-26.0 ± 2.0"),
        ("{clims-cam:train}", "+13.0 ± 1.0"),
        ("{clip:person}", "5.0"),
        ("it is {clims-cam?above|no different from|below} it", "it is above it"),
        ("{cam-clims?a|b|c}", "c"),
        ("{like-cam?a|b|c}", "b"),  # +1, -1, 0
        ("{one-cam?a|b|c}", "b"),  # one seed decides nothing
        ("no places", "no places"),
    ],
)
def test_places_are_filled_from_the_table(text, expected):
    assert filled(text, SEEN) == expected


@pytest.mark.parametrize(
    "values, expected",
    [
        ([0.01, 0.01, 0.01], "more"),
        ([0.03, 0.01, 0.02], "more"),  # 0.02 against 2 x 0.01 / sqrt(3) = 0.0115
        ([0.03, -0.01, 0.01], "undecided"),  # 0.01 against 2 x 0.02 / sqrt(3) = 0.023
        ([-0.03, -0.01, -0.02], "less"),
        ([0.0, 0.0], "undecided"),
        ([0.5], "undecided"),
    ],
)
def test_a_difference_within_the_noise_is_undecided(values, expected):
    assert direction(values) == expected


def test_what_the_table_lacks_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="no committed row 'clim'; did you mean clims"):
        filled("{clim}", SEEN)
    with pytest.raises(ValueError, match="no committed row 'camm'"):
        filled("{clims-camm}", SEEN)
    with pytest.raises(ValueError, match="no measure 'trains'; did you mean train"):
        filled("{cam:trains}", SEEN)
    with pytest.raises(ValueError, match="three wordings"):
        filled("{clims-cam?yes|no}", SEEN)


def test_without_a_table_of_its_own_a_profile_is_told_whose_is_quoted():
    ours = say(load_profile("mini"), "CLIMS: {clims}").data
    assert ours.startswith("CLIMS: ") and "±" in ours
    photographs = load_profile("voc2012_sample")
    assert say(photographs, "CAM: {cam}").data.startswith("CAM: ")
    assert say(photographs, "CLIMS: {clims}").data.startswith("*Of MiniWorld")
    assert say(load_profile("tiny"), "CLIMS: {clims}").data.startswith("*Of MiniWorld")
