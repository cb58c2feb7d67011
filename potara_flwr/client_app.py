"""Flower's way in, client side: describe yourself, train, evaluate, personalize.

The personalized and the local adapter and the samples stay on the client: a reply to ``train``
holds the tensors that the method shares, every other reply only numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from logging import ERROR

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.app.error import Error
from flwr.clientapp import ClientApp
from flwr.supercore import log

from potara_flwr.client.clipping import clip_update
from potara_flwr.client.holding import hold_for_next
from potara_flwr.client.participant import Participant, encode_update
from potara_flwr.client.preflight import preflight
from potara_flwr.client.store import State, check_writable, personalization_key
from potara_flwr.core.errors import (
    NodeError,
    PotaraError,
    SettingsError,
    StorageError,
    one_line,
)
from potara_flwr.core.version import code_version
from potara_flwr.messages.reports import USER_ERROR, Description, Report, pack, rows_of
from potara_flwr.results.saving import save_client
from potara_flwr.run_config import from_flat
from potara_flwr.tasks.base import num_samples
from potara_flwr.training.local_steps import one_thread

Handler = Callable[[Participant], RecordDict]


def answer(handler: Handler) -> Callable[[Message, Context], Message]:
    """Make a Flower handler of one that returns records: read the settings and the node's own,
    compute on one thread, and answer an error that somebody can mend with its one line instead of a
    traceback, here and on the server.
    """

    @functools.wraps(handler)
    def wrapped(message: Message, context: Context) -> Message:
        try:
            participant = Participant.of(from_flat(context.run_config), message, context)
            with one_thread():
                content = _handled(handler, participant)
            hold_for_next(participant, context)
        except PotaraError as error:
            log(ERROR, "%s: %s", message.metadata.message_type, error)
            return _refusal(error, message)
        return Message(content, reply_to=message)

    return wrapped


def _handled(handler: Handler, participant: Participant) -> RecordDict:
    """Answer a message.

    Raises
    ------
    NodeError
        What is wrong is this node's own affair, as everything is that a node with data or a state
        of its own, or with a name on the list of expected ones, finds wrong.
    """
    node = participant.node
    try:
        return handler(participant)
    except (SettingsError, StorageError) as error:
        if node.data_path or node.state_dir or participant.settings.federation.names:
            raise node.fault(error, participant.number) from None
        raise


def _refusal(error: PotaraError, message: Message) -> Message:
    """Return the reply that says what is wrong; ``describe`` also says with whom."""
    line = one_line(str(error))
    if isinstance(error, NodeError) and message.metadata.message_type == "query.describe":
        description = Description(client=error.client, fault=line)
        return Message(pack(description), reply_to=message)
    return Message(Error(USER_ERROR, line), reply_to=message)


app = ClientApp()


@app.query("describe")
@answer
def describe(participant: Participant) -> RecordDict:
    """Say which client this node is and how many samples it has; run every check of the data, and
    once, on a sample or two, what is done with them later.
    """
    theirs = participant.message.content.config_records["config"]["code-version"]
    if theirs != code_version():
        raise SettingsError(
            f"stale code: the ServerApp runs version {theirs!s} of potara_flwr, this node "
            f"{code_version()} from {__file__}; stop the SuperLink that was started from there "
            "and run again (docs/guides/flower.md, 'Stale code')"
        )
    check_writable(participant.state_dir)
    description = Description(
        client=participant.number, num_partitions=participant.node.num_partitions
    )
    if participant.number < participant.settings.data.num_clients:
        data = participant.data
        description.num_train = num_samples(data.train)
        description.num_calibration = num_samples(data.calibration)
        description.num_test = num_samples(data.test)
        description.rows, description.source = rows_of(data, alone=bool(participant.node.data_path))
        preflight(participant.bench, data, participant.state_dir)
    return pack(description)


@app.train(mods=[clip_update])
@answer
def train_round(participant: Participant) -> RecordDict:
    """Take the local steps of one federated round."""
    store, server_round = participant.store, participant.server_round
    before = store.state(until=server_round - 1)
    client = participant.client(store, before)
    received = participant.received_by(client)
    update = participant.method.train_round(client, received, server_round)
    arrays, residuals = encode_update(client, update.adapter, received, before.residuals)
    if participant.method.keeps_state(participant.settings):
        store.save(
            State(server_round, client.personal, residuals, client.steps, client.seconds), before
        )
    metrics = MetricRecord(
        {
            "server-round": server_round,
            "num-examples": num_samples(client.samples),
            "loss": update.loss,
            "seconds": client.seconds - before.seconds,
        }
    )
    return RecordDict({"arrays": arrays, "metrics": metrics})


@app.evaluate()
@answer
def evaluate_round(participant: Participant) -> RecordDict:
    """Score what the method has after a round, mostly the federated adapter, on test samples."""
    store, server_round = participant.store, participant.server_round
    client = participant.client(store, store.state(until=server_round))
    score = participant.method.score_round(client, participant.received_by(client))
    metrics = MetricRecord(
        {
            "server-round": server_round,
            "num-examples": score.num_samples,
            "loss": score.loss,
            "accuracy": score.accuracy,
        }
    )
    return RecordDict({"metrics": metrics})


@app.query("personalize")
@answer
def personalize_client(participant: Participant) -> RecordDict:
    """Take the method's last step, save the adapters; report numbers only. What is done is not done
    again: asked once more about the same adapter, answer what was answered before.
    """
    store, server_round = participant.store, participant.server_round
    state = store.state(until=server_round)
    client = participant.client(store, state)
    received = participant.received_by(client)
    key = personalization_key(received, state)
    folder = participant.adapters_folder
    if (done := store.report(key)) and (folder / "README.md").is_file():
        return pack(Report.model_validate(done), server_round)
    outcome = participant.method.personalize(client, received)
    save_client(folder, client, outcome)
    store.finish(key, outcome.report.model_dump())
    return pack(outcome.report, server_round)
