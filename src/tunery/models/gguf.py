"""Turns a llama-architecture GGUF file into a Hugging Face folder, once. Knows no torch and no network.

Weights are dequantised to float32. Sources: the GGUF specification (docs/gguf.md of ggml); token types and
pre-tokenizer names as in llama.cpp's `llama-vocab.cpp`, rotary layout as in its `convert_hf_to_gguf.py`.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, TokenType, dequantize
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tunery.errors import InvalidRequest
from tunery.models.folders import written

_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_END_TOKENS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>")
"""Ends of a turn or a text by name; a GGUF names only one of them as eos."""
_OWN_TEMPLATES = {"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788": "chatml.jinja"}


def convert(gguf_path: str | Path, directory: str | Path) -> None:
    """Writes config.json, generation_config.json, model.safetensors, the tokenizer's files and chat_template.jinja.

    `directory` appears complete or not at all. Raises InvalidRequest for what can't be converted, saying why.
    """
    try:
        reader = GGUFReader(gguf_path)
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{Path(gguf_path).name} isn't a readable GGUF file: {error}.") from None
    fields = {name: field.contents() for name, field in reader.fields.items()}
    if fields.get("general.architecture") != "llama":
        raise InvalidRequest(f"GGUF architecture '{fields.get('general.architecture')}' isn't supported, only 'llama'.")
    config = _config(fields, tied=not any(t.name == "output.weight" for t in reader.tensors))
    tokenizer = _tokenizer(fields)
    with written(Path(directory)) as folder:
        _write_json(folder / "config.json", config)
        _write_json(
            folder / "generation_config.json",
            {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"]},
        )
        _write_json(folder / "tokenizer_config.json", _tokenizer_config(fields))
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "chat_template.jinja").write_text(_chat_template(fields), "utf-8")
        save_file(_weights(reader, config), folder / "model.safetensors", metadata={"format": "pt"})


def _config(fields: dict[str, Any], *, tied: bool) -> dict[str, Any]:
    heads = fields["llama.attention.head_count"]
    head_dim = fields.get("llama.attention.key_length", fields["llama.embedding_length"] // heads)
    if fields.get("llama.rope.scaling.type", "none") != "none":
        raise InvalidRequest(f"Rotary scaling '{fields['llama.rope.scaling.type']}' in a GGUF isn't supported.")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields.get("llama.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": _shortest(fields["llama.attention.layer_norm_rms_epsilon"]),
        "rope_theta": _shortest(fields.get("llama.rope.freq_base", 10_000.0)),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "dtype": "float32",
        "bos_token_id": fields.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": _eos_ids(fields),
        "pad_token_id": fields.get("tokenizer.ggml.padding_token_id"),
    }


def _shortest(value: float) -> float:
    """GGUF keeps float32; 9.999999747378752e-06 was written as 1e-05."""
    return float(str(np.float32(value)))


def _eos_ids(fields: dict[str, Any]) -> list[int]:
    """The declared end first, then other ends of turn or text by name."""
    declared = fields["tokenizer.ggml.eos_token_id"]
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    kinds = fields["tokenizer.ggml.token_type"]
    control = {tokens[i] for i, kind in enumerate(kinds) if kind == TokenType.CONTROL}
    named = [tokens.index(token) for token in _END_TOKENS if token in control]
    return [declared, *(i for i in named if i != declared)]


def _weights(reader: GGUFReader, config: dict[str, Any]) -> dict[str, np.ndarray]:
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights = {}
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            raise InvalidRequest("Rotary scaling in a GGUF (rope_freqs) isn't supported.")
        values = (
            dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(tuple(map(int, tensor.shape[::-1])))
        )
        part = tensor.name.split(".")[-2]
        if part in heads:
            values = _half_split(values, heads[part])
        weights[_hugging_face_name(tensor.name)] = np.ascontiguousarray(values)
    return weights


def _half_split(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp interleaves each head's rotary pairs; Hugging Face keeps first and second halves."""
    rows, inputs = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, inputs).swapaxes(1, 2).reshape(rows, inputs)


def _hugging_face_name(name: str) -> str:
    match name.split("."):
        case ["blk", index, part, "weight"] if part in _BLOCK_NAMES:
            return f"model.layers.{index}.{_BLOCK_NAMES[part]}.weight"
        case [part, "weight"] if part in _TOP_NAMES:
            return f"{_TOP_NAMES[part]}.weight"
    raise InvalidRequest(f"The GGUF has a tensor '{name}', which isn't part of a llama model.")


def _tokenizer(fields: dict[str, Any]) -> Tokenizer:
    if fields.get("tokenizer.ggml.model") != "gpt2":
        raise InvalidRequest(
            f"GGUF tokenizer '{fields.get('tokenizer.ggml.model')}' isn't supported, only byte-level BPE ('gpt2')."
        )
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    pre = fields.get("tokenizer.ggml.pre")
    bpe = models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, ignore_merges=pre == "llama-bpe")
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = _pre_tokenizer(pre)
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"]
    for kind, special in ((TokenType.CONTROL, True), (TokenType.USER_DEFINED, False)):
        added = [AddedToken(tokens[i], special=special, normalized=False) for i, k in enumerate(kinds) if k == kind]
        tokenizer.add_special_tokens(added) if special else tokenizer.add_tokens(added)
    return tokenizer


def _pre_tokenizer(name: str | None) -> pre_tokenizers.PreTokenizer:
    """By llama.cpp's name of a split rule. Unknown ones are refused: a wrong rule would train on wrong tokens."""
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    after_split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    known = {
        "gpt-2": whole,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), whole]),
        "llama-bpe": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_LLAMA3_SPLIT), "isolated"), after_split]),
        "qwen2": pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(_LLAMA3_SPLIT.replace("{1,3}", "")), "isolated"), after_split]
        ),
    }
    if name not in known:
        raise InvalidRequest(f"GGUF pre-tokenizer '{name}' isn't supported; supported: {', '.join(known)}.")
    return known[name]


def _tokenizer_config(fields: dict[str, Any]) -> dict[str, Any]:
    tokens = fields["tokenizer.ggml.tokens"]
    named = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    ids = {key: fields.get(f"tokenizer.ggml.{name}_token_id") for key, name in named.items()}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": fields["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        **{key: tokens[i] for key, i in ids.items() if i is not None},
    }


def _chat_template(fields: dict[str, Any]) -> str:
    own = str(fields.get("tokenizer.chat_template", ""))
    replacement = _OWN_TEMPLATES.get(hashlib.sha256(own.encode()).hexdigest())
    return own if replacement is None else Path(__file__).with_name(replacement).read_text("utf-8")


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
