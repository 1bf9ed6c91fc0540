"""Makes the students' version of the exercises and grades what they hand in: `clims exercises`."""

import csv
import logging
import os
import shutil
import sys
import warnings
from pathlib import Path

from run_tutorial import ROOT, prepare_kernels

try:
    from nbgrader.api import Gradebook
    from nbgrader.converters import Autograde, GenerateAssignment
    from nbgrader.converters.base import NbGraderException
    from nbgrader.coursedir import CourseDirectory
    from traitlets.config import Config, PyFileConfigLoader
except ImportError as error:
    raise RuntimeError(f"{error}: install the extra `classroom`") from error

from clims_lib.artifacts import atomic_path

COURSE = ROOT / "notebooks" / "exercises"


def run(grade: Path | None = None) -> None:
    """Make the students' version of all exercises, and grade a folder of submissions.

    Raises ValueError where there are none, RuntimeError where nbgrader gives up.
    """
    try:
        config = read_config(COURSE)
        for assignment in assignments(config):
            release(config, assignment)
        print(f"students' version: {folder_of(config, 'release')}")
        if grade:
            grade_all(config, grade)
    except NbGraderException as error:
        raise RuntimeError(error) from error


def read_config(course: Path) -> Config:
    """nbgrader's settings of a course folder, which holds nbgrader_config.py and source/."""
    prepare_kernels()
    # nbgrader starts alembic by its name when it makes the gradebook
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    logging.basicConfig(format="%(message)s")
    logging.getLogger("traitlets").setLevel(logging.ERROR)  # it warns of every test it puts back
    warnings.filterwarnings("ignore", module="nbgrader")  # and of its own way with the gradebook
    return PyFileConfigLoader("nbgrader_config.py", path=str(course)).load_config()


def folder_of(config: Config, step: str) -> Path:
    """Where a step of nbgrader's lies: source, release, submitted, autograded, ..."""
    directory = getattr(CourseDirectory(config=config), f"{step}_directory")
    return (Path(config.CourseDirectory.root) / directory).resolve()


def assignments(config: Config) -> list[str]:
    """The names of all assignments, in order; raises ValueError when there are none."""
    source = folder_of(config, "source")
    names = sorted(path.parent.name for path in source.glob("*/*.ipynb"))
    if not names:
        raise ValueError(f"no assignments in {source}")
    return names


def release(config: Config, assignment: str) -> Path:
    """Write the students' version, without solutions and hidden tests; returns its notebook.

    The hidden tests go into the gradebook, from which grading puts them back.
    """
    folder = folder_of(config, "release")
    folder.mkdir(parents=True, exist_ok=True)  # the gradebook's database goes beside it
    course = CourseDirectory(config=config, assignment_id=assignment)
    GenerateAssignment(coursedir=course, config=config, force=True).start()
    return folder / assignment / f"{assignment}.ipynb"


def grade(config: Config, assignment: str, student: str) -> dict[str, tuple[float, float]]:
    """Execute one submission and return {test cell: (points, points to be had)}."""
    course = CourseDirectory(config=config, assignment_id=assignment, student_id=student)
    Autograde(coursedir=course, config=config, force=True).start()
    with Gradebook(course.db_url) as book:
        cells = book.find_submission_notebook(assignment, assignment, student).grades
        return {cell.name: (cell.score, cell.max_score) for cell in cells}


def grade_all(config: Config, handed_in: Path) -> None:
    """Grade a folder of submissions, print a line for each and write marks.csv."""
    known, rows = assignments(config), []
    paths = sorted(handed_in.glob("*/*/*.ipynb"))
    paths = [path for path in paths if path.parent.name == path.stem in known]
    if not paths:
        raise ValueError(
            f"no submissions in {handed_in}: they are called <student>/<assignment>/"
            f"<assignment>.ipynb, with an assignment of {', '.join(known)}"
        )
    for path in paths:
        assignment, student = path.stem, path.parents[1].name
        there = folder_of(config, "submitted") / student / assignment
        there.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, there / path.name)
        marks = grade(config, assignment, student)
        rows += [(student, assignment, cell, *points) for cell, points in marks.items()]
        got, full = map(sum, zip(*marks.values(), strict=True))
        print(f"{student:20} {assignment:16} {got:g} of {full:g}")
    table = folder_of(config, "release").parent / "marks.csv"
    with atomic_path(table) as temporary, open(temporary, "w", newline="") as file:
        csv.writer(file).writerows([("student", "assignment", "test", "points", "of"), *rows])
    print(f"every test's points: {table}")
