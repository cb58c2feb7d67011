"""Answer one message in this process, as the process does that a SuperNode starts for it.

    python -m simulations.bench.fresh_message FOLDER SETTINGS

``simulations.bench`` times it. FOLDER has ``adapter.safetensors``, what the server sends, and
``app``, which has this package as Flower unpacks it, and becomes the node's ``state-dir``; SETTINGS
are flat, as JSON. What ``flwr-clientapp`` loads of Flower is loaded. Prints the processor seconds
that this process has taken.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

import flwr.supernode.cli.flwr_clientapp  # noqa: F401
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.object_ref import load_app
from flwr.supercore.task_identity import TaskIdentity


def main() -> None:
    """Train one round as client 0."""
    folder = Path(sys.argv[1])
    app = load_app("potara_flwr.client_app:app", RuntimeError, folder / "app")
    from safetensors.torch import load_file

    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0
    arrays = ArrayRecord(load_file(folder / "adapter.safetensors"))
    run = hashlib.sha256(sys.argv[2].encode()).hexdigest()[:16]
    config = ConfigRecord({"server-round": 1, "run-key": run})
    content = RecordDict({"arrays": arrays, "config": config})
    message = Message(content, 1, "train", group_id="1")
    message.metadata.__dict__["_message_id"] = "1"
    context = Context(
        run_id=1,
        node_id=1,
        node_config={"partition-id": 0, "state-dir": str(folder)},
        state=RecordDict(),
        run_config=json.loads(sys.argv[2]),
    )
    reply = app(message, context)
    if reply.has_error():
        sys.exit(f"error: {reply.error.reason}")
    print(time.process_time())


if __name__ == "__main__":
    main()
