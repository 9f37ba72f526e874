from tunery.training.pace import Pace


def test_the_first_steps_tell_nothing() -> None:
    pace = Pace()
    for seconds in (50.0, 40.0):
        pace.step(seconds)
        assert pace.seconds(steps=10, evaluations=1) is None
    pace.step(2.0)
    assert pace.seconds(steps=10, evaluations=1) == 20.0


def test_evaluations_at_epoch_ends_count_once_one_was_measured() -> None:
    pace = Pace()
    for _ in range(5):
        pace.step(2.0)
    pace.evaluation(7.0)
    assert pace.seconds(steps=10, evaluations=3) == 41.0


def test_it_follows_a_machine_that_gets_slower() -> None:
    pace = Pace()
    for seconds in [1.0] * 5 + [3.0] * 50:
        pace.step(seconds)
    left = pace.seconds(steps=100, evaluations=0)
    assert left is not None
    assert 290 < left <= 300


def test_nothing_is_left_after_the_last_step() -> None:
    assert Pace().seconds(steps=0, evaluations=0) == 0.0
