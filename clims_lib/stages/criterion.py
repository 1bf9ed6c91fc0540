"""What a method minimises: its entry in the registry, CLIP and its texts, the terms' weights."""

from __future__ import annotations

from typing import Any

from clims_lib import clip_model
from clims_lib.clip_model import CLIP
from clims_lib.config import Profile
from clims_lib.devices import device_of
from clims_lib.losses import TERMS, Forms, check_weights, class_weights
from clims_lib.objectives import Loss
from clims_lib.stage import value_of
from clims_lib.stages.clip import background_texts_of, clip_texts, finetune_clip
from clims_lib.stages.methods import METHODS

# What CLIMS's loss is made of besides its weights.
TERM_FORMS = (
    "prompts",
    "losses.background",
    "losses.every_class",
    "losses.cbs_form",
    "losses.otm_btm",
    "losses.cbs",
    "losses.clamped",
    "losses.class_weights",
)


def what_clims_reads(profile: Profile, method: str) -> list[str]:
    """The settings that decide the loss of CLIMS or of one of its ablations."""
    weights, without = profile.losses.weights, METHODS[method].without
    threshold = ["losses.cbs_threshold"] if profile.losses.cbs_form == "thresholded" else []
    return [
        *TERM_FORMS,
        *threshold,
        *(f"losses.weights.{name}" for name in weights if name != without),
    ]


def loss_weights(profile: Profile, method: str = "clims") -> dict[str, float]:
    """{term: weight} of CLIMS or of one of its ablations, in the order of the losses.

    Raises ValueError where the profile gives a weight to a term that does not exist.
    """
    given, without = profile.losses.weights, METHODS[method].without
    check_weights(given)
    return {name: 0.0 if name == without else given[name] for name in TERMS if name in given}


def loss_form(profile: Profile) -> dict[str, Any]:
    """How CLIMS's terms are put together: what `losses.clims_loss` takes besides weights.

    Raises ValueError for terms or classes that do not exist.
    """
    form, classes = profile.losses, profile.data.classes
    return {
        "cbs_threshold": form.cbs_threshold if form.cbs_form == "thresholded" else None,
        "forms": Forms(
            form.otm_btm, form.cbs, form.clamped, class_weights(classes, form.class_weights)
        ),
    }


def check_losses(profile: Profile) -> None:
    """Raise ValueError where terms, weights or texts of CLIMS's loss do not fit the profile."""
    loss_weights(profile), loss_form(profile), background_texts_of(profile)


def new_loss(profile: Profile, method: str, clip: CLIP | None = None) -> Loss:
    """What a method minimises, made from its entry in the registry. clip: see `from_clip`."""
    entry = METHODS[method]
    given = {name: value_of(profile, setting) for name, setting in entry.arguments.items()}
    return entry.loss(**given | (from_clip(profile, method, clip) if "clip" in entry.needs else {}))


def from_clip(profile: Profile, method: str, model: CLIP | None = None) -> dict[str, Any]:
    """What a loss that asks CLIP is given besides: CLIP, by default the finetuned one, its texts,
    how terms weigh and add up."""
    if model is None:
        model = clip_model.load_clip(finetune_clip(profile) / "clip.pt", device_of(profile))
    class_text, background_text = clip_texts(profile, model)
    return {
        "encode": clip_model.image_encoder(model),
        "class_text": class_text,
        "background_text": background_text,
        "size": model.visual.input_resolution,
        "weights": loss_weights(profile, method),
        **loss_form(profile),
    }
