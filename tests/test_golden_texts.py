"""What is said to CLIP is, word for word, what the two releases say (tests/golden)."""

import json
from pathlib import Path

import pytest

from clims_lib import prompts

CASES = json.loads((Path(__file__).parent / "golden/clims_texts.json").read_text())["cases"]
CAMERA_READY, IMPROVED, COCO, SENTENCES, _ = CASES
VOC = CAMERA_READY["inputs"]["class_names_in_order"]
FULL_STOP = "a photo of {}."


def test_camera_ready():
    told = CAMERA_READY["outputs"]
    assert prompts.class_words(VOC) == VOC
    assert prompts.class_texts(VOC) == told["single_label_prompts"]
    rows = prompts.background_texts(VOC, prompts.BACKGROUND["camera_ready"], complete=False)
    found = {name: row for name, row in zip(VOC, rows, strict=True) if row}
    assert found == told["background_texts_by_class"]


def test_improved():
    told, words = IMPROVED["outputs"], prompts.class_words(VOC, "improved")
    assert words == IMPROVED["inputs"]["class_names_in_order"]
    assert prompts.class_texts(words, FULL_STOP) == told["single_label_prompts"]
    rows = prompts.background_texts(VOC, prompts.BACKGROUND["improved"], FULL_STOP)
    assert rows == [told["background_texts_all_classes"]] * 20


def test_the_improved_words_and_template_on_coco():
    """COCO's own names with spaces stay; person is the player here, too."""
    theirs = COCO["inputs"]["class_names_in_order"]
    own = ["person" if name == "player" else name for name in theirs]
    words = prompts.class_words(own, "improved")
    assert words == theirs
    assert prompts.class_texts(words, FULL_STOP) == COCO["outputs"]["single_label_prompts"]


@pytest.mark.parametrize(
    "labels, sentence",
    [(case["labels"], case["sentence"]) for case in SENTENCES["outputs"]["examples"]],
)
def test_sentences_of_finetuning(labels, sentence):
    assert prompts.label_sentence(labels) == sentence


def test_what_has_no_text_is_refused():
    with pytest.raises(ValueError, match="six labels at most, not 7"):
        prompts.label_sentence(VOC[:7])
    with pytest.raises(ValueError, match="no class words 'improve'; did you mean improved"):
        prompts.class_words(VOC, "improve")
    with pytest.raises(ValueError, match="missing"):  # by default every class needs texts
        prompts.background_texts(VOC, prompts.BACKGROUND["camera_ready"])
    with pytest.raises(ValueError, match="the unknown class 'boat'"):
        prompts.background_texts(VOC[:3], prompts.BACKGROUND["camera_ready"], complete=False)
