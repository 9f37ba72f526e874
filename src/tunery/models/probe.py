"""What a trainer saw its adapter answer, kept beside the adapter, so that a server can prove it answers the same.

`probe.json` holds the tokens of a short text and, for each of them, the most likely next tokens with their log
probabilities. Knows neither training nor serving.
"""

from pathlib import Path

import msgspec
import torch
from torch import Tensor

from tunery.errors import InvalidRequest
from tunery.models.decoder import Decoder, LowRank, attend_causally

FILE = "probe.json"
LONGEST = 64
"""Tokens; enough to pass through every layer's attention and positions."""
WIDTH = 5
"""Next tokens kept for each place."""


class Probe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`top[i]` are (token id, log probability) pairs for what follows `token_ids[: i + 1]`, best first."""

    token_ids: list[int]
    top: list[list[tuple[int, float]]]

    @classmethod
    def take(cls, token_ids: list[int], decoder: Decoder, lora: LowRank | None) -> "Probe":
        """Of the first `LONGEST` tokens, with the decoder that trains."""
        ids = torch.tensor(token_ids[:LONGEST], device=decoder.device)
        with torch.inference_mode():
            hidden = decoder.hidden(ids, torch.arange(len(ids), device=decoder.device), attend_causally, lora)
            values, tokens = decoder.logits(hidden).float().log_softmax(-1).topk(WIDTH)
        pairs = zip(tokens.tolist(), values.tolist(), strict=True)
        return cls(token_ids=ids.tolist(), top=[list(zip(*row, strict=True)) for row in pairs])

    @classmethod
    def read(cls, directory: str | Path) -> "Probe | None":
        """None if the folder has none. Raises InvalidRequest if it isn't one."""
        path = Path(directory) / FILE
        if not path.exists():
            return None
        try:
            probe = msgspec.json.decode(path.read_bytes(), type=cls)
        except msgspec.DecodeError as error:
            raise InvalidRequest(f"The adapter's {FILE} can't be read: {error}.") from None
        widths = {len(row) for row in probe.top}
        if not 0 < len(probe.token_ids) == len(probe.top) <= LONGEST or len(widths) != 1 or 0 in widths:
            raise InvalidRequest(f"The adapter's {FILE} doesn't have an answer for each of 1 to {LONGEST} tokens.")
        return probe

    def write(self, folder: Path) -> None:
        """Durability is the caller's, as for the adapter's other files."""
        (folder / FILE).write_bytes(msgspec.json.encode(self))

    def difference(self, logits: Tensor) -> float:
        """The largest difference between the kept log probabilities and those of logits[T, V]."""
        logprobs = logits.float().log_softmax(-1)
        ids = torch.tensor([[token for token, _ in row] for row in self.top], device=logits.device)
        kept = torch.tensor([[value for _, value in row] for row in self.top], device=logits.device)
        return float((logprobs.gather(1, ids) - kept).abs().max())
