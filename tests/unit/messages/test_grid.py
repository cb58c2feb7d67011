"""The metered grid: bytes, order, who did not answer."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.error import Error
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from potara_flwr.messages.grid import MeteredGrid, content_bytes
from potara_flwr.messages.ledger import Exchange, Ledger


@pytest.fixture(autouse=True)
def _identity(monkeypatch):
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


class SlowGrid(Grid):
    """Answers in reverse order, one reply a poll; nodes in ``silent`` never do."""

    def __init__(self, silent=()):
        self.silent = silent
        self.waiting = {}

    def set_run(self, run):
        pass

    @property
    def run(self):
        return None

    def create_message(self, *args, **kwargs):
        return None

    def get_node_ids(self):
        return [30, 10, 20]

    def push_messages(self, messages):
        for index, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"m{index}"
            self.waiting[f"m{index}"] = message
        return list(self.waiting)

    def pull_messages(self, message_ids):
        for message_id in sorted(message_ids, reverse=True):
            message = self.waiting[message_id]
            if message.metadata.dst_node_id not in self.silent:
                metrics = MetricRecord({"num-examples": 1, "x": 0.5})
                return [Message(RecordDict({"metrics": metrics}), reply_to=message)]
        return []

    def send_and_receive(self, messages, *, timeout=None):
        return []


def messages_to_all():
    content = RecordDict({"config": ConfigRecord({"server-round": 4})})
    return [Message(content, node, "train", group_id="4") for node in (30, 10, 20)]


def send(grid, timeout=5.0):
    return grid.send_and_receive(messages_to_all(), timeout=timeout)


def metered(silent=()) -> MeteredGrid:
    return MeteredGrid(SlowGrid(silent), Ledger(clients={30: 0, 10: 1, 20: 2}))


def test_replies_come_sorted_by_client_and_are_counted():
    grid = metered()
    replies = send(grid)
    assert [reply.metadata.src_node_id for reply in replies] == [30, 10, 20]
    messages = grid.ledger.to_json()["communication"]["messages"]
    assert [(m["client"], m["round"], m["kind"]) for m in messages] == [
        (0, 4, "train"), (1, 4, "train"), (2, 4, "train"),
    ]  # fmt: skip
    assert {m["bytes_up"] for m in messages} == {content_bytes(replies[0].content)}


def test_replies_can_be_had_as_they_arrive():
    grid = metered()
    replies = grid.replies(messages_to_all(), timeout=5.0)
    first = next(replies)
    assert first.metadata.src_node_id == 20
    assert grid.ledger.bytes()[1] == content_bytes(first.content)
    assert [reply.metadata.src_node_id for reply in replies] == [10, 30]
    assert grid.ledger.bytes()[1] == 3 * content_bytes(first.content)


def test_who_does_not_answer_in_time_is_missing_by_name():
    grid = metered(silent=[10])
    replies = send(grid, timeout=0.3)
    assert [reply.metadata.src_node_id for reply in replies] == [30, 20]
    (missing,) = grid.ledger.to_json()["missing"]
    assert missing == {"client": 1, "round": 4, "kind": "train", "reason": "no reply in 0.3 s"}
    unanswered = grid.ledger.to_json()["communication"]["messages"][1]
    assert unanswered["bytes_up"] == 0
    assert unanswered["bytes_down"] > 0
    assert grid.ledger.absent(4, "train") == "client 1: no reply in 0.3 s"
    assert grid.ledger.absent(3, "train") == ""


def test_the_size_of_a_content_is_that_of_its_arrays_and_a_little_more():
    arrays = {
        name: Array(np.random.default_rng(i).normal(size=1000)) for i, name in enumerate("ab")
    }
    size = content_bytes(RecordDict({"arrays": ArrayRecord(arrays)}))
    assert 2 * 8000 < size < 2 * 8000 + 2000


def test_equal_arrays_are_sent_and_counted_once():
    same = {name: Array(np.ones(1000)) for name in "ab"}
    assert content_bytes(RecordDict({"arrays": ArrayRecord(same)})) < 8000 + 2000


def test_numbers_of_equal_kind_have_equal_size():
    def size(value):
        return content_bytes(RecordDict({"metrics": MetricRecord({"seconds": value})}))

    assert size(0.1) == size(123.456789) == size(0.0)


def test_a_message_lives_as_long_as_its_round():
    grid = metered()
    send(grid, timeout=7.5)
    assert {message.metadata.ttl for message in grid.inner.waiting.values()} == {7.5}


def test_what_earlier_attempts_wrote_down_comes_first_and_once():
    def message(client, kind, server_round, down=10, up=20):
        return {"round": server_round, "client": client, "kind": kind,
                "bytes_down": down, "bytes_up": up}  # fmt: skip

    def absence(client, kind, server_round, reason="gone"):
        return {"client": client, "round": server_round, "kind": kind, "reason": reason}

    stored = {
        "communication": {"messages": [message(0, "describe", 0), message(0, "train", 1)]},
        "refused": [absence(1, "train", 1)],
        "missing": [absence(2, "describe", 0, "was late")],
    }
    ledger = Ledger({30: 0, 10: 1})
    ledger.exchanges += [Exchange(30, 0, "describe", 1, 2), Exchange(10, 0, "describe", 3, 4)]
    ledger.miss(2, 0, "describe", "no SuperNode is this client")
    ledger.miss(3, 0, "describe", "no SuperNode is this client")
    ledger.miss(4, 0, "describe", "no SuperNode is this client")
    ledger.go_on(stored, concerned={3})
    ledger.exchanges.append(Exchange(10, 2, "train", 5, 6))
    found = ledger.to_json()
    assert found["communication"]["messages"] == [
        message(0, "describe", 0), message(1, "describe", 0, 3, 4), message(0, "train", 1),
        message(1, "train", 2, 5, 6),
    ]  # fmt: skip
    assert (
        ledger.bytes()
        == (28, 50)
        == tuple(found["communication"][f"bytes_{way}"] for way in ("down", "up"))
    )
    assert found["refused"] == stored["refused"]
    assert [item["client"] for item in found["missing"]] == [2, 3]
    assert found["missing"][0]["reason"] == "was late"


class OddGrid(SlowGrid):
    """Answers each poll with what ``answers`` makes of the messages that are open."""

    def __init__(self, *answers):
        super().__init__()
        self.answers = list(answers)

    def pull_messages(self, message_ids):
        asked = [self.waiting[message_id] for message_id in sorted(message_ids)]
        return self.answers.pop(0)(asked) if self.answers else []


def answer(message, value=0.5):
    return Message(
        RecordDict({"metrics": MetricRecord({"num-examples": 1, "x": value})}), reply_to=message
    )


def answered_by(node, message):
    """A reply to a message that was sent to another node."""
    elsewhere = Message(RecordDict(), node, "train", group_id="4")
    elsewhere.metadata.__dict__["_message_id"] = message.metadata.message_id
    return answer(elsewhere)


def odd(*answers) -> MeteredGrid:
    return MeteredGrid(OddGrid(*answers), Ledger(clients={30: 0, 10: 1, 20: 2}))


def test_of_two_replies_the_first_is_taken_and_the_second_refused():
    grid = odd(lambda asked: [answer(asked[0], 0.1), answer(asked[0], 0.9)],
               lambda asked: [answer(message) for message in asked])  # fmt: skip
    replies = send(grid)
    assert [reply.content["metrics"]["x"] for reply in replies] == [0.1, 0.5, 0.5]
    (refused,) = grid.ledger.refused
    assert (refused.client, refused.round, refused.kind) == (0, 4, "train")
    assert refused.reason.startswith("node 30 has replied twice")


def test_a_reply_to_what_was_never_asked_is_refused():
    def stray(asked):
        message = Message(RecordDict(), 77, "train", group_id="3")
        message.metadata.__dict__["_message_id"] = "other"
        return [answer(message), *map(answer, asked)]

    grid = odd(stray)
    assert len(send(grid)) == 3
    (refused,) = grid.ledger.refused
    assert refused.client is None
    assert "node 77" in refused.reason


def test_a_reply_in_anothers_place_is_an_error_of_that_one():
    grid = odd(lambda asked: [answered_by(10, asked[0]), answer(asked[1]), answer(asked[2])])
    replies = send(grid)
    assert [reply.metadata.src_node_id for reply in replies] == [30, 10, 20]
    assert replies[0].error.reason == "node 10 has replied in its place"
    assert replies[1].has_content()


def test_an_error_that_flower_answers_for_a_node_is_the_nodes():
    def lost(asked):
        flower = Message(RecordDict(), 1, "train", group_id="4")
        flower.metadata.__dict__["_message_id"] = asked[2].metadata.message_id
        return [answer(asked[0]), answer(asked[1]),
                Message(Error(12, "objects are unavailable"), reply_to=flower)]  # fmt: skip

    replies = send(odd(lost))
    assert [reply.metadata.src_node_id for reply in replies] == [30, 10, 20]
    assert replies[2].error.reason == "objects are unavailable"


def test_a_reply_that_flower_cannot_unpack_is_refused_and_the_others_are_not():
    def broken(asked):
        raise ValueError("no such object type")

    grid = odd(broken, lambda asked: [answer(asked[0])], broken, lambda asked: [answer(asked[0])])
    replies = send(grid)
    assert [reply.has_content() for reply in replies] == [True, False, True]
    assert replies[1].error.reason == (
        "its reply cannot be read: ValueError: no such object type"
    )  # fmt: skip
    assert [reply.metadata.src_node_id for reply in replies] == [30, 10, 20]


def test_a_number_that_cannot_be_serialized_is_an_error_reply():
    grid = odd(lambda asked: [answer(asked[0], 10**400), *map(answer, asked[1:])])
    replies = send(grid)
    assert "its reply cannot be read" in replies[0].error.reason
    assert replies[1].has_content()


def test_who_was_absent_is_named_once():
    ledger = Ledger(clients={30: 0, 10: 1})
    ledger.refuse(0, 4, "train", "client 0, round 4: the loss is nan")
    ledger.refuse(1, 4, "train", "client 1: the name q is wrong")
    ledger.refuse(1, None, "personalize", "client 1: its disk is full")
    assert ledger.absent(4, "train") == "client 0: the loss is nan; client 1: the name q is wrong"
    assert ledger.absent(None, "personalize") == "client 1: its disk is full"
