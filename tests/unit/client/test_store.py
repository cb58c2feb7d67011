"""A client's own disk: versions by round, trainings done once, foreign and damaged files."""

import pytest
import torch
from full_disk import fill_disk

from potara_flwr.client.store import ClientStore, State, check_writable, personalization_key
from potara_flwr.core.errors import StorageError
from potara_flwr.run_config import from_flat
from potara_flwr.tasks.base import ClientData


@pytest.fixture
def store(tmp_path):
    return store_of(tmp_path)


def store_of(folder, run_key="17", client=2, rows=4, **settings):
    samples = {"labels": torch.arange(rows), "pixel_values": torch.zeros(rows, 3)}
    data = ClientData(client, samples, samples, samples)
    return ClientStore(folder, run_key, client, from_flat(settings), data)


def state_of(server_round, value=None):
    tensor = torch.full((2, 3), float(server_round if value is None else value))
    residuals = {"x": tensor.numpy() / 10}
    return State(server_round, {"local head": {"h.weight": tensor}}, residuals, 10 * server_round)


def test_a_round_starts_from_the_newest_state_before_it(store, tmp_path):
    assert store.state(until=5) == State()
    before = State()
    for server_round in (1, 2, 5):
        store.save(state_of(server_round), before)
        before = store.state(until=server_round)
        assert before.round == server_round
    # The round that is asked for again, a later one, an evaluation of the same one.
    for until, expected in ((4, 2), (5, 5), (9, 5)):
        state = store.state(until)
        assert (state.round, state.steps) == (expected, 10 * expected)
        assert torch.equal(
            state.personal["local head"]["h.weight"], torch.full((2, 3), expected * 1.0)
        )
        assert state.residuals["x"].dtype == "float32"
    names = sorted(place.name for place in (tmp_path / "17" / "2").iterdir())
    assert names == ["round-00002.safetensors", "round-00005.safetensors"]


def test_a_round_taken_again_takes_the_place_of_the_first_time(store):
    store.save(state_of(1), State())
    one = store.state(until=1)
    store.save(state_of(2, 7.0), one)
    store.save(state_of(2, 8.0), store.state(until=1))
    assert store.state(until=2).personal["local head"]["h.weight"][0, 0] == 8.0


def test_a_state_that_is_gone_is_not_begun_anew(store):
    store.save(state_of(1), State())
    assert store.state(until=0) == State()  # round 1 again, which started from nothing
    store.save(state_of(2), store.state(until=1))
    store.save(state_of(3), store.state(until=2))
    with pytest.raises(StorageError, match="the state of round 1 is no longer there"):
        store.state(until=1)


def test_a_training_is_done_once_for_each_start(store, tmp_path):
    done = []

    def training():
        done.append(1)
        return {"a": start["a"] * 2}

    start = {"a": torch.ones(3)}
    trained, seconds = store.memo("local training", start, training)
    again, same_seconds = store_of(tmp_path).memo("local training", {"a": torch.ones(3)}, training)
    assert len(done) == 1
    assert torch.equal(again["a"], trained["a"])
    assert same_seconds == seconds > 0
    start = {"a": torch.ones(3) * 5}
    assert store.memo("local training", start, training)[0]["a"][0] == 10
    assert store.memo("refit", start, training)[0]["a"][0] == 10
    assert len(done) == 3


def test_a_report_is_that_of_the_same_personalization(store):
    received, state = {"a": torch.ones(2)}, state_of(3)
    key = personalization_key(received, state)
    assert store.report(key) is None
    store.finish(key, {"loss": 0.25})
    assert store.report(key) == {"loss": 0.25}
    for other in (
        personalization_key({"a": torch.zeros(2)}, state),
        personalization_key(received, state_of(4)),
    ):
        assert store.report(other) is None


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"run_key": "18"}, "is of another run"),
        ({"client": 3}, "is of another client"),
        ({"lora.rank": 7}, "is of other settings"),
        ({"rows": 5}, "is of other data: the client's rows, or their order, have changed"),
    ],
)
def test_the_state_of_another_is_never_used(store, tmp_path, other, words):
    store.save(state_of(1), State())
    theirs = store_of(tmp_path, **other)
    theirs.folder.mkdir(parents=True, exist_ok=True)
    (place,) = store.folder.iterdir()
    if theirs.folder != store.folder:
        (theirs.folder / place.name).write_bytes(place.read_bytes())
    with pytest.raises(StorageError, match=words) as error:
        theirs.state(until=1)
    assert f"move {theirs.folder} away" in str(error.value)
    assert store.state(until=1).round == 1


def test_run_settings_do_not_make_it_another(store, tmp_path):
    store.save(state_of(1), State())
    same = store_of(tmp_path, **{"run.resume": "/somewhere", "run.tracker": "wandb"})
    assert same.state(until=1).round == 1


def test_a_damaged_file_is_named(store):
    store.save(state_of(1), State())
    store.memo("local training", {}, dict)
    store.finish("key", {})
    for place in store.folder.iterdir():
        place.write_bytes(place.read_bytes()[:-1])
    for ask in (
        lambda: store.state(until=1), lambda: store.report("key"),
        lambda: store.memo("local training", {}, dict),
    ):  # fmt: skip
        with pytest.raises(StorageError, match=r"client 2: .*safetensors is damaged.*; move"):
            ask()


def test_a_full_disk_leaves_the_state_before(store, monkeypatch):
    store.save(state_of(1), State())
    with monkeypatch.context() as patch:
        fill_disk(patch, "*round-00002*")
        with pytest.raises(StorageError, match=r"round-00002.* cannot be written \(No space left"):
            store.save(state_of(2), store.state(until=1))
    assert store.state(until=2).round == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/state cannot be written \(Not a directory\)"):
        check_writable(tmp_path / "file" / "state")
    with pytest.raises(StorageError, match="cannot be written"):
        store_of(tmp_path / "file").save(state_of(1), State())
    check_writable(tmp_path / "new" / "state")
    assert list((tmp_path / "new" / "state").iterdir()) == []
