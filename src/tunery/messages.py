"""What Tunery's processes tell each other: worker and trainer, web and engine. Plain data; no torch, no HTTP, no SQL.

A trainer reads one `TrainingOrder` and writes `Report`s, a JSON line each. An engine reads `Ask`s and writes `Answer`s
over a Unix socket, each a length-prefixed MessagePack message.
"""

from typing import Any, Literal

import msgspec

from tunery.bases import BaseModel
from tunery.weights import Agreement

# --- worker <-> trainer ---


class Dpo(msgspec.Struct, frozen=True, kw_only=True):
    """Tuning by preference: direct preference optimisation (arXiv 2305.18290)."""

    beta: float = 0.1
    """How closely the tuned model is held to the one it starts from."""
    l2_multiplier: float = 0.0
    """AdamW's weight decay of the adapter."""


class TrainingOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides what is trained. Equal orders give equal adapters."""

    job_id: str
    base: BaseModel
    start_adapter: str | None
    """Folder of the PEFT adapter to go on from (continuous tuning), or None for a fresh one."""
    training_file: str
    validation_file: str | None
    n_epochs: int
    batch_size: int
    learning_rate: float
    """Peak learning rate, multiplier already applied."""
    seed: int
    directory: str
    """Where checkpoints and resumable state are written; exists, belongs to this run alone."""
    resume_from: str | None
    """The `state-*` folder of an earlier run of the same job, or None."""
    save_every: int = 20
    """Steps between two resumable states."""
    threads: int = 2
    device: str = "cpu"
    memory_bytes: int = 0
    """What the trainer may use; 0: what it finds free when it starts."""
    dpo: Dpo | None = None
    """None: supervised. Otherwise the files hold preferences."""


class PlanOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A question: what would this order cost? Nothing is trained and nothing written."""

    order: TrainingOrder
    training_examples: int
    validation_examples: int
    """Of the whole files: of long ones only a sample is read."""
    measure: bool
    """Whether to time a matrix multiplication, for a first guess at the machine's speed."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run will compute, known before its first step. Tokens count every epoch."""

    steps: int
    trained_tokens: int
    """Loss-bearing."""
    total_tokens: int
    """Positions that a computation one by one, without padding, would compute."""
    computed_tokens: int
    """Nodes of all trees: what examples of a batch share is there once."""
    flops: float
    """Training and validation."""
    memory_bytes: int
    """Peak of the trainer's process (on a GPU: of its memory)."""
    memory_available_bytes: int
    micro_batch_tokens: int
    counted_steps: int
    """Steps whose trees were counted; where fewer than `steps`, the rest is scaled from them."""

    @property
    def fits(self) -> bool:
        return self.memory_bytes <= self.memory_available_bytes


class Planned(msgspec.Struct, frozen=True, kw_only=True, tag="planned"):
    """The answer to a `PlanOrder`."""

    plan: Plan
    gemm_flops: float | None = None
    """A second, as measured just now."""


class Rewards(msgspec.Struct, frozen=True, kw_only=True):
    """Means over pairs, under TRL's names. An answer's reward is beta * (its log probability - that at the start)."""

    chosen: float
    rejected: float
    accuracies: float
    """Part of the pairs whose chosen answer has the higher reward."""
    margins: float
    """chosen - rejected"""


class StepMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """One row of results.csv, as contract.md 2.7 defines its columns. None is an empty cell."""

    step: int
    train_loss: float
    training_accuracy: float
    train_mean_token_accuracy: float
    valid_loss: float | None = None
    valid_accuracy: float | None = None
    valid_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None
    rewards: Rewards | None = None
    """Of preference tuning alone, like the next two. Accuracies above are then those of the chosen answers."""
    valid_rewards: Rewards | None = None
    full_valid_rewards: Rewards | None = None


class Prepared(msgspec.Struct, frozen=True, kw_only=True, tag="prepared"):
    """The data is tokenised and the length of the run is known."""

    train_examples: int
    valid_examples: int
    steps_per_epoch: int
    total_steps: int
    tokens_per_epoch: int
    """Loss-bearing tokens of one epoch."""
    plan: Plan
    """Of the whole run, whether it begins or goes on."""
    steps_done: int = 0
    """Steps that an earlier process did."""


class Note(msgspec.Struct, frozen=True, kw_only=True, tag="note"):
    """A sentence for the job's event list."""

    level: Literal["info", "warning", "error"]
    message: str


class Stepped(msgspec.Struct, frozen=True, kw_only=True, tag="stepped"):
    """One optimiser step is done."""

    metrics: StepMetrics
    trained_tokens: int
    """Loss-bearing tokens since the job began."""
    seconds_left: float | None
    """Estimate until the end of training."""


class Checkpointed(msgspec.Struct, frozen=True, kw_only=True, tag="checkpointed"):
    """A deployable adapter lies complete and fsynced in `directory`."""

    step: int
    directory: str
    digest: str
    """SHA-256 over adapter_config.json and adapter_model.safetensors."""
    metrics: StepMetrics
    final: bool = False


class Saved(msgspec.Struct, frozen=True, kw_only=True, tag="saved"):
    """A resumable state lies complete and fsynced in `directory`; older ones may go."""

    step: int
    directory: str


class Finished(msgspec.Struct, frozen=True, kw_only=True, tag="finished"):
    """All steps are done; the last `Checkpointed` was the final model."""

    trained_tokens: int
    seconds: float | None
    """That all steps took, each counted once, evaluations included: no pause and no step that was repeated.

    None for a job that was begun by a version which didn't count them.
    """


class Paused(msgspec.Struct, frozen=True, kw_only=True, tag="paused"):
    """Stopped after `step` as asked, with state and a deployable checkpoint written."""

    step: int


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The run can't go on. `message` says at which step and what to change."""

    code: str
    message: str
    param: str | None = None


Report = Prepared | Note | Stepped | Checkpointed | Saved | Finished | Paused | Failed


# --- web <-> engine ---


class Adapter(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter by its digest, and the folder in PEFT's format that holds it."""

    digest: str
    directory: str


class Calls(msgspec.Struct, frozen=True, kw_only=True):
    """Which calls of its request's tools an answer may make, or has to."""

    demanded: bool = False
    """The answer is a call and nothing else."""
    names: list[str] | None = None
    """Of the tools that may be called; None: all."""
    parallel: bool = True
    """There may be more than one call."""
    param: str = "tools"
    """What the client called them: tools or functions."""


class JsonForm(msgspec.Struct, frozen=True, kw_only=True):
    """The answer is one JSON value of this schema."""

    schema: dict[str, Any]
    strict: bool
    """Keywords that can't be enforced are refused; otherwise they are passed over."""


class Generate(msgspec.Struct, frozen=True, kw_only=True, tag="generate"):
    """One inference request, already checked against the wire contract's bounds.

    Exactly one of `messages` (chat, rendered with the base's template) and `prompts` is given. `prompts` may hold
    several; choice index = prompt index * n + sample index, as the completions contract says.
    """

    id: str
    owner: str
    """Account: caches and fairness never cross it."""
    adapter: Adapter | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    calls: Calls = Calls()
    """Means nothing without tools."""
    json_form: JsonForm | None = None
    """None: any text."""
    prompts: list[str | list[int]] | None = None
    max_tokens: int | None = None
    """None: up to the end of the context."""
    temperature: float = 1.0
    top_p: float = 1.0
    n: int = 1
    best_of: int = 1
    """Samples drawn per prompt; the n with the highest mean token log probability are returned."""
    stop: list[str] = []
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    logprobs: int | None = None
    """None: none; k: log probabilities with the k most likely alternatives."""
    echo: bool = False


class Cancel(msgspec.Struct, frozen=True, kw_only=True, tag="cancel"):
    """The client of request `id` is gone."""

    id: str


class Mount(msgspec.Struct, frozen=True, kw_only=True, tag="mount"):
    """Load an adapter, run its stored probe, and answer `Mounted` only if trainer and server agree."""

    id: str
    adapter: Adapter | None
    """None: the base alone answers a probe."""


class Ping(msgspec.Struct, frozen=True, kw_only=True, tag="ping"):
    """Is the engine alive?"""

    id: str


Ask = Generate | Cancel | Mount | Ping


class TokenLogprob(msgspec.Struct, frozen=True, kw_only=True):
    token: str
    token_bytes: bytes
    logprob: float | None
    """None for the first token of an echoed prompt."""
    top: list[tuple[str, bytes, float]] = []
    """Most likely alternatives, best first: text, bytes, log probability."""


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call, or what a piece adds to one: the first part of a call has its name, parts join to its arguments."""

    index: int = 0
    """Counts the calls of a choice."""
    name: str | None = None
    arguments: str = ""
    """JSON text, as the model wrote it."""


class Started(msgspec.Struct, frozen=True, kw_only=True, tag="started"):
    """The prompt is tokenised and accepted."""

    id: str
    prompt_tokens: int


class Piece(msgspec.Struct, frozen=True, kw_only=True, tag="piece"):
    """Some more text of one choice; the last piece of a choice carries its finish_reason. Never half a character."""

    id: str
    index: int
    text: str = ""
    logprobs: list[TokenLogprob] = []
    tool_calls: list[ToolCall] = []
    finish_reason: Literal["stop", "length", "tool_calls"] | None = None


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """All choices are finished."""

    id: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class Mounted(msgspec.Struct, frozen=True, kw_only=True, tag="mounted"):
    """The adapter is in memory and answered its probe as the trainer did."""

    id: str
    agreement: Agreement | None = None
    """Of quantised weights, which can't answer exactly so; None where no probe was written."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine holds now."""

    blocks: int
    free_blocks: int
    cached_blocks: int
    """Of no running sequence, kept for those that begin alike."""
    held_blocks: int
    running: int
    waiting: int
    loaded_adapters: int
    pinned_adapters: int
    """Of the loaded ones, those that running sequences use."""


class Pong(msgspec.Struct, frozen=True, kw_only=True, tag="pong"):
    id: str
    usage: Usage | None = None
    """None: this engine keeps no such books."""


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """The request can't be served; `kind` names the class in errors.py that says so on the wire."""

    id: str
    kind: str
    message: str
    param: str | None = None
    retry_after: float = 1
    """Seconds, for those that may be sent again."""


Answer = Started | Piece | Done | Mounted | Pong | Refused
