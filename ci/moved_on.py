"""Says whether the committed tables were measured with the code as it is now; ci/test calls it.

A note, no failure: most edits change no number, and measuring takes hours.
"""

from everything import code_of_results

from clims_lib.artifacts import read_json
from clims_lib.config import ROOT


def notes() -> list[str]:
    """A sentence for each committed table whose code has moved on since."""
    now, found = code_of_results(), []
    for path in sorted((ROOT / "data" / "results").glob("*.json")):
        then = read_json(path).get("code")
        moved = sorted(f for f in {**now, **(then or {})} if (then or {}).get(f) != now.get(f))
        if then is None:
            found.append(f"{path.name} does not say with which code it was measured")
        elif moved:
            found.append(f"since {path.name} was measured, {', '.join(moved)} changed")
    return found


if __name__ == "__main__":
    for note in notes():
        print(f"note: {note}; ci/results measures again")
