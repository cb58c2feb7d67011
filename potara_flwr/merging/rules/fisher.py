"""Fisher-weighted averaging, coordinate by coordinate."""

from torch import Tensor

from potara_flwr.merging.rules.base import Evidence


def fisher(evidence: Evidence) -> dict[str, Tensor]:
    """Return λ_j = F_f,j / (F_f,j + F_l,j) for every coordinate of the factors and the head
    (Matena and Raffel, 2022, arXiv 2111.09832).
    """
    return {
        name: tensor / (tensor + evidence.fisher_local[name])
        for name, tensor in evidence.fisher_federated.items()
    }
