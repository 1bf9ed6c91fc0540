"""Puts the committed tables into the README: python ci/update_readme.py (so does ci/results)."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from clims_lib.artifacts import atomic_path  # noqa: E402
from clims_lib.config import load_profile  # noqa: E402
from clims_lib.results.tables import read_committed, results_table  # noqa: E402
from clims_lib.results.verdicts import claims_table, committed_claims  # noqa: E402

BEGIN, END = "<!-- results of {}: ci/update_readme.py -->\n", "<!-- end of results -->"


def drawn() -> str:
    profile = load_profile("mini")
    rows = read_committed(profile)
    seeds = len({row["seed"] for row in rows})
    return (
        f"MiniWorld **test**, per cent, mean ± standard deviation over {seeds} training "
        f"seeds:\n\n```\n{results_table(rows)}\n```\n\nClaims, in points, whether they hold, and "
        f"when each was written down, before or after its first result:\n\n```\n"
        f"{claims_table(committed_claims(profile))}\n```\n\n"
    )


def photographed() -> str:
    rows = read_committed(load_profile("voc2012_sample"))
    return f"```\n{results_table(rows, measures=('miou', 'boat', 'train', 'person'))}\n```\n\n"


TABLES = {"mini": drawn, "voc2012_sample": photographed}


def with_results(readme: str) -> str:
    """The README's text with the committed tables between their marks; ValueError without them."""
    for name, table in TABLES.items():
        begin = BEGIN.format(name)
        before, _, rest = readme.partition(begin)
        _, _, after = rest.partition(END)
        if END not in rest:
            raise ValueError(f"README.md lacks the marks {begin.strip()} and {END}")
        readme = before + begin + table() + END + after
    return readme


def update_readme() -> None:
    path = ROOT / "README.md"
    with atomic_path(path) as temporary:
        temporary.write_text(with_results(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    update_readme()
