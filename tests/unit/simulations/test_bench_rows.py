"""The table of benchmarks: what is measured anew takes the place of its rows, the others stay."""

import pytest

from simulations.bench.__main__ import main, with_rows
from simulations.bench.rows import Row

PAGE = """# Benchmarks

| ratio | median | range | aim | met |
|---|---|---|---|---|
| a message (6.7 s over 5.1 s) | 1.317 | 1.273 – 1.363 | – | – |
| memory | 1.003 | 1.003 – 1.003 | ≤ 1.05 | yes |
"""


def test_a_row_that_is_measured_anew_takes_the_place_of_the_old():
    rows = [Row("a message (3.0 s over 2.0 s)", [1.5, 1.4, 1.7], 1.2, "slow"), Row("new", [1], 1)]
    assert with_rows(PAGE, rows) == [
        "| a message (3.0 s over 2.0 s) | 1.500 | 1.400 – 1.700 | ≤ 1.2 | no: slow |",
        "| memory | 1.003 | 1.003 – 1.003 | ≤ 1.05 | yes |",
        "| new | 1.000 | 1.000 – 1.000 | ≤ 1 | yes |",
    ]


def test_a_part_whose_model_is_not_named_says_what_it_needs(capsys):
    with pytest.raises(SystemExit) as error:
        main(["--only", "weight-phase"])
    assert error.value.code == 2
    assert "needs --language-model and --language-data" in capsys.readouterr().err
