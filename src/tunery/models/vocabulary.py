"""What a tokenizer.json says of its tokens: the bytes of each, and where it writes a space that isn't in the text.

Two families of BPE are read. Byte-level (GPT-2, Llama 3, Qwen): every byte is one printable character. SentencePiece's,
as transformers converts it (Llama 2, Mistral, Gemma): a space is written as U+2581, and what the vocabulary lacks as
tokens <0x00> to <0xFF>. Knows no templates and no chats.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

import tokenizers

from tunery.errors import InvalidRequest

SPACE = "▁"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer, read."""

    bytes_of: list[bytes]
    """By token id; empty for an id that means nothing."""
    within: tokenizers.Tokenizer
    """The same tokenizer for text in the middle of another: it never adds a space."""
    space_at_start: bool
    """A text begins with a space that isn't in it."""
    space_after_control: bool
    """So does text behind a control token."""


def read(raw: tokenizers.Tokenizer) -> Vocabulary:
    """Raises InvalidRequest for a tokenizer of neither family."""
    if isinstance(raw.decoder, tokenizers.decoders.ByteLevel):
        return Vocabulary(_byte_level(raw), raw, False, False)
    parts = json.loads(raw.to_str())
    fault = _fault(parts)
    if fault:
        raise InvalidRequest(f"only byte-level BPE tokenizers and SentencePiece's BPE are supported: {fault}.")
    prepended, metaspaced = _prepends(parts["normalizer"]), _scheme(parts["pre_tokenizer"])
    return Vocabulary(
        _with_byte_fallback(raw),
        _without_space(parts) if prepended or metaspaced else raw,
        prepended or metaspaced is not None,
        # A normalizer and the scheme "always" see each stretch between control tokens as a text of its own.
        prepended or metaspaced == "always",
    )


def _byte_level(raw: tokenizers.Tokenizer) -> list[bytes]:
    """GPT-2's table."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
    vocabulary = raw.get_vocab(with_added_tokens=True)
    added = {token.content for token in raw.get_added_tokens_decoder().values()}
    table = [b""] * (max(vocabulary.values()) + 1)
    for token, i in vocabulary.items():
        plain = token in added or not byte_of.keys() >= set(token)
        table[i] = token.encode() if plain else bytes(byte_of[character] for character in token)
    return table


def _with_byte_fallback(raw: tokenizers.Tokenizer) -> list[bytes]:
    vocabulary = raw.get_vocab(with_added_tokens=True)
    special = {token.content for token in raw.get_added_tokens_decoder().values() if token.special}
    table = [b""] * (max(vocabulary.values()) + 1)
    for token, i in vocabulary.items():
        byte = _BYTE.fullmatch(token)
        if byte:
            table[i] = bytes([int(byte[1], 16)])
        else:
            table[i] = (token if token in special else token.replace(SPACE, " ")).encode()
    return table


def _fault(parts: dict[str, Any]) -> str | None:
    """Why this isn't SentencePiece's BPE; None if it is."""
    model = parts["model"]
    if model["type"] != "BPE" or not model.get("byte_fallback"):
        return f"this one is {model['type']} without byte_fallback"
    if not all(f"<0x{byte:02X}>" in model["vocab"] for byte in range(256)):
        return "this one lacks some of the tokens <0x00> to <0xFF>"
    for step in _steps(parts["normalizer"], "normalizers"):
        if step not in ({"type": "Prepend", "prepend": SPACE}, _replace(" ", SPACE)):
            return f"this one normalizes text by {step['type']}"
    for step in _steps(parts["pre_tokenizer"], "pretokenizers"):
        if step["type"] not in ("Metaspace", "Split") or step.get("replacement", SPACE) != SPACE:
            return f"this one splits text by {step['type']}"
    decoding = [step["type"] for step in _steps(parts["decoder"], "decoders")]
    if decoding not in (["Replace", "ByteFallback", "Fuse"], ["Replace", "ByteFallback", "Fuse", "Strip"]):
        return f"this one decodes by {', '.join(decoding) or 'nothing'}"
    return None


def _replace(old: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def _steps(part: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """Of a part that may be absent, a step, or a sequence of them."""
    if part is None:
        return []
    return list(part[key]) if part["type"] == "Sequence" else [part]


def _prepends(normalizer: dict[str, Any] | None) -> bool:
    return any(step["type"] == "Prepend" for step in _steps(normalizer, "normalizers"))


def _scheme(pre_tokenizer: dict[str, Any] | None) -> str | None:
    """Where Metaspace adds a space, "first" or "always"; None: nowhere."""
    schemes = [
        step.get("prepend_scheme", "always")
        for step in _steps(pre_tokenizer, "pretokenizers")
        if step["type"] == "Metaspace"
    ]
    return next((scheme for scheme in schemes if scheme != "never"), None)


def _without_space(parts: dict[str, Any]) -> tokenizers.Tokenizer:
    kept = [step for step in _steps(parts["normalizer"], "normalizers") if step["type"] != "Prepend"]
    splits = [
        {**step, "prepend_scheme": "never"} if step["type"] == "Metaspace" else step
        for step in _steps(parts["pre_tokenizer"], "pretokenizers")
    ]
    changed = {
        **parts,
        "normalizer": {"type": "Sequence", "normalizers": kept} if kept else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": splits} if splits else None,
        "truncation": None,
        "padding": None,
    }
    return tokenizers.Tokenizer.from_str(json.dumps(changed))
