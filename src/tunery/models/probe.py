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
from tunery.models.tokenizer import Tokenizer
from tunery.weights import Agreement

FILE = "probe.json"
TOP = 5
MOST_PLACES = 64
"""Of a prompt; a longer one is looked at that many times, evenly."""
QUESTION = "Say in one sentence what you can do for me."
TOLERANCE = 1e-2
"""Nats: float32 sums in another order stay far below, a wrong template, scale or layer far above."""


def prompt(tokenizer: Tokenizer) -> list[int]:
    """QUESTION as a base is asked it."""
    if tokenizer.has_chat_template:
        return tokenizer.chat_prompt([{"role": "user", "content": QUESTION}], None)
    return tokenizer.encode(QUESTION)


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

    def agreement(self, logits: Mapping[int, Tensor]) -> Agreement:
        """Of the trainer's log probabilities with those of `logits` ([vocab] by place), over all written ones."""
        differences, same_token = [], 0
        for place, top in self.top_logprobs.items():
            logprobs = torch.log_softmax(logits[place].float(), dim=-1)
            differences += [abs(float(logprobs[token]) - logprob) for token, logprob in top]
            same_token += bool(top) and int(logprobs.argmax()) == top[0][0]
        return Agreement(
            places=len(self.top_logprobs),
            same_token=same_token,
            mean_difference=sum(differences) / len(differences),
            largest_difference=max(differences),
        )

    def least_difference(self, top: Mapping[int, Mapping[int, float]]) -> float:
        """The largest one to a server that tells its most likely tokens only (log probability by token, by place).

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
    """The probe of a decoder with an adapter, at every place of the prompt; see MOST_PLACES."""
    last, count = len(token_ids) - 1, min(len(token_ids), MOST_PLACES)
    places = [last * number // max(count - 1, 1) for number in range(count)]
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
