"""What can be learned: one file a task, one line here."""

from potara_flwr.tasks.base import Task
from potara_flwr.tasks.digits import Digits
from potara_flwr.tasks.text_classification import TextClassification

TASKS: dict[str, type[Task]] = {
    "digits": Digits,
    "text-classification": TextClassification,
}
