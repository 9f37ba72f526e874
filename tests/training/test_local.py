"""The planner's process: a question in, one line out, whatever happens."""

from pathlib import Path

from tests.training.orders import order_in, random_lines, write_lines
from tests.waiting import PATIENCE
from tunery.messages import Failed, Planned, PlanOrder
from tunery.training import data, plan
from tunery.training.local import LocalPlanner


def question(folder: Path, tiny: Path, **changes: object) -> PlanOrder:
    return PlanOrder(order=order_in(folder, tiny, **changes), training_examples=13, validation_examples=5, measure=True)


def test_a_question_is_answered_with_the_plan_that_training_makes(tmp_path: Path, tiny: Path) -> None:
    asked = question(tmp_path, tiny, memory_bytes=1 << 40)
    answer = LocalPlanner().plan(asked, seconds=PATIENCE)
    assert isinstance(answer, Planned)
    found = data.read(asked.order, data.Tokenizer.load(tiny))
    assert answer.plan == plan.plan(asked.order, found, available=1 << 40)
    assert answer.gemm_flops is not None
    assert answer.gemm_flops > 1e6
    assert list((tmp_path / "run").iterdir()) == []


def test_an_order_that_can_t_be_planned_says_why(tmp_path: Path, tiny: Path) -> None:
    lines = write_lines(tmp_path / "t.jsonl", [*random_lines(3, seed=1), {"messages": [{"role": "user"}]}])
    answer = LocalPlanner().plan(question(tmp_path, tiny, training_file=lines), seconds=PATIENCE)
    assert isinstance(answer, Failed)
    assert (answer.code, answer.param) == ("invalid_training_file", "training_file")
    assert "Line 4" in answer.message


def test_a_missing_file_ends_in_an_answer_too(tmp_path: Path, tiny: Path) -> None:
    asked = question(tmp_path, tiny, training_file=str(tmp_path / "missing"))
    answer = LocalPlanner().plan(asked, seconds=PATIENCE)
    assert isinstance(answer, Failed)
    assert answer.code == "internal_error"


def test_a_process_that_takes_too_long_is_ended(tmp_path: Path, tiny: Path) -> None:
    assert LocalPlanner().plan(question(tmp_path, tiny), seconds=0.01) is None
