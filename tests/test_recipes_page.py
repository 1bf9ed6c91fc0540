"""The page "What we run and what they ran" says what profiles and the authors' figures say."""

import pytest
import recipes

ROWS = [(title, row) for title, rows in recipes.SECTIONS.items() for row in rows]


def test_the_page_is_current():
    assert recipes.PAGE.read_text(encoding="utf-8") == recipes.page(), "run: python ci/recipes.py"


@pytest.mark.parametrize("title, row", ROWS, ids=[f"{t}: {row.what}" for t, row in ROWS])
def test_a_reason_for_each_difference_and_only_for_them(title, row):
    if recipes.differs(row):
        assert row.why, f"{row.what} differs: {recipes.cells(row)}; say why"
    else:
        assert not row.why, f"{row.what} is theirs: {recipes.cells(row)}; nothing to explain"


def test_a_changed_setting_is_seen(monkeypatch):
    """Without a reason, a profile that runs something else cannot be written about."""
    from clims_lib.config import load_profile

    changed = [load_profile(n, ["clims.lr=1e-3"]) for n in ("voc2012", "voc2012_release")]
    monkeypatch.setattr(recipes, "profiles", lambda: changed)
    row = next(row for title, row in ROWS if (title, row.what) == ("CLIMS", "rate"))
    assert recipes.differs(row) and "0.001" in recipes.page()
