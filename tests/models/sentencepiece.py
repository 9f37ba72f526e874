"""Tokenizers in the shapes of Llama 2's, Mistral's and Gemma's tokenizer.json, trained in the test."""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

CORPUS = [
    "The quick brown fox jumps over the lazy dog. 0123456789",
    'Which intent? {"name": "weather"}',
    "[INST] Hello there [/INST] Hi. <tool_call>\n</tool_call>",
    "Grüße aus Köln,  zwei  Leerzeichen\n\tund ein Tabulator",
]
CONTROL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
PREPEND = {"type": "Prepend", "prepend": "▁"}
DECODING = [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama2": {
        "normalizer": {"type": "Sequence", "normalizers": [PREPEND, REPLACE]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [*DECODING, STRIP]},
    },
    "mistral": {
        "normalizer": None,
        "pre_tokenizer": METASPACE,
        "decoder": {"type": "Sequence", "decoders": [*DECODING, STRIP]},
    },
    "gemma": {
        "normalizer": REPLACE,
        "pre_tokenizer": SPLIT,
        "decoder": {"type": "Sequence", "decoders": DECODING},
    },
}


def train(family: str) -> tokenizers.Tokenizer:
    raw = tokenizers.Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    raw.normalizer = normalizers.Replace(" ", "▁")
    raw.pre_tokenizer = pre_tokenizers.Split(Regex("▁?[^▁]+|▁+"), "isolated")
    raw.decoder = decoders.Fuse()
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=440, special_tokens=[*CONTROL, *fallback], show_progress=False)
    raw.train_from_iterator(CORPUS, trainer)
    parts = json.loads(raw.to_str())
    parts["added_tokens"] = [token for token in parts["added_tokens"] if token["content"] in CONTROL]
    return tokenizers.Tokenizer.from_str(json.dumps({**parts, **FAMILIES[family]}))


def write(folder: Path, family: str, template: str) -> int:
    """A tokenizer's files. Returns its vocabulary's size."""
    raw = train(family)
    folder.mkdir(parents=True, exist_ok=True)
    raw.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "bos_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 4]}))
    (folder / "chat_template.jinja").write_text(template)
    return raw.get_vocab_size()
