"""Run the same two apps in one process: for tests, notebooks and sweep jobs."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from logging import ERROR
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.app.error import Error
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.supercore import log
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from potara_flwr import client_app, server_app
from potara_flwr.messages.grid import RunGrid
from potara_flwr.settings.schema import Settings
from potara_flwr.training.local_steps import one_thread


class InProcessGrid(RunGrid):
    """A grid whose nodes are calls of a ClientApp, one after the other.

    Parameters
    ----------
    settings : Settings
        Become the run config of every node.
    app : ClientApp
        Answers the messages.
    num_nodes : int, optional
        Nodes 1 … num_nodes; node k holds partition k − 1. By default one for every client.
    """

    def __init__(
        self, settings: Settings, app: ClientApp = client_app.app, num_nodes: int | None = None
    ) -> None:
        self.app = app
        num_nodes = num_nodes or settings.data.num_clients
        run_id = uuid.uuid4().int >> 65
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, 0, 0
        super().__init__(Run.create_empty(run_id))
        run_config = settings.to_flat()
        self.contexts = {
            node: Context(
                run_id=run_id,
                node_id=node,
                node_config={"partition-id": node - 1, "num-partitions": num_nodes},
                state=RecordDict(),
                run_config=run_config,
            )
            for node in range(1, num_nodes + 1)
        }
        self._waiting: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the nodes."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Queue messages; returns their ids, in the same order."""
        ids = []
        for message in messages:
            message_id = str(uuid.uuid4())
            message.metadata.__dict__["_message_id"] = message_id
            self._waiting[message_id] = message
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Have the next of these messages answered; returns its reply."""
        wanted = set(message_ids)
        for message_id in self._waiting:
            if message_id in wanted:
                return [self._answer(self._waiting.pop(message_id))]
        return []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Have messages answered in order; ``timeout`` has no meaning here."""
        return [self._answer(message) for message in messages]

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        try:
            return self.app(message, self.contexts[node])
        except Exception as error:  # noqa: BLE001
            # As Flower does: whatever a client raises reaches the server as an error reply.
            log(ERROR, "node %d raised an exception", node, exc_info=error)
            reason = f"{type(error).__name__}: {error}"
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def run_in_process(settings: Settings, grid: InProcessGrid | None = None) -> Path:
    """Run a whole federation in this process; return the results folder.

    Raises
    ------
    PotaraError
        A setting does not fit, or too few clients could take part.
    """
    grid = grid or InProcessGrid(settings)
    with one_thread():
        return server_app.run(grid, settings, grid.run.run_id)
