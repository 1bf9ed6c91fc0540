"""A text table, written out by hand."""

from clims_lib.results.text import text_table


def test_columns_are_as_wide_as_their_widest_cell():
    lines = [("row", "mIoU", "says"), ("cam", "38.6", ""), ("clims_crf", "9.0", "met")]
    assert text_table(lines, right=[1]).splitlines() == [
        "row        mIoU  says",
        "---------  ----  ----",
        "cam        38.6",
        "clims_crf   9.0  met",
    ]
