"""Which files can train which model, and what is said of those that can't. Knows no job and no HTTP."""

from tunery import recipe
from tunery.catalog import CHAT, Target
from tunery.errors import InvalidRequest
from tunery.files import TRAINING
from tunery.records import File, FileStatus

PREFERENCE = "preference"
"""Format of files for tuning by preference."""


def trainable(kinds: frozenset[str]) -> frozenset[str]:
    """The formats of file that train such a base, by one method or another."""
    return kinds | ({PREFERENCE} if CHAT in kinds else frozenset())


def formats_of(target: Target, requested: recipe.Requested) -> frozenset[str]:
    """The formats of file that train this base by the method asked for. Raises InvalidRequest if none does."""
    if requested.dpo is None:
        return target.base.kinds
    if CHAT not in target.base.kinds:
        raise InvalidRequest(
            f"The model '{target.name}' completes texts; the method 'dpo' tunes chat models. Name one of them.",
            param="model",
        )
    return frozenset({PREFERENCE})


def refuse_unfit(file: File, formats: frozenset[str], param: str) -> None:
    """Raises InvalidRequest where the file isn't of these formats. A file still being checked passes for now."""
    if file.purpose != TRAINING:
        raise InvalidRequest(
            f"The {param} '{file.id}' has the purpose {file.purpose!r}; upload it with the purpose {TRAINING!r}.",
            param=param,
        )
    if file.status == FileStatus.ERROR:
        raise InvalidRequest(f"The {param} '{file.id}' can't be used. {file.status_details}", param=param)
    if file.format is not None and file.format not in formats:
        if file.format == PREFERENCE:
            advice = 'Set method to {"type": "dpo"}, or name another file.'
        elif PREFERENCE in formats:
            advice = (
                "Name a file whose lines have input, preferred_output and non_preferred_output, or leave method out."
            )
        else:
            advice = "Name another file, or another model."
        raise InvalidRequest(
            f"The {param} '{file.id}' holds {file.format} examples; this job's model and method are trained on "
            f"{' or '.join(sorted(formats))} examples. {advice}",
            param=param,
        )


def refuse_unchecked(file: File, param: str) -> None:
    """Raises InvalidRequest as long as it isn't known what the file holds."""
    if file.status != FileStatus.PROCESSED:
        raise InvalidRequest(
            f"The {param} '{file.id}' is still being checked. Ask again once its status is processed.", param=param
        )


def refuse_mixed(training: File, validation: File) -> None:
    """Both checked. Raises InvalidRequest where they hold examples of different formats."""
    if validation.format != training.format:
        raise InvalidRequest(
            f"The validation_file holds {validation.format} examples, the training_file {training.format}.",
            param="validation_file",
        )
