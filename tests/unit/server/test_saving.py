"""What a run leaves in its folder when it ends."""

import pytest
from results_example import example_results

from potara_flwr.results.folder import read_results
from potara_flwr.server_app import save_results
from potara_flwr.settings.schema import Settings


@pytest.mark.usefixtures("no_pictures")
def test_without_a_report_none_of_an_earlier_attempt_is_left_beside_the_results(tmp_path):
    save_results(tmp_path, example_results(2, rounds=2), Settings())
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "report.html", "figures"}
    without = Settings().model_copy(
        update={"run": Settings().run.model_copy(update={"report": False})}
    )
    save_results(tmp_path, example_results(3, rounds=2), without)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert len(read_results(tmp_path)["clients"]) == 3
