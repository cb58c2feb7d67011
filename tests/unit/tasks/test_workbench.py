"""What a process holds of a run: one base model, and samples of each node's own."""

from potara_flwr.tasks.workbench import workbench


def test_nodes_with_data_of_their_own_share_the_model_and_evict_nobody(tiny):
    run = tiny()
    first, second = (workbench(tiny({"data.train-samples": n}), run) for n in (10, 12))
    assert first is not second
    assert first.model is second.model
    assert first.client(0) is not second.client(0)
    assert workbench(tiny({"data.train-samples": 10}), run) is first


def test_another_run_takes_the_place_of_the_last(tiny):
    first = workbench(tiny())
    workbench(tiny({"seed": 1}))
    assert workbench(tiny()) is not first
