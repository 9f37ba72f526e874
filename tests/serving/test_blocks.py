"""One compiled call computes what the decoder does block by block, whatever weights its family has."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.serving.given import new_adapter
from tunery.models.decoder import Decoder, DecoderConfig, Layer, attend_causally
from tunery.models.lora import Lora
from tunery.serving import kernels
from tunery.serving.adapters import CompiledAdapter
from tunery.serving.cache import BlockTable, KVCache
from tunery.serving.compiled import blocks_for
from tunery.serving.products import PanelLinear
from tunery.serving.runner import Runner, Span

CONFIG = DecoderConfig(
    vocab_size=61,
    hidden_size=40,
    intermediate_size=72,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=10,
    rms_norm_eps=1e-5,
    rope_theta=1e4,
    rope_scaling=None,
    max_position_embeddings=256,
)


def decoder(config: DecoderConfig, *, biased: bool = False, head_norms: bool = False) -> Decoder:
    torch.manual_seed(0)

    def norm(width: int) -> Tensor:
        return 1 + 0.1 * torch.randn(width)

    def linear(*targets: str) -> PanelLinear:
        inputs, outputs = config.features(targets[0])[0], sum(config.features(t)[1] for t in targets)
        return PanelLinear(0.15 * torch.randn(outputs, inputs), torch.randn(outputs) if biased else None)

    def layer() -> Layer:
        return Layer(
            attention_norm=norm(config.hidden_size),
            qkv=linear("q_proj", "k_proj", "v_proj"),
            q_norm=norm(config.head_dim) if head_norms else None,
            k_norm=norm(config.head_dim) if head_norms else None,
            o=linear("o_proj"),
            ffn_norm=norm(config.hidden_size),
            gate_up=linear("gate_proj", "up_proj"),
            down=linear("down_proj"),
        )

    embedding = torch.randn(config.vocab_size, config.hidden_size)
    return Decoder(
        config,
        embedding=embedding,
        layers=[layer() for _ in range(config.num_hidden_layers)],
        final_norm=norm(config.hidden_size),
        head=PanelLinear(embedding),
    )


FAMILIES = {
    "llama": decoder(CONFIG),
    "qwen2": decoder(CONFIG, biased=True),
    "qwen3": decoder(CONFIG, head_norms=True),
    "one key head": decoder(replace(CONFIG, num_key_value_heads=1, num_attention_heads=3, head_dim=16)),
    "a key head each": decoder(replace(CONFIG, num_key_value_heads=6)),
    "wide": decoder(replace(CONFIG, hidden_size=104, intermediate_size=131, head_dim=34)),
}


@torch.inference_mode()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sequences", [1, 2, 5, 19])
def test_few_rows_of_each_sequence_are_computed_as_the_whole_is(family: str, sequences: int) -> None:
    """Sequences of several lengths, three at a time with one adapter or none, some with pieces of prompts."""
    model = FAMILIES[family]
    assert blocks_for(model)
    runner, cache = Runner(model), KVCache(model.config, 4096, device="cpu", dtype=torch.float32)
    known = [None, *(new_adapter(model.config, seed=rank, rank=rank) for rank in (1, 4, 9, 16))]
    loras = [known[i // 3 % len(known)] for i in range(sequences)]
    known_served = {id(lora): CompiledAdapter(lora, kernels) if lora else None for lora in known}
    served = [known_served[id(lora)] for lora in loras]
    texts = torch.randint(model.config.vocab_size, (sequences, 90)).tolist()
    tables = [BlockTable() for _ in texts]
    found: list[list[Tensor]] = [[] for _ in texts]
    for step in range(5):
        spans = [
            _next(cache, table, text, served[i], 1 + (7 * step * (i % 3)) % 30)
            for i, (table, text) in enumerate(zip(tables, texts, strict=True))
        ]
        for own, logits in zip(found, runner.run(cache, spans).split([span.wanted for span in spans]), strict=True):
            own.append(logits)
    for text, table, lora, own in zip(texts, tables, loras, found, strict=True):
        torch.testing.assert_close(torch.cat(own), _whole(model, text[: table.length], lora), atol=2e-4, rtol=1e-4)


def _next(cache: KVCache, table: BlockTable, text: list[int], adapter: CompiledAdapter | None, count: int) -> Span:
    start = table.length
    cache.extend(table, count)
    return Span(tokens=text[start : start + count], table=table, adapter=adapter, wanted=count)


def _whole(model: Decoder, tokens: list[int], lora: Lora | None) -> Tensor:
    return model.logits(model.hidden(torch.tensor(tokens), torch.arange(len(tokens)), attend_causally, lora))


def test_only_our_own_decoder_on_the_cpu_is_one_call() -> None:
    model = decoder(CONFIG)
    assert blocks_for(model)
    model.embedding = model.embedding.double()
    assert blocks_for(model) is None
