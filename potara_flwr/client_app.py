"""Flower's way in, client side: describe yourself, train, evaluate, personalize.

The personalized and the local adapter and the samples stay on the client: a reply to ``train``
holds the trained copy of the federated adapter, every other reply only numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.app.error import Error
from flwr.clientapp import ClientApp

from potara_flwr.adapters import Adapter
from potara_flwr.config import Settings, from_flat
from potara_flwr.entries import Description, Report, pack
from potara_flwr.errors import PotaraError, SettingsError
from potara_flwr.personalization import personalize
from potara_flwr.results import results_folder
from potara_flwr.saving import save_client
from potara_flwr.seeds import derive_seed
from potara_flwr.tasks.base import num_samples
from potara_flwr.training import evaluate, one_thread, train
from potara_flwr.workbench import Workbench, code_version, workbench

USER_ERROR = 400
"""Error code of a reply whose reason is one line for the user, such as a wrong setting."""

Handler = Callable[[Settings, int, Message, Context], RecordDict]


def answer(handler: Handler) -> Callable[[Message, Context], Message]:
    """Make a Flower handler of one that returns records: read the settings, compute on one thread,
    and answer an error that the user can mend with its one line instead of a traceback.
    """

    @functools.wraps(handler)
    def wrapped(message: Message, context: Context) -> Message:
        try:
            settings = from_flat(context.run_config)
            with one_thread():
                content = handler(settings, _client(context), message, context)
        except PotaraError as error:
            return Message(Error(USER_ERROR, str(error)), reply_to=message)
        return Message(content, reply_to=message)

    return wrapped


def _client(context: Context) -> int:
    """Return the client this node is: its partition."""
    if "partition-id" not in context.node_config:
        raise SettingsError("this SuperNode has no partition-id: start it with --node-config")
    return int(context.node_config["partition-id"])


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
    description = Description(
        client=client, num_partitions=int(context.node_config.get("num-partitions", 0))
    )
    if client < settings.data.num_clients:
        data = workbench(settings).client(client)
        description.num_train = num_samples(data.train)
        description.num_calibration = num_samples(data.calibration)
        description.num_test = num_samples(data.test)
    return pack(description)


@app.train()
@answer
def train_round(settings: Settings, client: int, message: Message, context: Context) -> RecordDict:
    """Take the local steps of one federated round."""
    bench = workbench(settings)
    data = bench.client(client)
    server_round = int(str(message.content.config_records["config"]["server-round"]))
    adapter, loss = train(
        bench.model,
        bench.task,
        _received(message, bench),
        data.train,
        settings.train,
        steps=settings.train.local_steps,
        seed=derive_seed(settings.seed, "round", server_round, client),
        who=f"client {client}, round {server_round}",
    )
    metrics = MetricRecord({"num-examples": num_samples(data.train), "loss": loss})
    return RecordDict({"arrays": ArrayRecord(adapter), "metrics": metrics})


@app.evaluate()
@answer
def evaluate_round(
    settings: Settings, client: int, message: Message, context: Context
) -> RecordDict:
    """Score the federated adapter on this client's test samples."""
    bench = workbench(settings)
    score = evaluate(
        bench.model,
        bench.task,
        _received(message, bench),
        bench.client(client).test,
        settings.train.evaluation_batch_size,
    )
    metrics = MetricRecord(
        {"num-examples": score.num_samples, "loss": score.loss, "accuracy": score.accuracy}
    )
    return RecordDict({"metrics": metrics})


@app.query("personalize")
@answer
def personalize_client(
    settings: Settings, client: int, message: Message, context: Context
) -> RecordDict:
    """Train the local adapter, merge it with the federated one, keep both; report numbers only."""
    bench = workbench(settings)
    data = bench.client(client)
    outcome = personalize(bench.model, bench.task, data, _received(message, bench), settings)
    folder = results_folder(settings, context.run_id) / "clients" / str(client)
    save_client(folder, client, outcome, bench.model, settings)
    return pack(Report.of(outcome))


def _received(message: Message, bench: Workbench) -> Adapter:
    """Return the adapter in a message, in the model's own order of tensors."""
    arrays = message.content.array_records["arrays"].to_torch_state_dict()
    return {name: arrays[name] for name in bench.model.initial}
