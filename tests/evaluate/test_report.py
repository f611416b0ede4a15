"""Results as rows, and as a table."""

import numpy as np

from xplm.evaluate.report import Row, read_rows, table_lines


def test_the_rows_of_lm_evals_results():
    task = {
        "name": "mine",
        "alias": "mine",
        "sample_len": 8,
        "acc,none": 0.25,
        "acc_stderr,none": 0.05,
    }
    task |= {"ppl,none": np.float64(3.5), "ppl_stderr,none": "N/A"}
    task |= {"exact_match,first": 1, "exact_match_stderr,first": float("nan")}
    group = {"name": "both", "alias": "both", "acc,none": 0.5, "acc_stderr,none": 0.01}
    assert read_rows({"results": {"mine": task}, "groups": {"both": group}}) == [
        Row("both", "acc", "", 0.5, 0.01, None),
        Row("mine", "acc", "", 0.25, 0.05, 8),
        Row("mine", "ppl", "", 3.5, None, 8),
        Row("mine", "exact_match", "first", 1.0, None, 8),
    ]


def test_the_table():
    rows = [
        Row("arc_easy", "acc", "", 0.41234, 0.0156, 100),
        Row("arc_easy", "acc_norm", "", 0.5, None, 100),
        Row("small_qa", "exact_match", "first_line", 1.0, 0.0, 8),
        Row("both", "acc", "", 0.25, None, None),
    ]
    assert table_lines(rows) == [
        "task      metric                     value  stderr  documents",
        "arc_easy  acc                       0.4123  0.0156        100",
        "          acc_norm                  0.5000",
        "small_qa  exact_match (first_line)  1.0000  0.0000          8",
        "both      acc                       0.2500",
    ]
