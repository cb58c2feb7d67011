"""The exchange table: what each method sends, what stays on the client, what it costs.

A method is a row here and a few functions in a file of its own (docs/reference/methods.md).
"""

from potara_flwr.methods.apfl import keep_mix, train_beside
from potara_flwr.methods.base import Method, keep_received
from potara_flwr.methods.client import Client
from potara_flwr.methods.ditto import keep_personal, train_both
from potara_flwr.methods.fedalt import keep_mixed, score_mixed, train_individual
from potara_flwr.methods.feddpa import keep_pair, train_local_after, train_local_then_federated
from potara_flwr.methods.fedprox import train_near_received
from potara_flwr.methods.fedsa_lora import keep_completed, score_completed, train_with_own_b
from potara_flwr.methods.ffa_lora import train_b
from potara_flwr.methods.local import fine_tune, train_only_here
from potara_flwr.methods.outcome import Outcome, Update
from potara_flwr.methods.peft_merges import merge_by_dare, merge_by_ties
from potara_flwr.methods.pf2lora import keep_both, score_both, train_two_levels
from potara_flwr.methods.potara import merge_by_evidence
from potara_flwr.strategies.rest_of_world import RestOfWorld

__all__ = ["METHODS", "Client", "Method", "Outcome", "Update"]

METHODS: dict[str, Method] = {
    "potara": Method(
        title="Potara",
        source="2602.18658",
        shared=("A", "B", "head"),
        keeps="",
        summary="Each client merges the federated adapter with a local one of its own, with a "
        "weight from its calibration samples.",
        adapters=("initial", "federated", "local"),
        personalize=merge_by_evidence,
        local_phase=True,
        calibrates=True,
    ),
    "fedit": Method(
        title="FedIT",
        source="2305.05644",
        shared=("A", "B", "head"),
        keeps="",
        summary="Clients train one adapter together; all of them end with it.",
        adapters=("initial", "federated"),
        personalize=keep_received,
    ),
    "local": Method(
        title="Local training",
        source="",
        shared=(),
        keeps="",
        summary="Each client trains alone and sends nothing.",
        adapters=("initial",),
        personalize=train_only_here,
        trainings=0,
        local_phase=True,
    ),
    "fedit_ft": Method(
        title="FedIT + fine-tuning",
        source="2305.05644",
        shared=("A", "B", "head"),
        keeps="",
        summary="Clients train one adapter together, and each trains on from it alone.",
        adapters=("initial", "federated"),
        personalize=fine_tune,
        local_phase=True,
    ),
    "ffa_lora": Method(
        title="FFA-LoRA",
        source="2403.12313",
        shared=("B", "head"),
        keeps="",
        summary="A is frozen as it was made; clients train B and the head together.",
        adapters=("initial", "federated"),
        personalize=keep_received,
        train_round=train_b,
    ),
    "fedsa_lora": Method(
        title="FedSA-LoRA",
        source="2410.01463",
        shared=("A",),
        keeps="its B and head",
        summary="Clients share A; each keeps a B and a head of its own.",
        adapters=("initial",),
        personalize=keep_completed,
        train_round=train_with_own_b,
        score_round=score_completed,
    ),
    "feddpa_f": Method(
        title="FedDPA-F",
        source="2403.19211",
        shared=("A", "B", "head"),
        keeps="",
        summary="Each client trains a local adapter next to the finished federated one; both run, "
        "weighted for every sample by its likeness to the client's own.",
        adapters=("initial", "federated", "local"),
        personalize=train_local_after,
        local_phase=True,
        weighs=("A", "B", "head"),
        whole_batches=True,
    ),
    "feddpa_t": Method(
        title="FedDPA-T",
        source="2403.19211",
        shared=("A", "B", "head"),
        keeps="its local adapter",
        summary="Each client trains a local adapter next to the federated one in every round; both "
        "run, weighted for every sample by its likeness to the client's own.",
        adapters=("initial", "federated", "local"),
        personalize=keep_pair,
        train_round=train_local_then_federated,
        trainings=2,
        weighs=("A", "B", "head"),
        whole_batches=True,
    ),
    "ditto": Method(
        title="Ditto",
        source="2012.04221",
        shared=("A", "B", "head"),
        keeps="its personal adapter",
        summary="Each client trains a personal adapter that is held near the federated one.",
        adapters=("initial", "federated"),
        personalize=keep_personal,
        train_round=train_both,
        trainings=2,
    ),
    "apfl": Method(
        title="APFL",
        source="2003.13461",
        shared=("A", "B", "head"),
        keeps="its personal adapter and α",
        summary="Each client trains a personal adapter where it is mixed with the federated one, "
        "with a weight α that it learns.",
        adapters=("initial", "federated", "local"),
        personalize=keep_mix,
        train_round=train_beside,
        trainings=2,
    ),
    "pf2lora": Method(
        title="PF2LoRA",
        source="2503.03920",
        shared=("A", "B", "head"),
        keeps="its own small adapter",
        summary="Clients train one adapter together, each with a smaller one of its own next to "
        "it, through whose steps the common one is trained.",
        adapters=("initial", "federated"),
        personalize=keep_both,
        train_round=train_two_levels,
        score_round=score_both,
        trainings=2,
    ),
    "fedprox": Method(
        title="FedProx",
        source="1812.06127",
        shared=("A", "B", "head"),
        keeps="",
        summary="Clients train one adapter together, each held near what it received.",
        adapters=("initial", "federated"),
        personalize=keep_received,
        train_round=train_near_received,
    ),
    "fedalt": Method(
        title="FedALT",
        source="2503.11880",
        shared=("A", "B"),
        keeps="its individual adapter, head and mixer",
        summary="Each client trains an individual adapter next to the mean of the others', which a "
        "mixer weighs token by token.",
        adapters=("initial", "local"),
        personalize=keep_mixed,
        train_round=train_individual,
        score_round=score_mixed,
        strategy=RestOfWorld,
        weighs=("A", "B"),
    ),
    "ties": Method(
        title="TIES",
        source="2306.01708",
        shared=("A", "B", "head"),
        keeps="",
        summary="Each client merges the federated and a local adapter by their largest entries of "
        "one sign.",
        adapters=("initial", "federated", "local"),
        personalize=merge_by_ties,
        local_phase=True,
    ),
    "dare": Method(
        title="DARE",
        source="2311.03099",
        shared=("A", "B", "head"),
        keeps="",
        summary="Each client merges the federated and a local adapter after dropping entries of "
        "both at random.",
        adapters=("initial", "federated", "local"),
        personalize=merge_by_dare,
        local_phase=True,
    ),
}
