"""Results of a run that never happened, with the shape and the troubles of real ones."""

from __future__ import annotations

import math
import random
from typing import Any

from potara_flwr.data.account import HeldRows, account
from potara_flwr.results.rows import total_rows

RULES = ("excess-loss", "variance-trace", "segment", "uniform", "grid", "fisher")


def example_results(
    clients: int = 8,
    rounds: int = 20,
    rules: tuple[str, ...] = RULES,
    evaluated: bool = True,
    reason: str = "",
) -> dict[str, Any]:
    """Build consistent results; the first rule is the chosen one.

    With ``reason`` every personalized adapter is the local one, as after zero rounds.
    """
    draw = random.Random(clients)
    rows = [_client(draw, client, rules, reason) for client in range(clients)]
    history = [_round(number, rounds, rows, evaluated) for number in range(1, rounds + 1)]
    messages = [_message(0, client, "describe", 0, 200) for client in range(clients)]
    for number in range(1, rounds + 1):
        messages += [_message(number, client, "train", 43_210, 43_300) for client in range(clients)]
    messages += [_message(None, client, "personalize", 43_210, 900) for client in range(clients)]
    return {
        "method": "potara",
        "config": _config(clients, rounds, rules[0]),
        "rounds": history,
        "communication": {
            "bytes_down": sum(message["bytes_down"] for message in messages),
            "bytes_up": sum(message["bytes_up"] for message in messages),
            "messages": messages,
        },
        "clients": rows,
        "rows": total_rows(rows),
        "refused": [],
        "missing": [],
        "summary": _summary(rows, rules),
    }


def _client(
    draw: random.Random, client: int, rules: tuple[str, ...], reason: str
) -> dict[str, Any]:
    best, height = draw.uniform(0.05, 0.8), draw.uniform(0.7, 0.95)

    def accuracy_at(weight: float) -> float:
        return height - 0.5 * (weight - best) ** 2

    def loss_at(weight: float) -> float:
        return -math.log(accuracy_at(weight))

    grid = [
        {"weight": i / 10, "accuracy": accuracy_at(i / 10), "loss": loss_at(i / 10)}
        for i in range(11)
    ]
    oracle = max(grid, key=lambda point: point["accuracy"])["weight"]
    weights = {name: min(1.0, max(0.0, draw.gauss(best, 0.2))) for name in rules}
    weights |= {name: 0.5 for name in rules if name == "uniform"}
    weights |= {name: oracle for name in rules if name == "grid"}
    weights["oracle"] = oracle
    at = {"federated": 1.0, "local": 0.0, **weights}
    accuracy = {"initial": 0.12} | {name: accuracy_at(weight) for name, weight in at.items()}
    loss = {"initial": 2.2} | {name: loss_at(weight) for name, weight in at.items()}
    if "fisher" in rules:
        accuracy["fisher"] -= 0.03
    source = "local" if reason else rules[0]
    a, b = 10 ** draw.uniform(4, 6), 10 ** draw.uniform(4, 6)
    used = {"train": 150 - client % 100, "calibration": 30, "test": 100 + 5 * client}
    sizes = {f"num_{part}": size for part, size in used.items()}
    c = 0.0 if client % 5 == 4 else draw.uniform(0.01, 0.9) * min(a, b)
    return {
        "client": client,
        **sizes,
        "rows": account(HeldRows(found=sum(used.values()), **used)),
        "optimizer_steps": 500,
        "traces": {"federated": a, "local": b, "cross": c},
        "bound": {"federated": a, "local": b, "merged": (a * b - c * c) / (a + b - 2 * c)},
        "weights": weights,
        "accuracy": accuracy,
        "loss": loss,
        "grid": grid,
        "personalized": {
            "rule": rules[0],
            "weight": at[source],
            "accuracy": accuracy[source],
            "loss": loss[source],
            "fallback": "local" if reason else "",
            "reason": reason,
        },
        "diagnosis": {
            "favours": "both",
            "low": max(0.0, best - 0.2),
            "high": min(1.0, best + 0.2),
            "gain": 0.02,
            "noise": 0.03,
            "warning": "",
        },
        "gradients": "batched",
        "svd_error": None,
        "seconds": {"training": 9.8, "local_training": 6.1, "weight": 0.12},
    }


def _round(number: int, rounds: int, rows: list[dict[str, Any]], evaluated: bool) -> dict[str, Any]:
    progress = (1 - math.exp(-3 * number / rounds)) / (1 - math.exp(-3))
    clients = len(rows)
    last = sum(row["accuracy"]["federated"] for row in rows) / clients
    return {
        "round": number,
        "loss": 2.2 - 1.2 * progress if evaluated else None,
        "accuracy": 0.12 + (last - 0.12) * progress if evaluated else None,
        "training_loss": 2.2 - 1.5 * progress,
        "bytes_down": 43_210 * clients,
        "bytes_up": 43_300 * clients,
        "seconds": 1.2,
        "clients": list(range(clients)),
    }


def _message(number: int | None, client: int, kind: str, down: int, up: int) -> dict[str, Any]:
    return {
        "round": number,
        "client": client,
        "kind": kind,
        "bytes_down": down,
        "bytes_up": up,
    }


def _summary(rows: list[dict[str, Any]], rules: tuple[str, ...]) -> dict[str, Any]:
    def mean(metric: str, weights: list[int]) -> dict[str, float]:
        scores = [row[metric] | {"personalized": row["personalized"][metric]} for row in rows]
        return {
            name: sum(w * score[name] for w, score in zip(weights, scores, strict=True))
            / sum(weights)
            for name in (scores[0] if scores else ())
        }

    ones = [1] * len(rows)
    by_size = [row["num_test"] for row in rows]
    accuracy, loss = mean("accuracy", ones), mean("loss", ones)
    return {
        "num_clients": len(rows),
        "optimizer_steps": {"mean": 500.0, "total": 500 * len(rows)},
        "fallbacks": sum(bool(row["personalized"]["fallback"]) for row in rows),
        "warnings": 0,
        "mean": {"accuracy": accuracy, "loss": loss},
        "weighted_mean": {"accuracy": mean("accuracy", by_size), "loss": mean("loss", by_size)},
        "regret": {
            name: {
                "accuracy": accuracy["oracle"] - accuracy[name],
                "loss": loss[name] - loss["oracle"],
            }
            for name in (*rules, "personalized")
            if name in accuracy
        },
    }


def _config(clients: int, rounds: int, rule: str) -> dict[str, Any]:
    return {
        "seed": 0,
        "task": {"name": "digits", "model": "digits-vit"},
        "data": {
            "num-clients": clients,
            "alpha": 0.5,
            "shift": "conflicting",
            "train-samples": 150,
            "test-fraction": 0.4,
        },
        "lora": {
            "rank": 4,
            "alpha": 8.0,
            "dropout": 0.0,
            "target-modules": "q_proj,v_proj",
        },
        "train": {"learning-rate": 0.003, "batch-size": 16, "local-steps": 5},
        "federation": {
            "aggregation": "factors",
            "transport": "float32",
            "rounds": rounds,
            "fraction-train": 1.0,
            "fraction-evaluate": 1.0,
            "min-reply-fraction": 0.5,
            "timeout": 3600.0,
        },
        "local": {"start": "warm", "steps": 300},
        "calibration": {"samples": 30, "source": "held-out", "damping": 0.01},
        "merge": {"rule": rule, "fallback": True, "space": "factors", "svd": False},
    }
