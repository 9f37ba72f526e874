"""Why a run doesn't start or doesn't go on, with what its user can change. Decides nothing."""

from tunery.errors import TuneryError
from tunery.messages import Plan, TrainingOrder

GIBIBYTE = 1024**3
NEXT_MULTIPLIER = 0.25
"""Of the one that diverged: half of it often diverges too, only later."""


def diverged(order: TrainingOrder, finding: str) -> TuneryError:
    multiplier = order.learning_rate / order.base.learning_rate
    return TuneryError(
        f"{finding}: training diverged. learning_rate_multiplier was {multiplier:.3g}; try "
        f"{multiplier * NEXT_MULTIPLIER:.3g}, or a larger batch_size. Earlier checkpoints stay.",
        code="training_diverged",
    )


def too_large(order: TrainingOrder, plan: Plan) -> TuneryError:
    return TuneryError(
        f"The training needs about {plan.memory_bytes / GIBIBYTE:.1f} GiB of memory even in its smallest parts, and "
        f"{plan.memory_available_bytes / GIBIBYTE:.1f} GiB are free for it. Shorten the longest examples, tune a "
        f"smaller base than {order.base.name}, or stop other jobs and deployments.",
        code="insufficient_memory",
    )
