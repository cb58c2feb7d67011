"""What can be learned: one file a task, one line here."""

from potara_flwr.tasks.base import Task
from potara_flwr.tasks.digits import Digits
from potara_flwr.tasks.image_classification import ImageClassification
from potara_flwr.tasks.instruction import Instruction
from potara_flwr.tasks.multiple_choice import MultipleChoice
from potara_flwr.tasks.text_classification import TextClassification

TASKS: dict[str, type[Task]] = {
    "digits": Digits,
    "image-classification": ImageClassification,
    "text-classification": TextClassification,
    "multiple-choice": MultipleChoice,
    "instruction": Instruction,
}
