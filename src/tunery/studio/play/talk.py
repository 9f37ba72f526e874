"""A conversation of the Playground with one deployment or several, and the API's bodies that it stands for.

Pure data: what is kept over a reload, byte for byte what is sent, and what a training example is made of.
"""

from typing import Any, Literal

import msgspec

from tunery.catalog import CHAT, COMPLETION
from tunery.errors import InvalidRequest

MOST_PANES = 3
DEFAULT_MAX_TOKENS = 512
Kind = Literal["chat", "completion"]
State = Literal["running", "done", "stopped", "failed"]


class Answer(msgspec.Struct, kw_only=True):
    """What a deployment said, and what it took."""

    deployment: str
    text: str = ""
    state: State = "running"
    error: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    context_length: int = 0
    first_seconds: float | None = None
    """From the request to its first piece."""
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float | None:
        """While it was written: the first token stands for the prompt's time."""
        if self.first_seconds is None or self.completion_tokens < 2 or self.seconds <= self.first_seconds:
            return None
        return (self.completion_tokens - 1) / (self.seconds - self.first_seconds)


class Round(msgspec.Struct, kw_only=True):
    """A prompt, and what each pane answered."""

    prompt: str
    answers: dict[int, Answer] = msgspec.field(default_factory=dict)

    def history(self, pane: int) -> Answer | None:
        """What the pane goes on from: its own answer, or for a pane that came later that of another one."""
        said = {number: answer for number, answer in self.answers.items() if answer.text}
        return said.get(pane) or next(iter(said.values()), None)


class Choices(msgspec.Struct, kw_only=True):
    """Parameters, with the API's defaults but for the length."""

    max_tokens: int | None = DEFAULT_MAX_TOKENS
    temperature: float = 1.0
    top_p: float = 1.0
    stop: list[str] = msgspec.field(default_factory=list)
    """As typed: a backslash and n stand for a line break."""
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    form: Literal["text", "json_object", "json_schema"] = "text"
    schema: str = ""


class Talk(msgspec.Struct, kw_only=True):
    """One conversation; each kind has its rounds."""

    kind: Kind = "chat"
    panes: list[str] = msgspec.field(default_factory=list)
    """Deployments by name."""
    system: str = ""
    draft: str = ""
    """What is typed and not sent."""
    chat: list[Round] = msgspec.field(default_factory=list)
    completion: list[Round] = msgspec.field(default_factory=list)
    choices: Choices = msgspec.field(default_factory=Choices)

    @property
    def rounds(self) -> list[Round]:
        return self.chat if self.kind == CHAT else self.completion

    @property
    def title(self) -> str:
        return next((one.prompt for one in self.rounds or self.chat or self.completion), "")


def body(talk: Talk, turn: Round, pane: int) -> dict[str, Any]:
    """The API's request for this pane's answer to the turn. Raises InvalidRequest for a schema that isn't JSON."""
    options = _options(talk.choices, talk.kind)
    if talk.kind == COMPLETION:
        return {"prompt": turn.prompt, **options}
    return {"messages": [*past(talk, turn, pane), {"role": "user", "content": turn.prompt}], **options}


def past(talk: Talk, turn: Round, pane: int) -> list[dict[str, str]]:
    """Messages before a turn. What nobody answered is left out."""
    messages = [{"role": "system", "content": talk.system}] if talk.system.strip() else []
    for earlier in talk.chat:
        if earlier is turn:
            break
        answer = earlier.history(pane)
        if answer is not None:
            messages += [{"role": "user", "content": earlier.prompt}, {"role": "assistant", "content": answer.text}]
    return messages


def example(talk: Talk, turn: Round, pane: int) -> dict[str, Any]:
    """A line of a training file that teaches this answer."""
    text = turn.answers[pane].text
    if talk.kind == COMPLETION:
        return {"prompt": turn.prompt, "completion": text}
    asked = {"role": "user", "content": turn.prompt}
    return {"messages": [*past(talk, turn, pane), asked, {"role": "assistant", "content": text}]}


def unescaped(text: str) -> str:
    r"""\n, \t and \\ as they are typed into a line; any other backslash is one."""
    marks = {"n": "\n", "t": "\t", "\\": "\\"}
    done, position = "", 0
    while position < len(text):
        if text[position] == "\\" and text[position + 1 : position + 2] in marks:
            done += marks[text[position + 1]]
            position += 2
        else:
            done += text[position]
            position += 1
    return done


def _options(choices: Choices, kind: Kind) -> dict[str, Any]:
    """Those that differ from the API's defaults, as the API names them."""
    options: dict[str, Any] = {} if choices.max_tokens is None else {"max_tokens": choices.max_tokens}
    for name, default in (("temperature", 1.0), ("top_p", 1.0), ("frequency_penalty", 0.0), ("presence_penalty", 0.0)):
        value = getattr(choices, name)
        if value != default:
            options[name] = value
    if choices.stop:
        options["stop"] = [unescaped(text) for text in choices.stop]
    if choices.seed is not None:
        options["seed"] = choices.seed
    if kind == CHAT and choices.form == "json_object":
        options["response_format"] = {"type": "json_object"}
    elif kind == CHAT and choices.form == "json_schema":
        schema = {"name": "answer", "schema": _schema(choices.schema), "strict": True}
        options["response_format"] = {"type": "json_schema", "json_schema": schema}
    return options


def _schema(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text.encode(), type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"The JSON schema can't be read: {error}.", param="response_format") from error
