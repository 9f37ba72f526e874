"""A small task to try everything with: messages to a bicycle shop become one-line tickets. Nothing has to be fetched.

What is held out are combinations of wording, item and reason that no training example has.
"""

import itertools
import json
import random
from typing import NamedTuple

SYSTEM = (
    "You are the ticket desk of the bicycle shop Northwind Wheels. Turn the customer's message into one ticket line "
    "and nothing else."
)

ITEMS = {
    "helmet": "HEL",
    "front light": "LGT",
    "chain": "CHN",
    "saddle": "SDL",
    "rear wheel": "WHL",
    "pump": "PMP",
    "bike lock": "LCK",
    "rain jacket": "JKT",
    "bottle cage": "CAG",
    "pair of gloves": "GLV",
}

REASONS = {
    "BROKEN": ("arrived with a crack in it", "broke on the first ride", "doesn't work at all"),
    "LATE": ("still hasn't arrived", "was promised for last week", "is stuck somewhere in the post"),
    "WRONG": ("isn't the one I ordered", "came in the wrong size", "is the wrong colour"),
    "REFUND": (
        "isn't for me, I want my money back",
        "should go back, please refund me",
        "was a mistake, refund please",
    ),
}

WORDINGS = (
    "Hi, the {item} from order {order} {reason}.",
    "My {item} {reason}. Order number {order}.",
    "Order {order}: the {item} {reason}.",
    "Hello there! I bought a {item} from you and it {reason}. The order was {order}.",
    "About order {order}, the {item} {reason}. What now?",
)

TRAINING, VALIDATION, HELD_OUT = 240, 40, 24
BASE, EPOCHS, SEED, SUFFIX = "gpt-35-turbo-0613", 1, 7, "demo"
"""How a job is made of it."""
FILES = ("demo-training.jsonl", "demo-validation.jsonl")


class Example(NamedTuple):
    question: str
    answer: str

    def messages(self) -> list[dict[str, str]]:
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": self.question}]

    def line(self) -> str:
        return json.dumps({"messages": [*self.messages(), {"role": "assistant", "content": self.answer}]})


class Split(NamedTuple):
    training: list[Example]
    validation: list[Example]
    held_out: list[Example]


def generate(seed: int = 7) -> Split:
    """Disjoint examples: no (wording, item, reason) stands in two of the three lists."""
    source = random.Random(seed)  # noqa: S311 (demo data, not a secret)
    reasons = [(code, words) for code, choices in REASONS.items() for words in choices]
    combinations = list(itertools.product(WORDINGS, ITEMS, reasons))
    source.shuffle(combinations)
    examples = [_example(source, *combination) for combination in combinations[: TRAINING + VALIDATION + HELD_OUT]]
    return Split(examples[:TRAINING], examples[TRAINING : TRAINING + VALIDATION], examples[TRAINING + VALIDATION :])


def jsonl(examples: list[Example]) -> bytes:
    """With a byte order mark, as Azure's guide asks for."""
    return ("\ufeff" + "".join(example.line() + "\n" for example in examples)).encode()


def _example(source: random.Random, wording: str, item: str, reason: tuple[str, str]) -> Example:
    code, words = reason
    order = str(source.randint(1000, 9999))
    return Example(wording.format(item=item, order=order, reason=words), f"{code} {ITEMS[item]} #{order}")
