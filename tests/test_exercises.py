"""The exercises: solutions get full marks, nothing gets none, typical mistakes lose their test."""

import multiprocessing
import re
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("nbgrader", reason="nbgrader is not installed: it is in the extra classroom")

import run_exercises

from clims_lib.__main__ import main

SOURCE = run_exercises.COURSE / "source"
ASSIGNMENTS = sorted(path.name for path in SOURCE.iterdir())
HIDDEN = re.compile(r"### BEGIN HIDDEN TESTS\n(.*)### END HIDDEN TESTS", re.DOTALL)
SOLUTION = re.compile(r"### BEGIN SOLUTION\n(.*)### END SOLUTION", re.DOTALL)

# {assignment: {solution: (a typical wrong answer, the one test that it must fail)}}
WRONG = {
    "ex_00_data": {
        "shares": (
            """
def shares(picture):  # the border counts as a pixel
    mask = (picture[:, :, None] == palette()).all(-1).argmax(-1)
    return {int(k): float((mask == k).mean()) for k in np.unique(mask) if k != 255}
""",
            "shares-hidden",
        ),
        "holders": (
            """
def holders(labels, seen):  # the other direction: how often is a class at a ground?
    return (labels.T @ seen / labels.sum(0)[:, None]).T
""",
            "holders-hidden",
        ),
        "counterexamples": (
            """
def counterexamples():  # people do not break the trap
    rng = np.random.default_rng(0)
    return [miniworld.draw_scene(rng, ["train", "person"], "railroad", None, 32),
            miniworld.draw_scene(rng, ["person"], "railroad", None, 32)]
""",
            "counterexamples-hidden",
        ),
    },
    "ex_01_clip": {
        "nearest": (
            """
def nearest(pictures, texts):  # not a cosine: long texts win
    return (pictures @ texts.T).argmax(1)
""",
            "nearest-hidden",
        ),
        "contrastive": (
            """
def contrastive(pictures, texts, scale, same):  # shares the target instead of leaving pairs out
    logits, target = scale * pictures @ texts.T, same / same.sum(1, keepdim=True)
    entropy = torch.nn.functional.cross_entropy
    return (entropy(logits, target) + entropy(logits.T, target)) / 2
""",
            "contrastive-hidden",
        ),
        "expected": (
            """
def expected(batch, probabilities):  # all sentences alike
    return batch * (batch - 1) / len(probabilities)
""",
            "expected-hidden",
        ),
    },
    "ex_02_losses": {
        "btm": (
            """
def btm(encode, images, maps, labels, texts):  # looks at the object instead of the rest
    s = torch.stack([encode(images * maps[:, k : k + 1]) @ text for k, text in enumerate(texts)], 1)
    return -(labels * (1 - s.clamp(0.0001, 0.9999)).log()).sum(1).mean()
""",
            "btm-hidden",
        ),
        "cbs": (
            """
def cbs(s, labels, threshold=None):  # sums the class-related form, too
    kept = s.nan_to_num(0.0)
    kept = kept * (kept > (threshold or 0))
    return -(labels * (1 - kept).log().sum(2)).sum(1).mean()
""",
            "cbs-hidden",
        ),
        "texts": (
            """
background = ["sky"]  # forgets that half of the birds sit in trees
""",
            "texts-hidden",
        ),
        "prices": (
            """
def prices(masks):  # forgets the masks between nothing and everything
    (loss, area), (whole, everything) = masks["true"], masks["whole"]
    empty = masks.get("empty", (math.inf, 0.0))[0]
    return (loss - whole) / (everything - area), (empty - loss) / area
""",
            "prices-hidden",
        ),
    },
    "ex_03_cam": {
        "gradient": (
            """
def gradient(scores, labels):  # forgets the mean over the classes
    pull = scores.mean((1, 2)).sigmoid() - labels
    return (pull / scores[0].numel())[:, None, None].expand_as(scores)
""",
            "gradient-hidden",
        ),
        "join": (
            """
def join(tiles, n):  # takes the tiles of one picture for neighbours in the batch
    count, channels, h, w = tiles.shape
    parts = tiles.view(count // (n * n), n, n, channels, h, w).permute(0, 3, 1, 4, 2, 5)
    return parts.reshape(-1, channels, n * h, n * w)
""",
            "join-hidden",
        ),
        "threshold": (
            """
def best_threshold(cams, truth, thresholds):  # a mean over pictures
    def score(t):
        masks, labels = cam_to_mask(cams, t), cams.shape[1] + 1
        return sum(metrics.miou(metrics.confusion(a, b, labels))
                   for a, b in zip(truth, masks, strict=True))
    return max(thresholds, key=score)
""",
            "threshold-hidden",
        ),
    },
    "ex_04_crf": {
        "round": (
            """
def mean_field_round(energy, kernel, q):  # energies are costs, not votes
    return (q @ kernel.T + energy).softmax(0)
""",
            "round-hidden",
        ),
        "walk": (
            """
def walk(scores, ties, times):  # shares a place's score out, so that a place's weights are no mean
    affinity = torch.eye(len(scores)) + torch.diag(ties, 1) + torch.diag(ties, -1)
    step = affinity / affinity.sum(0, keepdim=True)
    for _ in range(times):
        scores = step @ scores
    return scores
""",
            "walk-hidden",
        ),
        "break": (
            """
settings = GENTLE | {"gaussian_weight": 12.0, "gaussian_sxy": 4.0}
culprit = "bilateral"  # broken, but not by colour
""",
            "break-hidden-culprit",
        ),
    },
    "ex_05_leaks": {
        "leak": (
            """
def leak_rate(prediction, ground, ground_index, label):  # of the object's pixels, not the ground's
    on_ground = ground == ground_index
    if not on_ground.any():
        return math.nan
    return float(((prediction == label) & on_ground).sum() / (prediction == label).sum())
""",
            "leak-hidden",
        ),
        "scores": (
            """
def scores(thing, ground, found, leaked):  # an IoU is no product
    precision = found * thing / (found * thing + leaked * ground)
    return {"recall": found, "leak": leaked, "precision": precision, "iou": precision * found}
""",
            "scores-hidden",
        ),
        "faults": (
            """
def faults(thing, ground):  # leaks anywhere
    count = int(thing.sum())
    leaks, misses = thing.clone(), torch.zeros_like(thing)
    leaks[tuple((~thing).nonzero()[:count].T)] = True
    misses[tuple(thing.nonzero()[: count // 2].T)] = True
    return leaks, misses
""",
            "faults-hidden",
        ),
    },
    "ex_06_cct": {
        "ramp": (
            """
def ramp(step, length):  # falls again after the end
    return math.exp(-5 * (1 - step / max(length, 1e-9)) ** 2)
""",
            "ramp-hidden",
        ),
        "consistency": (
            """
def consistency(auxiliary, main):  # the teacher listens
    return ((auxiliary.softmax(1) - main.softmax(1)) ** 2).mean()
""",
            "consistency-hidden-gradient",
        ),
        "drop": (
            """
def feature_drop(z, share):  # the strongest picture of the batch decides for all
    activity = z.mean(1, keepdim=True)
    return z * (activity < share * activity.max())
""",
            "drop-hidden",
        ),
    },
    "ex_07_results": {
        "gain": (
            """
def gain(ours, theirs):  # numpy's std divides by n
    import numpy as np
    d = np.array([ours[seed] - theirs[seed] for seed in sorted(ours) if seed in theirs])
    return d.mean(), d.std(), bool((d > 0).all() or (d < 0).all())
""",
            "gain-hidden",
        ),
        "gap": (
            """
def gap_closed(method, baseline, ceiling):  # a share of means, not a mean of shares
    m, low, high = (statistics.fmean(values) for values in (method, baseline, ceiling))
    return (m - low) / (high - low) if high > low else math.nan
""",
            "gap-hidden",
        ),
    },
}


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def role(cell) -> str:
    """What nbgrader takes a cell for: solution, test, given, or text."""
    marks = cell.metadata.get("nbgrader")
    if marks is None:
        return "text" if cell.cell_type == "markdown" else "look"
    return "test" if marks.grade else "solution" if marks.solution else "given"


def hand_in(released: Path, answers: dict[str, str], folder: Path) -> None:
    """Write a student's notebook: the released one with some answers filled in."""
    notebook = read(released)
    for cell in notebook.cells:
        if role(cell) == "solution" and cell.metadata.nbgrader.grade_id in answers:
            cell.source = answers[cell.metadata.nbgrader.grade_id]
    folder.mkdir(parents=True)
    nbformat.write(notebook, folder / released.name)


def grade_three(assignment: str, work: Path) -> tuple[str, dict]:
    """The text of the students' version, and the marks of three submissions by student."""
    course = work / "notebooks" / "exercises"
    shutil.copytree(SOURCE / assignment, course / "source" / assignment)
    shutil.copy(run_exercises.COURSE / "nbgrader_config.py", course)
    config = run_exercises.read_config(course)
    released = run_exercises.release(config, assignment)
    solved = {
        cell.metadata.nbgrader.grade_id: cell.source
        for cell in read(SOURCE / assignment / f"{assignment}.ipynb").cells
        if role(cell) == "solution"
    }
    wrong = {name: answer for name, (answer, _) in WRONG[assignment].items()}
    marks = {}
    for student, answers in (("solution", solved), ("empty", {}), ("wrong", wrong)):
        folder = run_exercises.folder_of(config, "submitted") / student / assignment
        hand_in(released, answers, folder)
        marks[student] = run_exercises.grade(config, assignment, student)
    return "\n".join(cell.source for cell in read(released).cells), marks


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """{assignment: grade_three's result}; kernels start slowly, so two are at work."""
    work = tmp_path_factory.mktemp("courses")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            folders = [work / name for name in ASSIGNMENTS]
            return dict(zip(ASSIGNMENTS, pool.map(grade_three, ASSIGNMENTS, folders), strict=True))


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course folder of its own with one assignment, where ci/exercises works."""
    course = tmp_path / "notebooks" / "exercises"
    shutil.copytree(SOURCE / "ex_01_clip", course / "source" / "ex_01_clip")
    shutil.copy(run_exercises.COURSE / "nbgrader_config.py", course)
    monkeypatch.setattr(run_exercises, "COURSE", course)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return course


def test_every_notebook_has_an_assignment(root):
    numbers = [path.name[:2] for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))]
    assert [name[3:5] for name in ASSIGNMENTS] == numbers
    assert list(WRONG) == ASSIGNMENTS


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_sources_are_exercises(assignment):
    """Two to four of them, each a text, a solution, a visible test and hidden ones."""
    cells = read(SOURCE / assignment / f"{assignment}.ipynb").cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells), (
        f"{assignment} holds outputs: jupyter nbconvert --clear-output --inplace"
    )
    starts = [i for i, cell in enumerate(cells) if cell.source.startswith("## ")]
    assert 2 <= len(starts) <= 4
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        exercise = cells[start:end]
        solutions, tests = (
            [c for c in exercise if role(c) == kind] for kind in ("solution", "test")
        )
        assert len(solutions) == 1 and SOLUTION.search(solutions[0].source)
        assert solutions[0].metadata.nbgrader.grade_id in WRONG[assignment]
        assert not HIDDEN.search(tests[0].source)
        assert all(HIDDEN.search(test.source) for test in tests[1:]) and len(tests) > 1
        points = sum(test.metadata.nbgrader.points for test in tests)
        assert exercise[0].source.splitlines()[0].endswith(f"({points} points)")


@pytest.mark.slow
@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_students_get_no_solutions_and_no_hidden_tests(graded, assignment):
    released, _ = graded[assignment]
    assert "SOLUTION" not in released and "HIDDEN" not in released
    cells = read(SOURCE / assignment / f"{assignment}.ipynb").cells
    shown = [HIDDEN.sub("", SOLUTION.sub("", cell.source)) for cell in cells]
    shown = {line.strip() for source in shown for line in source.splitlines()}
    for cell in cells:
        for secret in (*SOLUTION.findall(cell.source), *HIDDEN.findall(cell.source)):
            lines = {line.strip() for line in secret.splitlines() if line.strip()} - shown
            assert lines and not any(line in released.splitlines() for line in lines)
            assert not any(line in released for line in lines if len(line) > 30)


@pytest.mark.slow
@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_the_solution_gets_full_marks(graded, assignment):
    marks = graded[assignment][1]["solution"]
    assert marks and all(got == full > 0 for got, full in marks.values()), marks


@pytest.mark.slow
@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_nothing_gets_no_marks(graded, assignment):
    marks = graded[assignment][1]["empty"]
    assert marks and not any(got for got, _ in marks.values()), marks


@pytest.mark.slow
@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_typical_mistakes_fail_their_test_and_no_other(graded, assignment):
    marks = graded[assignment][1]["wrong"]
    lost = {name for name, (got, full) in marks.items() if got < full}
    assert lost == {test for _, test in WRONG[assignment].values()}
    assert all(marks[name][0] == 0 for name in lost)


@pytest.mark.slow
def test_a_folder_of_submissions_is_graded(course, tmp_path, capsys):
    assert main(["exercises"]) == 0
    made = tmp_path / "outputs" / "exercises"
    answer = {"expected": "def expected(n, p):\n    return n * (n - 1) * sum(x * x for x in p)"}
    hand_in(made / "release/ex_01_clip/ex_01_clip.ipynb", answer, tmp_path / "in/ann/ex_01_clip")
    assert main(["exercises", "--grade", str(tmp_path / "in")]) == 0
    assert re.search(r"ann +ex_01_clip +3 of 9\n", capsys.readouterr().out)
    rows = (made / "marks.csv").read_text().splitlines()
    assert "ann,ex_01_clip,expected-hidden,2.0,2.0" in rows
    assert "ann,ex_01_clip,nearest-test,0.0,1.0" in rows
    assert not any(course.glob("*.db")) and not (course / "release").exists()


def test_a_folder_without_submissions_is_refused(course, tmp_path):
    config = run_exercises.read_config(course)
    with pytest.raises(ValueError, match="<student>/<assignment>/<assignment>.ipynb"):
        run_exercises.grade_all(config, tmp_path)
