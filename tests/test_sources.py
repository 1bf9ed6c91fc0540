"""Which code counts: written out for small packages, whose reachable definitions are known."""

import importlib
import sys
import textwrap

import pytest

from clims_lib import sources


@pytest.fixture
def package(tmp_path, monkeypatch):
    """write(**modules) makes a package `clims_lib` of these sources; returns its code_of."""

    def write(**modules):
        folder = tmp_path / "clims_lib"
        folder.mkdir(exist_ok=True)
        for name, text in {"__init__": "", **modules}.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(text))

    monkeypatch.setattr(sources, "PACKAGE", tmp_path / "clims_lib")
    monkeypatch.setattr(sources, "_first_seen", {})
    sources._read.cache_clear()
    yield write
    sources._read.cache_clear()


class Of:
    """What code_of asks of a function: where it is from."""

    def __init__(self, module, name):
        self.__module__, self.__qualname__ = f"clims_lib.{module}", name


def code(module, name, **more):
    sources._read.cache_clear()
    sources._hashes.cache_clear()
    sources._first_seen.clear()
    return sources.code_of(Of(module, name), **more)


LOSSES = """
    '''What is minimised.'''
    from __future__ import annotations
    import torch

    EPSILON = 1e-4

    def _log(s):
        return s.clamp(EPSILON).log()

    def otm(s: torch.Tensor) -> torch.Tensor:
        '''The object is inside.'''
        return -_log(s)  # Eq. 2

    def btm(s):
        return -(1 - s).log()

    TERMS = {"otm": otm, "btm": btm}
"""
TRAIN = """
    from clims_lib import losses
    from clims_lib.losses import TERMS, btm as rest
    import torch

    def all_terms(x):
        return sum(term(x) for term in TERMS.values())

    def one_term(x):
        return losses.otm(x)

    def other_term(x):
        return rest(x)

    def handed_on(x):
        return apply(losses, x)

    def apply(module, x):
        return module

    def shadow(otm):
        losses = [1.0]
        return otm + losses[0]

    class Network(torch.nn.Module):
        terms = TERMS

        def forward(self, x):
            from clims_lib.losses import otm
            return otm(x)
"""


def edited(package, module, name, old, new, losses=LOSSES):
    """Does an edit of losses.py change the hash of a function of train.py?"""
    package(losses=losses, train=TRAIN)
    before = code(module, name)
    assert old in losses
    package(losses=losses.replace(old, new), train=TRAIN)
    return code(module, name) != before


@pytest.mark.parametrize(
    "name, changes",
    [
        ("all_terms", True),
        ("one_term", True),
        ("handed_on", True),
        ("Network", True),
        ("other_term", False),
        ("shadow", False),
    ],
)
def test_an_edit_reaches_who_can_run_it_and_nobody_else(package, name, changes):
    assert edited(package, "train", name, "EPSILON = 1e-4", "EPSILON = 1e-5") is changes
    assert edited(package, "train", name, "-_log(s)", "-2 * _log(s)") is changes


@pytest.mark.parametrize(
    "old, new",
    [
        ("# Eq. 2", "# Equation 2"),
        ("The object is inside.", "The object must be inside."),
        ("What is minimised.", "Losses."),
        ("s: torch.Tensor", "s"),
        ("import torch\n", "import torch\n    import math\n"),
        ("    def btm(s):\n", "\n\n    def btm(s):\n"),
    ],
)
def test_words_types_and_lines_change_nothing(package, old, new):
    assert not edited(package, "train", "all_terms", old, new)


def test_a_term_added_to_the_table_counts_for_who_reads_the_table(package):
    new = '{"otm": otm, "btm": btm, "area": abs}'
    assert edited(package, "train", "all_terms", '{"otm": otm, "btm": btm}', new)
    assert not edited(package, "train", "one_term", '{"otm": otm, "btm": btm}', new)


def test_a_table_grows_and_a_name_is_handed_on(package):
    grown = LOSSES + '\n    TERMS["area"] = abs\n'
    handed = "from clims_lib.losses import otm as first\n"
    user = "from clims_lib.handed import first\n\ndef run(x):\n    return first(x)\n"
    package(losses=LOSSES, train=TRAIN, handed=handed, user=user)
    table, name = code("train", "all_terms"), code("user", "run")
    package(losses=grown, train=TRAIN, handed=handed, user=user)
    assert code("train", "all_terms") != table and code("user", "run") == name
    package(losses=LOSSES.replace("-_log(s)", "-2 * _log(s)"), handed=handed, user=user)
    assert code("user", "run") != name


def test_other_stages_are_inputs_not_code(package):
    stage = """
        from clims_lib.stage import make_once
        from clims_lib.losses import otm, btm

        def first(profile):
            return make_once(profile, otm)

        def second(profile):
            first(profile)
            return make_once(profile, btm)
    """
    package(losses=LOSSES, networks=stage, stage="def make_once(*_): pass")
    before, through = code("networks", "second"), code("networks", "second", through_stages=True)
    package(losses=LOSSES.replace("-_log(s)", "-2 * _log(s)"))
    assert code("networks", "second") == before
    assert code("networks", "second", through_stages=True) != through
    assert set(before) == {"losses.py", "networks.py"}  # stage.py is plumbing


def test_a_function_inside_a_stage_stands_for_the_stage(package):
    package(losses=LOSSES)
    assert code("losses", "otm.<locals>.make") == code("losses", "otm")


def test_code_edited_after_its_import_is_refused(package, tmp_path, monkeypatch):
    """In a kernel that still holds the old function, the new source would be a lie."""
    package(edited_later="def f(x):\n    return x + 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [n for n in sys.modules if n.partition(".")[0] == "clims_lib"]:
        monkeypatch.delitem(sys.modules, name)
    module = importlib.import_module("clims_lib.edited_later")
    sources.code_of(module.f)
    package(edited_later="def f(x):\n    return x + 2222\n")
    with pytest.raises(ValueError, match="edited_later.py was edited after .* restart the kernel"):
        sources.code_of(module.f)
    importlib.reload(module)
    sources.code_of(module.f)


def test_the_four_terms_are_reached_by_what_minimises_them_alone():
    """The real library: CLIMS depends on losses.py, the classic CAM does not."""
    from clims_lib import objectives
    from clims_lib.stages.networks import train_cam

    assert "losses.py" in sources.code_of(objectives.clims_training_loss)
    assert set(sources.code_of(objectives.puzzle_loss)) == {"objectives.py"}
    assert "losses.py" not in sources.code_of(train_cam, objectives.cam_loss)
