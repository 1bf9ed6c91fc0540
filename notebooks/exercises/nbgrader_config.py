"""Settings of nbgrader, whose commands read this file when they are run in this folder.

What is made, the gradebook too, lies outside of it in outputs/exercises.
"""

from pathlib import Path

here = Path(__file__).resolve().parent
made = "../../outputs/exercises"

c = get_config()  # noqa: F821 (nbgrader defines it)
c.CourseDirectory.course_id = "clims"
c.CourseDirectory.root = str(here)
for step in ("release", "submitted", "autograded", "feedback", "solution", "source_with_tests"):
    setattr(c.CourseDirectory, f"{step}_directory", f"{made}/{step}")
c.CourseDirectory.db_url = f"sqlite:///{(here / made).resolve() / 'gradebook.db'}"
c.OverwriteCells.add_missing_cells = True  # a test that was deleted is put back
c.Execute.timeout = 60  # seconds a cell may take
