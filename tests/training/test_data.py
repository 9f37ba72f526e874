from pathlib import Path

import msgspec
import pytest

from tests.training.orders import chat, order_in, write_lines
from tunery.errors import InvalidRequest
from tunery.messages import TrainingOrder
from tunery.models.tokenizer import Tokenizer
from tunery.training.data import read


@pytest.fixture
def order(tmp_path: Path, tiny: Path) -> TrainingOrder:
    return order_in(tmp_path, tiny, validation_file=None)


@pytest.fixture
def tokenizer(tiny: Path) -> Tokenizer:
    return Tokenizer.load(tiny)


def with_longest(order: TrainingOrder, longest: int) -> TrainingOrder:
    return msgspec.structs.replace(order, base=msgspec.structs.replace(order.base, longest_example=longest))


def test_examples_are_the_tokens_of_the_template(order: TrainingOrder, tokenizer: Tokenizer) -> None:
    write_lines(Path(order.training_file), [chat("fox?", "dog"), chat("dog?", "fox")])
    first, second = read(order, tokenizer).training
    assert [first.line, second.line] == [1, 2]
    assert tokenizer.decode(first.ids.tolist()).endswith(
        "<|im_start|>user\nfox?<|im_end|>\n<|im_start|>assistant\ndog<|im_end|>\n"
    )
    assert tokenizer.decode(first.ids[first.trained].tolist()) == "dog<|im_end|>"


def test_completions_are_read_too(order: TrainingOrder, tokenizer: Tokenizer) -> None:
    write_lines(Path(order.training_file), [{"prompt": "The quick", "completion": " fox"}])
    (example,) = read(order, tokenizer).training
    assert tokenizer.decode(example.ids.tolist()) == "The quick fox<|endoftext|>"
    assert tokenizer.decode(example.ids[example.trained].tolist()) == " fox<|endoftext|>"


def test_long_examples_are_cut_and_named(order: TrainingOrder, tokenizer: Tokenizer) -> None:
    long = chat("fox", "dog " * 100)
    write_lines(Path(order.training_file), [chat("fox", "dog"), *[long] * 7])
    found = read(with_longest(order, 80), tokenizer)
    assert [len(example.ids) for example in found.training[1:]] == [80] * 7
    (note,) = found.notes
    assert note.level == "warning"
    assert "7 examples of the training file had more than 80 tokens" in note.message
    assert "lines 2, 3, 4, 5, 6 and others" in note.message


def test_an_answer_that_is_cut_off_whole_is_an_error_with_its_line(order: TrainingOrder, tokenizer: Tokenizer) -> None:
    write_lines(Path(order.training_file), [chat("fox", "dog"), chat("fox " * 90, "dog")])
    with pytest.raises(
        InvalidRequest, match=r"Line 2 has \d+ tokens and its first trained one lies beyond the 80"
    ) as caught:
        read(with_longest(order, 80), tokenizer)
    assert (caught.value.code, caught.value.param) == ("invalid_training_file", "training_file")


def test_only_an_untrained_rest_may_be_cut_silently(order: TrainingOrder, tokenizer: Tokenizer) -> None:
    """The line break after the last end of turn bears no loss."""
    write_lines(Path(order.training_file), [chat("fox", "dog")])
    (example,) = read(order, tokenizer).training
    assert read(with_longest(order, len(example.ids) - 1), tokenizer).notes == []


def test_a_bad_line_names_its_file(order: TrainingOrder, tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"messages": []}\n')
    with pytest.raises(InvalidRequest, match="Line 1") as caught:
        read(msgspec.structs.replace(order, validation_file=str(tmp_path / "bad.jsonl")), tokenizer)
    assert (caught.value.code, caught.value.param) == ("invalid_validation_file", "validation_file")


def test_an_empty_file_is_an_error(order: TrainingOrder, tokenizer: Tokenizer) -> None:
    Path(order.training_file).write_text("")
    with pytest.raises(InvalidRequest, match="training file holds no examples"):
        read(order, tokenizer)


def test_examples_that_both_files_hold_are_told(order: TrainingOrder, tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_lines(Path(order.training_file), [chat("fox", "dog"), chat("dog", "fox")])
    both = write_lines(tmp_path / "both.jsonl", [chat("new", "fox"), chat("dog", "fox"), chat("newer", "fox")])
    (note,) = read(msgspec.structs.replace(order, validation_file=both), tokenizer).notes
    assert note.level == "warning"
    assert "1 example of the validation file" in note.message
    assert "line 2 of the validation file" in note.message
