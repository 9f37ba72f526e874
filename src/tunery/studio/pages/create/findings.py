"""What the service says of a draft: what its names stand for, and why a step can't be left yet."""

from typing import NamedTuple

import msgspec

from tunery.catalog import Target
from tunery.errors import InvalidRequest, NotFound
from tunery.files import TRAINING
from tunery.recipe import Recipe
from tunery.records import File, FileStatus
from tunery.studio.pages.create.draft import STEPS, Draft, step_of
from tunery.studio.texts import t
from tunery.studio.visitor import Visitor
from tunery.suitability import trainable


class Refusal(NamedTuple):
    message: str
    param: str | None


class Found(NamedTuple):
    target: Target | None
    training: File | None
    validation: File | None
    recipe: Recipe | None
    """None until model and training data are there and nothing is refused."""
    refusals: dict[str, Refusal]
    """By the step that they are about."""

    @property
    def formats(self) -> frozenset[str]:
        """Of the files that train the chosen model."""
        return frozenset() if self.target is None else trainable(self.target.base.kinds)

    @property
    def validation_formats(self) -> frozenset[str]:
        """Validation data has to be like the training data."""
        known = self.training is not None and self.training.format in self.formats
        return frozenset({str(self.training.format)}) if known and self.training else self.formats


async def look(visitor: Visitor, draft: Draft) -> Found:
    """Asks the service, with the visitor's rights."""
    refusals: dict[str, Refusal] = {}
    rooms, account = visitor.rooms, visitor.account.id
    target = recipe = None
    try:
        if draft.model:
            target = await visitor.do("GET /fine_tuning/models", rooms.catalog.find, account, draft.model)
    except InvalidRequest as error:
        refusals["model"] = Refusal(error.message, error.param)
    files: dict[str, File] = {}
    for step, file_id in (("training", draft.training), ("validation", draft.validation)):
        try:
            if file_id:
                files[step] = await visitor.do("GET /files/{file_id}", rooms.files.get, account, file_id)
        except NotFound as error:
            refusals[step] = Refusal(error.message, None)
    training = files.get("training")
    try:
        if target is not None and training is not None and not refusals:
            job = draft.job(training.format)
            drawn = await visitor.do("POST /fine_tuning/recipe", rooms.jobs.resolve, account, job)
            # A seed that wasn't given is drawn anew each time, which would look like a change.
            recipe = msgspec.structs.replace(drawn, seed=job.seed or 0)
    except InvalidRequest as error:
        refusals[step_of(error.param)] = Refusal(error.message, error.param)
    return Found(target, training, files.get("validation"), recipe, refusals)


def unfit(file: File, formats: frozenset[str]) -> str | None:
    """Why a job can't be trained or validated on this file, in the visitor's language; None if it can."""
    if file.status == FileStatus.ERROR:
        return t("create.file_faulty")
    if file.status != FileStatus.PROCESSED:
        return t("create.file_checking") if file.blob else t("create.file_fetching")
    if file.purpose != TRAINING:
        return t("create.file_purpose", purpose=file.purpose)
    if file.format not in formats:
        wanted = ", ".join(format_name(one) for one in sorted(formats))
        return t("create.file_format", has=format_name(file.format), wants=wanted)
    return None


def format_name(name: str | None) -> str:
    return t(f"create.format_{name}") if name else "–"


def held(draft: Draft, found: Found, step: str) -> str | None:
    """Why this step can't be left yet; None if it can."""
    if step == "model" and not draft.model:
        return t("create.need_model")
    if step == "training" and not draft.training:
        return t("create.need_training")
    for name, file, formats in (
        ("training", found.training, found.formats),
        ("validation", found.validation, found.validation_formats),
    ):
        if step == name and file is not None and found.target is not None and (why := unfit(file, formats)):
            return why
    refusal = found.refusals.get(step)
    return None if refusal is None else refusal.message


def first_held(draft: Draft, found: Found) -> tuple[str, str] | None:
    """The first step that isn't done, and why."""
    for step in STEPS[:-1]:
        if why := held(draft, found, step):
            return step, why
    return None
