"""Text to tokens and back, and chats to tokens. What training reads and what serving reads are the same tokens.

A chat is cut at the borders of every assistant message before it is tokenised, in training and in serving alike, so
that a prompt's tokens are exactly those before the answer's trained ones. Text of messages and tools never becomes a
control token. Knows no model and no files of examples.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from tunery.errors import InvalidRequest
from tunery.models import conversation, vocabulary
from tunery.models.folders import require
from tunery.models.templates import ChatTemplate

_TEXT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>")


@dataclass(frozen=True, slots=True)
class Segment:
    """Neighbouring tokens of an example, and whether loss falls on them."""

    ids: list[int]
    trained: bool


class Tokenizer:
    """A BPE tokenizer (vocabulary.py) with its chat template."""

    def __init__(self, raw: tokenizers.Tokenizer, template: ChatTemplate | None, eos_ids: Sequence[int]) -> None:
        """`eos_ids`: as declared by the model. `template`: None for a model that has no chat format."""
        self._raw = raw
        self._raw.encode_special_tokens = True  # text alone never becomes a control token
        self._template = template
        self._special_ids = {t.content: i for i, t in raw.get_added_tokens_decoder().items() if t.special}
        self._control = frozenset(self._special_ids.values())
        self._special = re.compile("|".join(map(re.escape, sorted(self._special_ids, key=len, reverse=True))) or "(?!)")
        self.text_end_id = next((self._special_ids[t] for t in _TEXT_ENDS if t in self._special_ids), eos_ids[0])
        """Ends a text, and so begins the next: what an empty prompt means."""
        self.eos_ids = frozenset([*eos_ids, self.text_end_id])
        self._vocabulary = vocabulary.read(raw)
        self._vocabulary.within.encode_special_tokens = True
        self._bytes = self._vocabulary.bytes_of

    @classmethod
    def load(cls, directory: str | Path) -> "Tokenizer":
        """From tokenizer.json, tokenizer_config.json, generation_config.json and chat_template.jinja in a folder.

        Raises InvalidRequest, naming the file, for what is missing or unsupported.
        """
        folder = Path(directory)
        require(folder)
        raw = _raw(folder)
        config = _json(folder / "tokenizer_config.json")
        special = {key: _content(config[key]) for key in ("bos_token", "eos_token", "pad_token") if config.get(key)}
        source = _template_source(folder, config)
        template = ChatTemplate(source, special) if source else None
        try:
            return cls(raw, template, _eos_ids(folder, raw, special))
        except InvalidRequest as error:
            raise InvalidRequest(f"{folder.name}: {error.message}") from error

    @property
    def vocab_size(self) -> int:
        return len(self._bytes)

    @property
    def has_chat_template(self) -> bool:
        return self._template is not None

    def encode(self, text: str) -> list[int]:
        """A raw prompt's tokens, with the begin-of-text token if this tokenizer has one. Control tokens stay text."""
        return _ids(self._raw, text, add_special_tokens=True)

    def encode_continuation(self, text: str, *, spaced: bool = False) -> list[int]:
        """Tokens of a text behind others, `spaced` where `adds_space` says so. Control tokens stay text."""
        return _ids(self._raw if spaced else self._vocabulary.within, text, add_special_tokens=False)

    def adds_space(self, before: int | None) -> bool:
        """Whether a text's first token has a space of its own if `before`, or nothing, comes before it."""
        if before is None:
            return self._vocabulary.space_at_start
        return self._vocabulary.space_after_control and before in self._control

    def decode(self, ids: Sequence[int]) -> str:
        """The text that `encode` writes so. Bytes that aren't UTF-8 become U+FFFD."""
        data = b"".join(self._bytes[i] for i in ids)
        return (data.removeprefix(b" ") if self.adds_space(None) else data).decode("utf-8", "replace")

    def decode_parts(self, parts: Sequence[Sequence[int]]) -> list[str]:
        """The text of each part of a sequence, cut where texts were cut before they became tokens."""
        datas = [b"".join(self._bytes[i] for i in ids) for ids in parts]
        if datas and self.adds_space(None):
            datas[0] = datas[0].removeprefix(b" ")
        return [data.decode("utf-8", "replace") for data in datas]

    def token_bytes(self, token_id: int) -> bytes:
        return self._bytes[token_id]

    def chat_prompt(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] | None) -> list[int]:
        """Tokens up to where the next assistant message begins; messages as the chat API takes them."""
        pieces = _Chat(self, messages, tools).encoded(add_generation_prompt=True)
        return [i for ids, _ in pieces for i in ids]

    def chat_segments(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] | None,
        weights: Sequence[int] | None = None,
    ) -> list[Segment]:
        """A training example: assistant messages of weight not 0 are trained, each with its end-of-turn token.

        `weights` has one number a message; without it each message's own `weight` counts, 1 if it has none.
        """
        if weights is None:
            weights = [message.get("weight", 1) for message in messages]
        chat = _Chat(self, messages, tools)
        return [
            Segment(ids, trained=answer is not None and weights[answer] != 0)
            for ids, answer in chat.encoded(add_generation_prompt=False)
        ]

    def completion_segments(self, prompt: str, completion: str) -> list[Segment]:
        """The completion and an end-of-text token are trained."""
        before = self.encode(prompt)
        spaced = self.adds_space(before[-1] if before else None)
        answer = [*self.encode_continuation(completion, spaced=spaced), self.text_end_id]
        return [Segment(before, trained=False), Segment(answer, trained=True)]

    @cached_property
    def writes_tool_calls(self) -> bool:
        """Its template teaches calls in the style that serving/calls.py reads."""
        if self._template is None:
            return False
        try:
            text = self._template.render(conversation.PROBE_MESSAGES, None, add_generation_prompt=False)
        except InvalidRequest:  # it knows no calls, or other ones
            return False
        return conversation.has_probed_calls(text)

    def literal(self, text: str) -> list[str | int]:
        """The text as a template's: its control tokens as ids, what is between them as text."""
        parts: list[str | int] = []
        done = 0
        for match in self._special.finditer(text):
            parts += [text[done : match.start()], self._special_ids[match[0]]]
            done = match.end()
        return [part for part in (*parts, text[done:]) if part != ""]

    @property
    def special_ids(self) -> list[int]:
        """Of the control tokens."""
        return sorted(self._special_ids.values())


class _Chat:
    """One conversation on its way to tokens. Control tokens in its texts are broken by a mark until they are tokens."""

    def __init__(
        self, tokenizer: Tokenizer, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] | None
    ) -> None:
        if tokenizer._template is None:
            raise InvalidRequest("This model has no chat template; it takes prompts and completions only.")
        self._tokenizer, self._template = tokenizer, tokenizer._template
        plain = [conversation.canonical(message) for message in messages]
        self._mark = _unused_character(json.dumps([plain, tools], ensure_ascii=False))
        self._messages = [self._guarded(message) for message in plain]
        self._tools = self._guarded(list(tools)) if tools else None

    def pieces(self, *, add_generation_prompt: bool) -> list[tuple[str, int | None]]:
        """The rendered text cut at the borders of answers: (text, index of the assistant message it is, or None)."""
        text = self._render(len(self._messages), add_generation_prompt)
        pieces: list[tuple[str, int | None]] = []
        done = 0
        for index, message in enumerate(self._messages):
            if message["role"] == "assistant":
                before = self._render(index, True)
                if not text.startswith(before) or len(before) < done:
                    raise InvalidRequest("The model's chat template changes earlier messages; it can't be trained.")
                end = self._end_of_turn(text, len(before))
                pieces += [(text[done : len(before)], None), (text[len(before) : end], index)]
                done = end
        return [*pieces, (text[done:], None)]

    def encoded(self, *, add_generation_prompt: bool) -> list[tuple[list[int], int | None]]:
        """The pieces' tokens: the template's control tokens as such, everything else as plain text."""
        before: int | None = None
        encoded = []
        for text, answer in self.pieces(add_generation_prompt=add_generation_prompt):
            ids: list[int] = []
            for part in self._tokenizer.literal(text):
                ids += self._plain_ids(part, before) if isinstance(part, str) else [part]
                before = ids[-1] if ids else before
            encoded.append((ids, answer))
        return encoded

    def _plain_ids(self, text: str, before: int | None) -> list[int]:
        spaced = self._tokenizer.adds_space(before)
        return self._tokenizer.encode_continuation(text.replace(self._mark, ""), spaced=spaced)

    def _render(self, count: int, add_generation_prompt: bool) -> str:
        return self._template.render(self._messages[:count], self._tools, add_generation_prompt=add_generation_prompt)

    def _end_of_turn(self, text: str, start: int) -> int:
        for match in self._tokenizer._special.finditer(text, start):
            if self._tokenizer._special_ids[match[0]] in self._tokenizer.eos_ids:
                return match.end()
        raise InvalidRequest("The model's chat template doesn't end an assistant message with an end token.")

    def _guarded(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._tokenizer._special.sub(lambda match: match[0][0] + self._mark + match[0][1:], value)
        if isinstance(value, list):
            return [self._guarded(each) for each in value]
        if isinstance(value, dict):
            return {self._guarded(key): self._guarded(each) for key, each in value.items()}
        return value


def _ids(raw: tokenizers.Tokenizer, text: str, *, add_special_tokens: bool) -> list[int]:
    text = text.encode("utf-8", "replace").decode()  # lone surrogates have no UTF-8
    ids: list[int] = raw.encode(text, add_special_tokens=add_special_tokens).ids
    return ids


def _unused_character(text: str) -> str:
    """One of Unicode's private use, so that it means nothing to a template."""
    character = next((chr(code) for code in range(0xE000, 0xF900) if chr(code) not in text), None)
    if character is None:
        raise InvalidRequest("The messages use every private-use character of Unicode.")
    return character


def _raw(folder: Path) -> tokenizers.Tokenizer:
    path = folder / "tokenizer.json"
    if not path.exists():
        raise InvalidRequest(f"{folder.name}: no tokenizer.json.")
    raw = tokenizers.Tokenizer.from_file(str(path))
    raw.no_truncation()
    raw.no_padding()
    return raw


def _eos_ids(folder: Path, raw: tokenizers.Tokenizer, special: dict[str, str]) -> list[int]:
    declared = _json(folder / "generation_config.json").get("eos_token_id")
    if declared is None:
        declared = raw.token_to_id(special.get("eos_token", ""))
    if declared is None:
        raise InvalidRequest("neither generation_config.json nor tokenizer_config.json names an end token.")
    return declared if isinstance(declared, list) else [declared]


def _template_source(folder: Path, config: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    source = path.read_text("utf-8") if path.exists() else config.get("chat_template")
    return source if isinstance(source, str) else None


def _content(token: Any) -> str:
    """A special token as tokenizer_config.json writes it: a string, or an object with more about it."""
    return str(token["content"] if isinstance(token, dict) else token)


def _json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return value if isinstance(value, dict) else {}
