"""The groups of settings: every name, type, default, unit and range. The one source of truth."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from potara_flwr.settings.patterns import ALPHA, RANK, read_pattern, read_rank

Value = bool | int | float | str
Partition = Literal["dirichlet", "pathological", "size-skewed", "natural", "iid", "whole"]


class Group(BaseModel):
    """A group of settings: immutable, strictly typed, with kebab-case names from outside."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        populate_by_name=True,
        alias_generator=lambda name: name.replace("_", "-"),
    )


class TaskSettings(Group):
    """What is learned."""

    name: str = Field(
        "digits",
        description="task: `digits`, `image-classification`, `text-classification`, "
        "`multiple-choice` or `instruction`",
    )
    model: str = Field(
        "digits-vit",
        description="base model: the embedded `digits-vit`, a local Hugging Face model folder "
        "or a hub id",
    )
    model_name: str = Field(
        "",
        description="name of the base model in saved adapters, as a server of them knows it, e.g. "
        "its hub id where `task.model` is a folder; empty is `task.model`",
    )
    head: Literal["shared", "local"] = Field(
        "shared",
        description="task head: `shared` is averaged with the adapter and has the same classes on "
        "every client, `local` stays on the client and has the classes of the client's data",
    )
    option_score: Literal["sum", "mean"] = Field(
        "sum",
        description="score of an option for a language model: `sum` of its tokens' "
        "log-probabilities, or their `mean`, which does not favour short options",
    )
    metric: Literal["f1", "exact-match", "rouge-l"] = Field(
        "f1", description="how an `instruction` answer that has no options to choose from is scored"
    )
    max_new_tokens: int = Field(
        32, ge=1, description="tokens a language model may write where it answers freely"
    )


class ModelSettings(Group):
    """How the base model is held in memory."""

    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="type of the frozen weights; adapters and heads are always float32"
    )
    device: str = Field(
        "auto",
        description="where a process computes: `cpu`, `cuda`, `cuda:1`; `auto` is a GPU where "
        "there is one",
    )
    device_map: str = Field(
        "",
        description="spreads the base model over several GPUs, e.g. `auto` or `balanced` "
        "(transformers' device map); empty keeps it on one device",
    )
    quantize: Literal["none", "4bit"] = Field(
        "none", description="`4bit` holds the frozen weights as NF4 (bitsandbytes, on a GPU)"
    )
    attention: Literal["auto", "eager", "sdpa", "flex_attention", "flash_attention_2"] = Field(
        "auto", description="how attention is computed; `auto` is transformers' choice"
    )
    gradient_checkpointing: bool = Field(
        False, description="compute activations anew in the backward pass: less memory, more time"
    )


class DataSettings(Group):
    """What each client holds. ``path`` and what goes with it, down to ``label_column``, may be
    several, separated by commas: client k holds a share of the k-th, in turn.
    """

    num_clients: int = Field(8, ge=1, description="clients the data is partitioned over")
    partition: Partition = Field(
        "dirichlet",
        description="whose samples are whose: Dirichlet label skew, a few classes a client, "
        "random shares that grow with the client, the values of a column, equal random shares, "
        "or all of a source",
    )
    partition_column: str = Field(
        "",
        description="column that decides the partition: a domain, user or task for `natural` "
        "(client k holds a share of the k-th value, in turn); empty is the labels",
    )
    classes_per_client: int = Field(
        2, ge=1, description="classes of a client where `data.partition` is `pathological`"
    )
    alpha: float = Field(
        0.5, gt=0, description="concentration of the Dirichlet label skew; small is skewed"
    )
    shift: Literal["shared", "conflicting"] = Field(
        "shared",
        description="task shift: `shared` rotates the images of every client by 90°, "
        "`conflicting` those of client k by k·90°",
    )
    train_samples: int = Field(
        100, ge=0, description="samples: most training samples a client uses; 0 is all it has"
    )
    test_samples: int = Field(
        0, ge=0, description="samples: most test samples a client scores on; 0 is all it has"
    )
    test_fraction: float = Field(
        0.4,
        gt=0,
        lt=1,
        description="share of a client's samples kept for testing, where the data has no split",
    )
    path: str = Field(
        "",
        description="data: a hub id, a folder of data files or images, or a file that ends in "
        ".parquet, .csv, .json or .jsonl",
    )
    name: str = Field("", description="configuration of the data set; empty is its only one")
    train_split: str = Field(
        "train", description="split of the training samples, e.g. `train` or `train[:1000]`"
    )
    test_split: str = Field(
        "",
        description="split of the test samples, partitioned together with the training samples; "
        "empty splits each client's samples",
    )
    image_column: str = Field("image", description="column of the images")
    image_size: int = Field(
        0,
        ge=0,
        description="side in pixels of the squares that images are made; 0 is as the model's image "
        "processor says",
    )
    text_column: str = Field(
        "text", description="column of the texts; `first+second` are pairs of texts"
    )
    label_column: str = Field(
        "label", description="column of the labels: classes by name, or whole numbers from 0"
    )
    classes: str = Field(
        "",
        description="classes by name, separated by commas, in the order of their numbers (a name "
        "with a comma in double quotes), or how many there are; `union` takes all that any source "
        "has; empty finds them in the data. Needed where nodes bring their own data and the "
        "server has none",
    )
    split_column: str = Field(
        "",
        description="column that says `train` or `test`; empty splits each client's samples by "
        "`data.test-fraction`",
    )
    max_tokens: int = Field(
        64,
        ge=1,
        description="tokens a text is cut to; a prompt loses its beginning, an answer nothing",
    )
    datasets: str = Field(
        "",
        description="benchmark data sets of a language-model task, separated by commas: client k "
        "holds a share of the k-th, in turn; empty reads `data.path`",
    )
    root: str = Field(
        "",
        description="folder with copies of the benchmark data sets, each in a folder that is "
        "named by its hub id; empty loads them from the hub",
    )
    prompt_column: str = Field(
        "prompt", description="column of the prompts, for a language model and data of your own"
    )
    answer_column: str = Field("answer", description="column of the answers, likewise")
    options_column: str = Field(
        "",
        description="column of the lists of options, the answer (its text, or its number from 0) "
        "being one of them; empty has the model answer freely",
    )
    chat_template: bool = Field(
        True,
        description="conversations and instructions are written with the tokenizer's chat template,"
        " where it has one; false writes them plainly",
    )


class LoraSettings(Group):
    """The adapter."""

    rank: int = Field(4, ge=1, description="rank r of the LoRA update ΔW = (alpha / r)·B·A")
    ranks: str = Field(
        "",
        description="ranks of the clients' own adapters, separated by commas, as devices differ: "
        "client k has the k-th, in turn; the largest is `lora.rank`, that of the federated adapter;"
        " empty: all have it",
    )
    alpha: float = Field(
        8.0, gt=0, description="LoRA alpha; the scaling is alpha / rank, on every client"
    )
    rank_pattern: str = Field(
        "",
        description="ranks of some modules, e.g. `q_proj=16,v_proj=4`, by the ends of their names "
        "or peft's regular expressions; the others have `lora.rank`",
    )
    alpha_pattern: str = Field(
        "", description="alphas of some modules, likewise; the others have `lora.alpha`"
    )
    rslora: bool = Field(
        False, description="rsLoRA: the scaling is alpha / √rank, for ranks of 32 and more"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before A, in training only")
    target_modules: str = Field(
        "",
        description="modules that get an adapter, separated by commas; empty finds the query and "
        "value projections of the architecture, `all-linear` takes all linear modules",
    )

    @property
    def client_ranks(self) -> tuple[int, ...]:
        """The ranks of :attr:`ranks`, of which client k has the k-th, in turn; empty where every
        client has :attr:`rank`.

        Raises
        ------
        ValueError
            One is not a whole number from 1.
        """
        return tuple(read_rank(rank) for rank in self.ranks.split(",")) if self.ranks else ()

    @property
    def module_ranks(self) -> dict[str, int]:
        """The ranks of :attr:`rank_pattern`, by name.

        Raises
        ------
        ValueError
            It is none, or a rank is not a whole number from 1.
        """
        return {name: int(at) for name, at in read_pattern(self.rank_pattern, RANK).items()}

    @property
    def module_alphas(self) -> dict[str, float]:
        """The alphas of :attr:`alpha_pattern`, by name.

        Raises
        ------
        ValueError
            It is none, or an alpha is not a number above 0.
        """
        return {name: float(at) for name, at in read_pattern(self.alpha_pattern, ALPHA).items()}


class TrainSettings(Group):
    """Optimization, the same in federated rounds and in local training."""

    learning_rate: float = Field(3e-3, gt=0, description="AdamW learning rate, at its highest")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant",
        description="how the learning rate falls to 0 along the steps of all federated rounds",
    )
    warmup_steps: int = Field(
        0, ge=0, description="steps, of a client's in the rounds, over which the rate rises first"
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled weight decay")
    max_grad_norm: float = Field(
        0.0, ge=0, description="norm to which a step's gradient is clipped; 0 is no clipping"
    )
    batch_size: int = Field(16, ge=1, description="samples per optimizer step")
    accumulate: int = Field(
        1,
        ge=1,
        description="parts of a batch that are computed one after the other: the same step in less "
        "memory",
    )
    local_steps: int = Field(
        10, ge=1, description="optimizer steps a client takes in one federated round"
    )
    evaluation_batch_size: int = Field(
        64, ge=1, description="samples scored at once, without gradients"
    )


class LocalSettings(Group):
    """Local training, after the last round, sending nothing."""

    start: Literal["cold", "warm"] = Field(
        "warm",
        description="where the local adapter starts: `warm` is the federated adapter, `cold` the "
        "initial one (the paper)",
    )
    steps: int = Field(300, ge=0, description="optimizer steps of local training")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="how the learning rate falls to 0 along the local steps"
    )
    warmup_steps: int = Field(
        0, ge=0, description="local steps over which the learning rate rises first"
    )
    refit_share: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="where calibration samples are held out: share of the local steps that are "
        "taken after the weight is chosen, with these in training too; 0 never trains on them",
    )


class FederationSettings(Group):
    """The federated rounds."""

    rounds: int = Field(20, ge=0, description="federated rounds; 0 trains locally only")
    baseline_rounds: int = Field(
        0,
        ge=0,
        description="federated rounds of a method that has no local phase; 0 is as many as give "
        "every client the optimizer steps of the rounds and of local training",
    )
    aggregation: Literal["factors", "exact"] = Field(
        "factors",
        description="`factors` averages A and B apart, `exact` the update ΔW, which it brings back "
        "to rank r by a truncated SVD",
    )
    transport: Literal["float32", "float16", "bfloat16", "int8"] = Field(
        "float16",
        description="how adapters are sent, both ways; `float16` halves the bytes at no cost to "
        "Potara's accuracy that could be shown (docs/reference/methods.md); `int8` has a scale "
        "per tensor and error feedback",
    )
    weighting: Literal["examples", "uniform"] = Field(
        "examples",
        description="weights of the average: a client's training samples, or the same for all",
    )
    max_norm_ratio: float = Field(
        10.0,
        ge=0,
        description="a client's update is refused whose norm is more than this many times the "
        "median of the round's; 0 is no limit",
    )
    fraction_train: float = Field(
        1.0, gt=0, le=1, description="share of the clients that train in a round (at least one)"
    )
    fraction_evaluate: float = Field(
        1.0, ge=0, le=1, description="share of the clients that evaluate after a round; 0 is none"
    )
    min_reply_fraction: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of the expected clients that must connect, and of a round's clients "
        "that must reply well",
    )
    timeout: float = Field(3600.0, gt=0, description="seconds to wait for the replies of a round")
    connect_timeout: float = Field(
        60.0, ge=0, description="seconds to wait for all clients to connect, before the first round"
    )
    nodes: str = Field(
        "",
        description="names of the nodes that are expected, separated by commas: client k is the "
        "k-th; empty: nodes say by their partition-id which client they are",
    )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the clients, in order; empty where they have none."""
        return tuple(name.strip() for name in self.nodes.split(",") if name.strip())


class PrivacySettings(Group):
    """Differential privacy of a client's whole contribution to the rounds.

    docs/reference/security.md says what it covers.
    """

    clipping_norm: float = Field(
        0.0,
        ge=0,
        description="norm to which each client clips what it changes in a round; 0 is no clipping "
        "and no privacy",
    )
    noise_multiplier: float = Field(
        0.0,
        ge=0,
        description="standard deviation of the server's noise on the sum of the clipped changes, "
        "in clipping norms",
    )
    delta: float = Field(
        1e-5, gt=0, lt=1, description="δ at which ε is told; well below 1 / number of clients"
    )
    noise: Literal["secret", "seeded"] = Field(
        "secret",
        description="`secret` noise is drawn anew in every run; `seeded` noise comes from `seed`, "
        "so that a run can be repeated, and gives no privacy: who knows the seed can take it off",
    )


class CalibrationSettings(Group):
    """The samples behind λ, and the damping of the variance traces."""

    samples: int = Field(30, ge=1, description="calibration samples per client (the paper: 30)")
    source: Literal["held-out", "training"] = Field(
        "training",
        description="`training`: the calibration samples are trained on as all others, and choose "
        "the weight after local training; `held-out`: they choose it before they are trained on "
        "(`local.refit-share`)",
    )
    batch_size: int = Field(
        0,
        ge=0,
        description="calibration samples whose gradients are computed at once; 0 is as many as in "
        "training (`train.batch-size` / `train.accumulate`)",
    )
    damping: float = Field(
        1e-2, gt=0, description="added to every Fisher entry before it is inverted: Σ = 1/(F + δ)"
    )


class MergeSettings(Group):
    """How the personalized adapter is made of the two."""

    rule: str = Field("excess-loss", description="merge rule of the adapter that is saved")
    fallback: bool = Field(
        True,
        description="keep the better single adapter where calibration samples that were held out "
        "show the merge to be worse by more than their noise",
    )
    space: Literal["factors", "delta"] = Field(
        "factors",
        description="`factors` averages A and B apart (the paper), `delta` the update ΔW exactly",
    )
    compare: bool = Field(
        True,
        description="score every rule's merge, and merges along λ, on the test samples; false "
        "scores the initial, federated, local and personalized adapters alone",
    )
    svd: bool = Field(
        False, description="in the `delta` space: bring rank 2r back to r by a truncated SVD"
    )


class BaselineSettings(Group):
    """The knobs of single methods, at their papers' values."""

    fedprox_mu: float = Field(
        0.01, ge=0, description="FedProx: μ of the pull μ/2·‖θ − θ_received‖²"
    )
    ditto_mu: float = Field(
        0.1, ge=0, description="Ditto: μ of the pull of the personal adapter to the federated one"
    )
    ties_density: float = Field(
        0.2, gt=0, le=1, description="TIES: share of the entries of a task vector that are kept"
    )
    dare_density: float = Field(
        0.5, gt=0, le=1, description="DARE: share of the entries of a task vector that are kept"
    )
    apfl_alpha: float = Field(
        0.5, ge=0, le=1, description="APFL: α, the weight of the personal adapter, at first"
    )
    apfl_rate: float = Field(
        0.1, ge=0, description="APFL: learning rate of α, which takes one step a round"
    )
    pf2lora_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="PF2LoRA: rank of a client's own adapter, as a share of that of the common one",
    )
    pf2lora_rate: float = Field(
        0.1, ge=0, description="PF2LoRA: learning rate of a client's own adapter (SGD)"
    )
    feddpa_samples: int = Field(
        5, ge=1, description="FedDPA: training samples that a sample is compared with"
    )
    feddpa_scale: float = Field(
        0.5, ge=0, le=1, description="FedDPA: most weight of the local adapter"
    )


class RunSettings(Group):
    """Where a run leaves its results and its logs. Decides no number."""

    results: str = Field(
        "",
        description="results folder; empty is a new folder in `potara-results` of the home "
        "folder, named by the run id",
    )
    report: bool = Field(
        True,
        description="draw report.html and its figures at the end; without them `potara report` "
        "draws them later",
    )
    tracker: Literal["none", "tensorboard", "wandb", "mlflow"] = Field(
        "none",
        description="where rounds and the end are logged besides; each is an extra: "
        "`pip install 'potara-flwr[wandb]'`",
    )
    resume: str = Field(
        "",
        description="results folder of a run that was interrupted: goes on there with the next "
        "round, all other settings being the same (docs/guides/resume.md)",
    )
    personalize_only: str = Field(
        "",
        description="results folder of a finished run: asks the clients that are missing there to "
        "personalize, and completes its results",
    )

    @property
    def earlier(self) -> tuple[str, str]:
        """The setting that names a folder to go on in, and the folder; empty for a new run."""
        for name, folder in (
            ("run.resume", self.resume),
            ("run.personalize-only", self.personalize_only),
        ):
            if folder:
                return name, folder
        return "", ""
