"""What people are shown of a file is what training reads of it."""

from itertools import product
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.examples.given import call, user
from tests.training.orders import chat, order_in, preference, random_lines, write_lines
from tunery.bases import BaseModel
from tunery.errors import InvalidRequest
from tunery.examples import seen
from tunery.models.tokenizer import Tokenizer
from tunery.training.data import read
from tunery.training.inspection import answered


@pytest.fixture
def base(tiny: Path) -> BaseModel:
    return BaseModel(name="tiny", directory=str(tiny), learning_rate=1e-3, longest_example=80)


def counted(base: BaseModel, file: str) -> seen.Statistics:
    found = answered(seen.CountTokens(base=base, file=file))
    assert isinstance(found, seen.Statistics)
    return found


def shown(base: BaseModel, file: str, *, after: int = 0, limit: int = 100) -> list[seen.Seen]:
    found = answered(seen.ShowExamples(base=base, file=file, after=after, limit=limit))
    assert isinstance(found, seen.Shown)
    return found.examples


def test_the_numbers_are_those_of_the_examples_that_training_reads(base: BaseModel, tiny: Path, tmp_path: Path) -> None:
    order = order_in(tmp_path, tiny, validation_file=None)
    found = counted(base, order.training_file)
    examples = read(order, Tokenizer.load(tiny)).training
    lengths = [len(example.ids) for example in examples]
    assert (found.counted, found.sequences, found.tokens) == (13, 13, sum(lengths))
    assert (found.shortest, found.longest, found.median) == (min(lengths), max(lengths), int(np.median(lengths)))
    assert found.trained_tokens == sum(len(example.targets) for example in examples)
    assert sum(bar.count for bar in found.histogram) == 13
    assert all(bar.count == sum(bar.least <= each <= bar.most for each in lengths) for bar in found.histogram)


def test_shared_tokens_are_those_that_a_tree_has_once(base: BaseModel, tmp_path: Path) -> None:
    lines = [chat(" ".join(words), "fox") for words in product(["quick", "brown"], repeat=3)]
    found = counted(base, write_lines(tmp_path / "f", lines))
    order = order_in(tmp_path, Path(base.directory), training_file=str(tmp_path / "f"), validation_file=None)
    ids = [example.ids.tolist() for example in read(order, Tokenizer.load(base.directory)).training]
    nodes = {tuple(each[:end]) for each in ids for end in range(1, len(each) + 1)}
    assert found.shared_tokens == found.tokens - len(nodes)
    assert found.common_prefix_tokens == next(
        place for place, column in enumerate(zip(*ids, strict=False)) if len(set(column)) > 1
    )


def test_examples_that_are_cut_and_those_that_can_t_be_trained_are_named(base: BaseModel, tmp_path: Path) -> None:
    lines = [chat("fox", "dog"), chat("fox", "dog " * 100), chat("fox " * 100, "dog"), chat("fox", "dog")]
    found = counted(base, write_lines(tmp_path / "f", lines))
    assert (found.cut, found.untrainable) == (seen.Lines(count=1, first=[2]), seen.Lines(count=1, first=[3]))
    assert (found.duplicates.count, found.duplicates.lines) == (1, ((1, 4),))
    assert found.longest_line in (2, 3)


@pytest.mark.parametrize("line", [chat("fox?", "dog"), {"prompt": "The quick", "completion": " fox"}])
def test_the_marked_text_is_what_training_bears_loss_on(base: BaseModel, tmp_path: Path, line: dict) -> None:
    order = order_in(tmp_path, Path(base.directory), validation_file=None)
    write_lines(Path(order.training_file), [line])
    tokenizer = Tokenizer.load(base.directory)
    (example,) = read(order, tokenizer).training
    (found,) = shown(base, order.training_file)
    (sequence,) = found.sequences
    assert "".join(one.text for one in sequence.stretches) == tokenizer.decode(example.ids.tolist())
    trained = [one for one in sequence.stretches if one.trained]
    assert "".join(one.text for one in trained) == tokenizer.decode(example.ids[example.trained].tolist())
    assert sum(one.tokens for one in trained) == len(example.targets)


def test_weights_calls_and_tools_are_shown(base: BaseModel, tmp_path: Path) -> None:
    line = {
        "messages": [
            user("a"),
            {"role": "assistant", "content": "not this", "weight": 0},
            user([{"type": "text", "text": "b"}]),
            {"role": "assistant", "tool_calls": [call()]},
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
            {"role": "assistant", "content": "this"},
        ],
        "tools": [{"type": "function", "function": {"name": "add"}}],
    }
    roomy = msgspec.structs.replace(base, longest_example=1000)
    (found,) = shown(roomy, write_lines(tmp_path / "f", [line]))
    (sequence,) = found.sequences
    assert [turn.trained for turn in sequence.turns] == [False, False, False, True, False, True]
    assert (sequence.turns[2].text, sequence.turns[3].calls) == ("b", ['add({"a": 1})'])
    trained = [stretch.text for stretch in sequence.stretches if stretch.trained]
    assert trained[-1] == "this<|im_end|>"
    assert not any("not this" in text for text in trained)
    assert found.tools == ["add"]


def test_what_lies_beyond_the_longest_example_is_marked_and_not_trained(base: BaseModel, tmp_path: Path) -> None:
    (found,) = shown(base, write_lines(tmp_path / "f", [chat("fox", "dog " * 100)]))
    stretches = found.sequences[0].stretches
    assert sum(one.tokens for one in stretches if not one.cut) == 80
    assert [one.trained for one in stretches if one.cut] == [False] * sum(one.cut for one in stretches)


def test_a_preference_shows_both_answers(base: BaseModel, tmp_path: Path) -> None:
    (found,) = shown(base, write_lines(tmp_path / "f", [preference("quick", "fox", "dog")]))
    answers = [next(one.text for one in sequence.stretches if one.trained) for sequence in found.sequences]
    assert answers == ["fox<|im_end|>", "dog<|im_end|>"]


def test_examples_are_paged_by_how_many_to_skip(base: BaseModel, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "f", random_lines(9, seed=1))
    assert [example.line for example in shown(base, file, after=4, limit=3)] == [5, 6, 7]
    assert shown(base, file, after=9) == []


def test_a_line_that_the_base_can_t_read_is_named(base: BaseModel, tmp_path: Path) -> None:
    (tmp_path / "bad").write_text('{"messages": []}\n')
    with pytest.raises(InvalidRequest, match="Line 1"):
        shown(base, str(tmp_path / "bad"))
