"""Are the engine's tokens those of transformers + peft? python benchmarks/truth.py [--prompts 50] [--adapters 4]

Greedy answers of the bundled base with each adapter, every prompt: by transformers one after another, by the engine
alone and among 32 that come in random order, while more adapters are loaded than memory holds. Prints how many agree,
and where one doesn't, by how much transformers' two best tokens differ there.
"""

import argparse
import random
from itertools import product
from pathlib import Path

import peft
import torch
from transformers import LlamaForCausalLM

from serving import make_adapter
from tunery.bases import BaseModel
from tunery.messages import Adapter, Answer, Generate, Piece
from tunery.models.tokenizer import Tokenizer
from tunery.serving.engine import Engine, Limits

OPENINGS = ("Write a letter about", "Order 1356 is late because of", "List three facts about", "def count_", "Über")
TOPICS = (
    "a bicycle bell",
    "the moon",
    "grüne Äpfel",
    "rust 🦀",
    "a lost parcel",
    "tea",
    "prime numbers",
    "rain",
    "sleep",
    "salt",
)


class Tokens:
    """What the engine chose, read from log probabilities of the pieces."""

    def __init__(self) -> None:
        self.data: list[bytes] = []

    def take(self, answer: Answer) -> None:
        if isinstance(answer, Piece):
            self.data += [token.token_bytes for token in answer.logprobs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--adapters", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--base", default=str(Path("~/.cache/tunery/models/smollm2-135m-instruct").expanduser()))
    parser.add_argument("--peers", type=Path, default=Path(".peers"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = Tokenizer.load(options.base)
    prompts = [f"{opening} {topic}" for opening, topic in product(OPENINGS, TOPICS)][: options.prompts]
    made = [make_adapter(Path(options.base), options.peers / "adapters" / str(n), n) for n in range(options.adapters)]
    cases = list(product([Adapter(**one) for one in made], prompts))
    expected = _expected(options, tokenizer, cases)
    engine = Engine.load(
        BaseModel(name="base", directory=options.base, learning_rate=1e-3), limits=Limits(adapter_bytes=50 * 2**20)
    )
    for name, at_once in (("alone", 1), ("among 32", 32)):
        answers = _answers(engine, tokenizer, cases, options.tokens, at_once)
        agree = 0
        for (adapter, prompt), got, (wanted, gaps) in zip(cases, answers, expected, strict=True):
            agree += got == wanted
            if got != wanted:
                place = next(i for i, pair in enumerate(zip(got, wanted, strict=False)) if pair[0] != pair[1])
                print(
                    f"{name}: {prompt!r}, adapter {adapter.digest[:6]}: other token at {place}, gap {gaps[place]:.2g}"
                )
        print(f"{name}: {agree} of {len(cases)} answers of {options.tokens} tokens agree")


def _expected(
    options: argparse.Namespace, tokenizer: Tokenizer, cases: list[tuple[Adapter, str]]
) -> list[tuple[list[bytes], list[float]]]:
    """Tokens, and how far the best was from the second, at each place."""
    base = LlamaForCausalLM.from_pretrained(options.base, dtype=torch.float32)
    model, found = None, []
    for adapter, prompt in cases:
        if model is None:
            model = peft.PeftModel.from_pretrained(base, adapter.directory, adapter_name=adapter.digest)
        elif adapter.digest not in model.peft_config:
            model.load_adapter(adapter.directory, adapter_name=adapter.digest)
        model.set_adapter(adapter.digest)
        ids = torch.tensor([tokenizer.encode(prompt)])
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=options.tokens,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
                suppress_tokens=sorted(tokenizer.eos_ids),
            )
        tops = [logits[0].topk(2).values for logits in out.logits]
        chosen = [tokenizer.token_bytes(token) for token in out.sequences[0, ids.shape[1] :].tolist()]
        found.append((chosen, [float(top[0] - top[1]) for top in tops]))
    return found


def _answers(
    engine: Engine, tokenizer: Tokenizer, cases: list[tuple[Adapter, str]], count: int, at_once: int
) -> list[list[bytes]]:
    order = list(range(len(cases)))
    random.Random(1).shuffle(order)
    found = {number: Tokens() for number in order}
    banned = dict.fromkeys(tokenizer.eos_ids, -100.0)
    while order or engine.busy:
        while order and engine.usage.running + engine.usage.waiting < at_once:
            number = order.pop()
            adapter, prompt = cases[number]
            asked = Generate(
                id=str(number),
                owner=f"{at_once}-{number % 5}",
                adapter=adapter,
                prompts=[prompt],
                temperature=0.0,
                max_tokens=count,
                logprobs=0,
                logit_bias=banned,
            )
            engine.submit(asked, found[number].take)
            if at_once == 1 or random.Random(number).random() < 0.5:
                break
        engine.step()
    return [found[number].data for number in range(len(cases))]


if __name__ == "__main__":
    main()
