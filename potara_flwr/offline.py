"""Personalization without a server: of a saved federated adapter, on a client's own data.

:func:`personalize_offline` is all of it. It needs the ``federated`` folder of a run, which holds
the run's settings and the adapter's SHA-256 too, and nothing else of that run: also a client that
never took part can do it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from potara_flwr.core.errors import SettingsError, StorageError
from potara_flwr.core.storage import write_whole
from potara_flwr.data.account import account
from potara_flwr.messages.reports import rows_of
from potara_flwr.methods import METHODS
from potara_flwr.models.adapter import Adapter, first_components
from potara_flwr.results.folder import RESULTS
from potara_flwr.results.run_file import FEDERATED
from potara_flwr.results.saving import save_client
from potara_flwr.saved import check_fits, check_hash, read_saved
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks import TASKS
from potara_flwr.tasks.base import ClientData, num_samples
from potara_flwr.tasks.workbench import Workbench
from potara_flwr.training.local_steps import one_thread


def personalize_offline(
    federated: Path,
    out: Path,
    *,
    client: int | None = None,
    data: str = "",
    model: str = "",
) -> dict[str, Any]:
    """Take a method's last step on a saved federated adapter; save the adapters and a report.

    For a client of the run this gives the bits that the run gave.

    Parameters
    ----------
    federated : Path
        ``<results>/federated`` of a run, or ``<results>``.
    out : Path
        A new folder: the personalized adapter as peft loads it, the others below, a model card
        (``README.md``), and the report (``report.json``, an entry of ``clients`` in
        docs/research/results.md, whose optimizer steps are those taken here).
    client : int, optional
        Which client of the run this is: decides its share of the run's data, and all draws. With
        ``data`` it is by default one that did not take part.
    data : str, optional
        A data file or folder all of whose rows are this client's; columns and all else as the
        run's settings say. By default the client's share of the run's data.
    model : str, optional
        Where the base model is on this machine, if not where the run had it.

    Returns
    -------
    dict
        The report.

    Raises
    ------
    SettingsError
        Neither client nor data is given, ``out`` is in use, the method keeps something on its
        clients in the rounds, or the data or the base model does not fit.
    StorageError
        The adapter is missing, damaged, or not the one that the run saved.
    """
    folder = federated / "federated" if (federated / "federated").is_dir() else federated
    settings, adapter = _read_federated(folder)
    if model:
        task = settings.task.model_copy(update={"model": model})
        settings = settings.model_copy(update={"task": task})
    _check(settings, out, client, data)
    with one_thread():
        bench = Workbench(settings)
        samples = _load_data(bench, client, data)
        method = METHODS[settings.method]
        this = method.client(bench, samples)
        check_fits(adapter, this.model, folder)
        rank = settings.rank_of(samples.client)
        received = adapter if rank is None else first_components(adapter, rank)
        outcome = method.personalize(this, this.model.initial | received)
    save_client(out, this, outcome)
    sizes = {
        f"num_{part}": num_samples(getattr(samples, part))
        for part in ("train", "calibration", "test")
    }
    rows, source = rows_of(samples, alone=bool(data))
    entry = {
        "client": samples.client,
        **sizes,
        **({"rows": account(rows, source)} if rows else {}),
        **outcome.report.to_json(),
    }
    write_whole(out / "report.json", (json.dumps(entry, indent=1) + "\n").encode())
    return entry


def _read_federated(folder: Path) -> tuple[Settings, Adapter]:
    """Return a run's settings, with its classes by name, and its federated adapter, if it is the
    one that the run saved.
    """
    saved = read_saved(folder)
    if saved.adapter != FEDERATED:
        raise StorageError(
            f"{folder} holds the {saved.adapter} adapter of client {saved.client}; name the "
            "federated one of the run"
        )
    results = folder.parent / RESULTS
    if results.is_file():
        try:
            recorded = json.loads(results.read_text())["federated_sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{results} is damaged ({error!r})") from None
        check_hash(folder, recorded, results.name)
    return saved.settings, saved.tensors


def _check(settings: Settings, out: Path, client: int | None, data: str) -> None:
    method = METHODS[settings.method]
    if method.keeps:
        raise SettingsError(
            f"method={settings.method} cannot be personalized without a server: in the rounds each "
            f"client keeps {method.keeps}, which is not in the federated adapter"
        )
    if client is None and not data:
        raise SettingsError("name the client's number in the run, or data of your own")
    if data and settings.task.name == "digits":
        raise SettingsError("the run's task.name=digits brings its own images; leave out the data")
    if data and not Path(data).expanduser().exists():
        raise SettingsError(f"there is no file or folder {data}")
    if client is not None and not data and client >= settings.data.num_clients:
        raise SettingsError(
            f"the run has {settings.data.num_clients} clients, from 0; client {client} needs data "
            "of its own"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingsError(f"{out} is in use; name a new folder")


def _load_data(bench: Workbench, client: int | None, data: str) -> ClientData:
    """Return the client's share of the run's data, or all rows of its own."""
    if not data:
        return bench.client(client or 0)
    settings = bench.settings
    number = settings.data.num_clients if client is None else client
    place = str(Path(data).expanduser().absolute())
    own = settings.data.model_copy(
        update={
            "path": place, "name": "", "datasets": "", "num_clients": number + 1,
            "partition": "whole", "partition_column": "",
        }
    )  # fmt: skip
    task = TASKS[settings.task.name](settings.model_copy(update={"data": own}))
    return task.load_client(number)
