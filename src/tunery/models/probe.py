"""What an adapter answers to a fixed prompt, written down by the trainer, so that a server can prove it says the same.

`probe.json` lies beside the adapter. Knows neither trees nor caches: who asks it brings the logits.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from tunery.errors import InvalidRequest
from tunery.models.decoder import LowRank, Model, attend_causally

FILE = "probe.json"
TOP = 5
QUESTION = "Say in one sentence what you can do for me."
TOLERANCE = 1e-2
"""Nats: float32 sums in another order stay far below, a wrong template, scale or layer far above."""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    token_ids: list[int]
    top_logprobs: dict[int, list[tuple[int, float]]]
    """By place in token_ids: the most likely next tokens, best first, with their log probabilities (natural)."""

    @classmethod
    def load(cls, directory: str | Path) -> "Probe":
        """Raises InvalidRequest; FileNotFoundError for an adapter that was trained elsewhere and has none."""
        try:
            return msgspec.json.decode((Path(directory) / FILE).read_bytes(), type=cls)
        except msgspec.DecodeError as error:
            raise InvalidRequest(f"The adapter's {FILE} is damaged: {error}.") from None

    def write(self, folder: Path) -> None:
        (folder / FILE).write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")

    def largest_difference(self, logits: Mapping[int, Tensor]) -> float:
        """Between the trainer's log probabilities and those of `logits` ([vocab] by place), over all written ones."""
        differences = []
        for place, top in self.top_logprobs.items():
            logprobs = torch.log_softmax(logits[place].float(), dim=-1)
            differences += [abs(float(logprobs[token]) - logprob) for token, logprob in top]
        return max(differences)

    def least_difference(self, top: Mapping[int, Mapping[int, float]]) -> float:
        """The same for a server that tells its most likely tokens only (log probability by token, by place).

        Of a token that isn't among them it is known to be at most as likely as the least of those.
        """
        differences = []
        for place, trained in self.top_logprobs.items():
            told = top[place]
            least = min(told.values())
            differences += [
                abs(told[token] - logprob) if token in told else max(logprob - least, 0.0) for token, logprob in trained
            ]
        return max(differences)


def measure(decoder: Model, lora: LowRank | None, token_ids: list[int]) -> Probe:
    """The probe of a decoder with an adapter, at the prompt's last place and three before it."""
    places = sorted({(len(token_ids) - 1) * part // 4 for part in (1, 2, 3, 4)})
    device = decoder.device
    with torch.inference_mode():
        ids, positions = torch.tensor(token_ids, device=device), torch.arange(len(token_ids), device=device)
        hidden = decoder.hidden(ids, positions, attend_causally, lora, rows=torch.tensor(places, device=device))
        top = torch.log_softmax(decoder.logits(hidden).float(), dim=-1).topk(TOP)
    pairs = zip(places, top.indices.tolist(), top.values.tolist(), strict=True)
    return Probe(
        token_ids=token_ids,
        top_logprobs={place: list(zip(ids, values, strict=True)) for place, ids, values in pairs},
    )
