from pathlib import Path

import msgspec

from tests.training.orders import of, order_in, reports
from tunery.messages import Finished, Prepared, TrainingOrder
from tunery.training.state import State, fingerprint


def test_a_state_of_the_first_version_goes_on_and_says_that_its_time_is_unknown(tmp_path: Path, tiny: Path) -> None:
    order = order_in(tmp_path, tiny)
    whole = reports(order)
    folder = Path(order.directory) / "state-3"
    state = msgspec.json.decode((folder / "state.json").read_bytes(), type=State)
    old = {"step": state.step, "trained_tokens": state.trained_tokens, "order": state.order}
    (folder / "state.json").write_bytes(msgspec.json.encode(old))
    resumed = reports(msgspec.structs.replace(order, resume_from=str(folder)))
    assert of(Prepared, resumed)[0].plan.micro_batch_tokens == 1024
    assert of(Finished, resumed)[0].seconds is None
    assert (of(Finished, whole)[0].seconds or 0) > 0


def test_how_much_memory_there_is_does_not_make_it_another_order(tmp_path: Path, tiny: Path) -> None:
    order = order_in(tmp_path, tiny)
    assert fingerprint(msgspec.structs.replace(order, memory_bytes=5, threads=8)) == fingerprint(order)
    changed: TrainingOrder = msgspec.structs.replace(order, seed=8)
    assert fingerprint(changed) != fingerprint(order)
