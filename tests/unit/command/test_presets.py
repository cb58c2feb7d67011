"""``potara presets``: what there is, and a file to begin one's own from."""

from potara_flwr.command.main import main
from potara_flwr.running.composition import CONF, compose_settings, preset_names


def test_every_preset_has_a_line(capsys):
    assert main(["presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == preset_names()
    assert all(len(line.split()) > 4 for line in lines)
    (digits,) = [line for line in lines if line.startswith("digits ")]
    assert digits.endswith("  " + "The embedded default: eight clients, handwritten digits, "
                           "everybody's images rotated by a quarter turn, which the base model has "
                           "not seen")  # fmt: skip


def test_the_file_of_a_preset_is_printed_and_a_copy_of_it_is_the_same(tmp_path, capsys):
    assert main(["presets", "sentiment"]) == 0
    text = capsys.readouterr().out
    assert text == (CONF / "experiment" / "sentiment.yaml").read_text()
    own = tmp_path / "my sentiment.yaml"
    own.write_text(text)
    assert compose_settings([f"experiment={own}"]) == compose_settings(["experiment=sentiment"])


def test_a_name_that_is_none_is_one_line(capsys):
    assert main(["presets", "digit"]) == 1
    assert capsys.readouterr().err == ("error: there is no preset 'digit'; did you mean digits?\n")
