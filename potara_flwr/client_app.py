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
from potara_flwr.client.node import read_node
from potara_flwr.client.state import (
    adapters_folder,
    load_client,
    read,
    round_of,
    state_dir,
    store_of,
    write,
)
from potara_flwr.client.store import State, check_writable, personalization_key
from potara_flwr.core.errors import NodeError, PotaraError, SettingsError, StorageError, one_line
from potara_flwr.core.version import code_version
from potara_flwr.messages.reports import USER_ERROR, Description, Report, pack
from potara_flwr.methods import METHODS
from potara_flwr.results.saving import save_client
from potara_flwr.run_config import from_flat
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks.base import num_samples
from potara_flwr.tasks.workbench import workbench
from potara_flwr.training.local_steps import one_thread, time_limit

Handler = Callable[[Settings, int, Message, Context], RecordDict]


def answer(handler: Handler) -> Callable[[Message, Context], Message]:
    """Make a Flower handler of one that returns records: read the settings and the node's own,
    compute on one thread, and answer an error that somebody can mend with its one line instead of a
    traceback, here and on the server.
    """

    @functools.wraps(handler)
    def wrapped(message: Message, context: Context) -> Message:
        try:
            settings = from_flat(context.run_config)
            with one_thread(), time_limit(message.metadata.ttl):
                content = _handled(handler, settings, message, context)
        except PotaraError as error:
            log(ERROR, "%s: %s", message.metadata.message_type, error)
            return _refusal(error, message)
        return Message(content, reply_to=message)

    return wrapped


def _handled(
    handler: Handler, settings: Settings, message: Message, context: Context
) -> RecordDict:
    """Answer as the client that this node is, with its own data where it has some.

    Raises
    ------
    NodeError
        What is wrong is this node's own affair, as everything is that a node with data or a state
        of its own, or with a name on the list of expected ones, finds wrong.
    """
    node = read_node(context.node_config, settings.federation.names)
    client = node.client(settings)
    try:
        settings = node.settings(settings, client)
        if folder := node.state_folder:
            workbench(settings).kept_in = folder / "data"
        return handler(settings, client, message, context)
    except (SettingsError, StorageError) as error:
        if node.data_path or node.state_dir or settings.federation.names:
            raise node.fault(error, client) from None
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
def describe(settings: Settings, client: int, message: Message, context: Context) -> RecordDict:
    """Say which client this node is and how many samples it has; runs every check of the data."""
    theirs = message.content.config_records["config"]["code-version"]
    if theirs != code_version():
        raise SettingsError(
            f"stale code: the ServerApp runs version {theirs!s} of potara_flwr, this node "
            f"{code_version()} from {__file__}; stop the SuperLink that was started from there "
            "and run again (README, 'Stale code')"
        )
    check_writable(state_dir(settings, context))
    description = Description(
        client=client, num_partitions=int(context.node_config.get("num-partitions", 0))
    )
    if client < settings.data.num_clients:
        data = workbench(settings).client(client)
        description.num_train = num_samples(data.train)
        description.num_calibration = num_samples(data.calibration)
        description.num_test = num_samples(data.test)
    return pack(description)


@app.train(mods=[clip_update])
@answer
def train_round(settings: Settings, client: int, message: Message, context: Context) -> RecordDict:
    """Take the local steps of one federated round."""
    store, server_round = store_of(settings, client, message, context), round_of(message)
    before = store.state(until=server_round - 1)
    this = load_client(settings, client, store, before)
    received = read(this, message.content.array_records["arrays"])
    update = METHODS[settings.method].train_round(this, received, server_round)
    arrays, residuals = write(this, update.adapter, received, before.residuals)
    store.keep(State(server_round, this.kept, residuals, this.steps, this.seconds), before)
    metrics = MetricRecord(
        {
            "server-round": server_round,
            "num-examples": num_samples(this.samples),
            "loss": update.loss,
            "seconds": this.seconds - before.seconds,
        }
    )
    return RecordDict({"arrays": arrays, "metrics": metrics})


@app.evaluate()
@answer
def evaluate_round(
    settings: Settings, client: int, message: Message, context: Context
) -> RecordDict:
    """Score what the method has after a round, mostly the federated adapter, on test samples."""
    store = store_of(settings, client, message, context)
    this = load_client(settings, client, store, store.state(until=round_of(message)))
    received = read(this, message.content.array_records["arrays"])
    score = METHODS[settings.method].score_round(this, received)
    metrics = MetricRecord(
        {
            "server-round": round_of(message),
            "num-examples": score.num_samples,
            "loss": score.loss,
            "accuracy": score.accuracy,
        }
    )
    return RecordDict({"metrics": metrics})


@app.query("personalize")
@answer
def personalize_client(
    settings: Settings, client: int, message: Message, context: Context
) -> RecordDict:
    """Take the method's last step, keep the adapters; report numbers only. What is done is not done
    again: asked once more about the same adapter, answer what was answered before.
    """
    store = store_of(settings, client, message, context)
    state = store.state(until=round_of(message))
    this = load_client(settings, client, store, state)
    received = read(this, message.content.array_records["arrays"])
    key = personalization_key(received, state)
    folder = adapters_folder(settings, client, message, context)
    if (done := store.report(key)) and (folder / "README.md").is_file():
        return pack(Report.model_validate(done), round_of(message))
    outcome = METHODS[settings.method].personalize(this, received)
    save_client(folder, client, outcome, this.model, settings)
    report = Report.of(outcome, this.steps, this.seconds)
    store.finish(key, report.model_dump())
    return pack(report, round_of(message))
