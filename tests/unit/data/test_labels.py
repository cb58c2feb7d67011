"""Classes by name: what a label is called, its number, and what is refused."""

import datasets
import numpy as np
import pytest

from potara_flwr.core.errors import SettingsError
from potara_flwr.data.labels import (
    check_countable,
    classes_of,
    encode,
    label_values,
    read_classes,
    unite,
    warn_of_twins,
    write_classes,
)


def table_of(values, feature=None):
    features = None if feature is None else datasets.Features({"label": feature})
    return datasets.Dataset.from_dict({"label": values}, features=features)


def codes(values, classes):
    labels = label_values(table_of(values), "label", "rows.csv")
    return encode(labels, read_classes(classes), "label", "rows.csv").tolist()


@pytest.mark.parametrize(
    ("values", "classes", "numbers"),
    [
        ([1, 2, 3, 1], "1,2,3", [0, 1, 2, 0]),
        ([3.0, 1.0], "1,2,3", [2, 0]),
        ([True, False], "True,False", [0, 1]),
        ([-1, 1], "1,-1", [1, 0]),
        ([0.5, 1.5], "1.5,0.5", [1, 0]),
        (["None", "NA", "null"], "NA,None,null", [1, 0, 2]),
        (["a, b", "c"], 'c,"a, b"', [1, 0]),
        ([2, 0], "3", [2, 0]),
    ],
)
def test_named_classes_are_known_by_their_text(values, classes, numbers):
    assert codes(values, classes) == numbers


def test_classes_are_sorted_unless_the_data_set_orders_them():
    assert classes_of(None, ["b", "a", "b"]) == ("a", "b")
    assert classes_of(None, [10, 9]) == ("9", "10")
    order = datasets.ClassLabel(names=["z", "a"])
    table = table_of([1, 0], order)
    values = label_values(table, "label", "rows")
    assert values == ["a", "z"]
    assert classes_of(table.features["label"], values) == ("z", "a")


@pytest.mark.parametrize("values", [[0, -1], [0, 1.5]])
def test_numbers_that_may_be_measures_have_to_be_named(values):
    labels = label_values(table_of([float(value) for value in values]), "label", "rows.csv")
    with pytest.raises(SettingsError, match=r"row 1 is labelled .* named in data\.classes"):
        check_countable(labels, "label", "rows.csv")


def test_an_unknown_label_is_named_with_its_file_and_row():
    with pytest.raises(SettingsError) as error:
        codes(["good", "awful"], "bad,good")
    assert str(error.value) == (
        "data.label-column: rows.csv, column 'label': row 1 has the label 'awful', which is none "
        "of the run's classes: bad, good"
    )


@pytest.mark.parametrize("value", [None, "", float("nan")])
def test_only_what_is_empty_has_no_label(value):
    other = 1.0 if isinstance(value, float) else "a"
    with pytest.raises(SettingsError, match="row 1 has no label"):
        label_values(table_of([other, value]), "label", "rows.csv")


def test_classes_are_read_as_they_are_written():
    for classes in (("a", "b"), ("a, b", "c"), ('say "hi"', "x"), ("1", "2"), ("niño", "😀")):
        assert read_classes(write_classes(classes)) == classes


@pytest.mark.parametrize("text", ["one", "1", "a,a", "a, a"])
def test_too_few_classes_are_refused(text):
    with pytest.raises(SettingsError, match=r"data\.classes is .* name two or more"):
        read_classes(text)


def test_a_union_keeps_the_first_order():
    assert unite([("b", "a"), ("a", "c")]) == ("b", "a", "c")


def test_twins_are_warned_of_by_name(caplog):
    warn_of_twins(("good", "Good ", "bad"), "rows.csv")
    (line,) = caplog.messages
    assert "rows.csv: the classes 'good', 'Good ' differ only in case or blanks" in line
    caplog.clear()
    warn_of_twins(("good", "bad"), "rows.csv")
    assert not caplog.messages


def test_codes_are_whole_numbers():
    assert encode(["a"], ("a", "b"), "label", "x").dtype == np.int64


def test_a_word_among_numbers_is_a_mistake_unless_it_is_named():
    values = [str(number % 2) for number in range(30)]
    values[20] = "unsure"
    with pytest.raises(SettingsError) as error:
        check_countable(values, "label", "rows.csv")
    assert str(error.value) == (
        "data.label-column: rows.csv, column 'label': row 20 has the label 'unsure', a word, but "
        "29 others are numbers; mend it, or name the classes in data.classes"
    )
    check_countable(["1", "2", "other"] * 4, "label", "rows.csv")
    assert codes(values, "0,1,unsure")[20] == 2
