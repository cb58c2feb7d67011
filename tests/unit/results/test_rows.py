"""The account of rows: every row is used, or left out for a reason."""

import pytest

from potara_flwr.core.errors import ReplyError
from potara_flwr.data.account import HeldRows, SourceRows, account
from potara_flwr.messages.reports import Description, pack, unpack
from potara_flwr.results.rows import in_words, total_rows

HELD = HeldRows(
    found=20, train=8, calibration=4, test=5, beyond_train_samples=2, beyond_test_samples=1
)
SHARED = SourceRows(number=0, found=70, unused_splits=20, no_client=3)


def entry_of(rows, source=None):
    return {"rows": account(rows, source)}


def test_an_account_travels_and_is_refused_where_it_does_not_add_up():
    description = Description(client=1, rows=HELD, source=SHARED)
    assert unpack(pack(description), Description) == description
    for name, value in (("rows.found", 21), ("rows.test", 6), ("source.unused_splits", 68)):
        content = pack(description)
        content["metrics"][name] = value
        with pytest.raises(ReplyError, match=r"rows (that are used and|are) left out"):
            unpack(content, Description)


def test_the_rows_of_all_are_those_of_the_clients_and_what_nobody_holds():
    own = HeldRows(found=9, train=4, calibration=2, test=2, unused_splits=1)
    total = total_rows([entry_of(HELD, SHARED), entry_of(HELD, SHARED), entry_of(own), {}])
    assert total == {
        "found": 79,
        "train": 20,
        "calibration": 10,
        "test": 12,
        "left_out": {
            "beyond_train_samples": 4,
            "beyond_test_samples": 2,
            "unused_splits": 21,
            "no_client": 3,
            "absent_clients": 7,
        },
    }
    parts = [total["train"], total["calibration"], total["test"], *total["left_out"].values()]
    assert total["found"] == sum(parts) == SHARED.found + own.found


def test_clients_that_say_nothing_of_rows_are_nought_in_all():
    assert in_words(total_rows([{}])) == "0 found, 0 for training, 0 for testing, none left out"


def test_clients_that_hold_the_same_rows_leave_none_out():
    whole = SourceRows(number=0, found=20, unused_splits=0, no_client=0)
    assert "absent_clients" not in total_rows([entry_of(HELD, whole)] * 3)["left_out"]


def test_an_account_in_words():
    assert in_words(account(HELD)) == (
        "20 found, 8 for training, 4 for calibration, 5 for testing; left out: 2 beyond "
        "data.train-samples, 1 beyond data.test-samples"
    )
    assert in_words(account(HeldRows(found=7, train=5, calibration=0, test=2))) == (
        "7 found, 5 for training, 2 for testing, none left out"
    )
    cut = account(HeldRows(found=7, train=5, calibration=0, test=2, cut=3))
    assert in_words(cut).endswith("none left out; the texts of 3 are cut (data.max-tokens)")
    assert total_rows([{"rows": cut}, {"rows": cut}, entry_of(HELD)])["cut"] == 6
    with pytest.raises(ValueError, match="more rows are cut than are used"):
        HeldRows(found=7, train=5, calibration=0, test=2, cut=8)
