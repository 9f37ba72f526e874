"""Base models and tuned models: from a name to what has to be loaded.

The names that users' code already holds (gpt-35-turbo-0613, babbage-002 ...) are aliases of a base on disk. The mapping
is shown openly: GET /openai/models and every answer's `model` name the base, and nobody is told that a small model is
GPT-3.5.
"""

from pathlib import Path

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tunery.errors import Conflict, InvalidRequest, ModelDeployed, NotFound
from tunery.messages import Adapter, BaseModel
from tunery.records import TERMINAL, Checkpoint, Model
from tunery.store import Store
from tunery.store.database import checkpoints, deployments, jobs, many, models, one

CHAT, COMPLETION = "chat", "completion"

BUNDLED = "smollm2-135m-instruct"
CHAT_ALIASES = (
    "gpt-35-turbo",
    "gpt-35-turbo-0613",
    "gpt-35-turbo-1106",
    "gpt-35-turbo-0125",
    "gpt-4o-mini-2024-07-18",
    "gpt-4o-2024-08-06",
    "gpt-4.1-2025-04-14",
    "gpt-4.1-mini-2025-04-14",
    "gpt-4.1-nano-2025-04-14",
)
COMPLETION_ALIASES = ("babbage-002", "davinci-002")


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """A name under which a base model can be tuned and deployed."""

    name: str
    model: BaseModel
    kinds: frozenset[str]
    """chat, completion or both: what its tuned models answer, and which file format trains them."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What a model name stands for."""

    name: str
    base: Base
    adapter: str | None = None
    """Digest, None for a base."""
    custom_model: str | None = None
    """The tuned model this is, or belongs to: at most one deployment each."""
    job_id: str | None = None


class Catalog:
    """Knows every base by each of its names; looks tuned models up in the database."""

    def __init__(self, store: Store, models_folder: Path) -> None:
        self._store = store
        bundled = BaseModel(
            name=BUNDLED, directory=str(models_folder / BUNDLED), learning_rate=2e-3, context_length=8192
        )
        self._bases = {BUNDLED: Base(name=BUNDLED, model=bundled, kinds=frozenset({CHAT, COMPLETION}))}
        for alias in CHAT_ALIASES:
            self._bases[alias] = Base(name=alias, model=bundled, kinds=frozenset({CHAT}))
        for alias in COMPLETION_ALIASES:
            self._bases[alias] = Base(name=alias, model=bundled, kinds=frozenset({COMPLETION}))

    def bases(self) -> list[Base]:
        return list(self._bases.values())

    def base(self, name: str) -> Base | None:
        return self._bases.get(name)

    def base_models(self) -> dict[str, BaseModel]:
        """The distinct models on disk by their own name: what engines are started for."""
        return {base.model.name: base.model for base in self._bases.values()}

    def tuned(self, account_id: int) -> list[Model]:
        query = sa.select(models).where(models.c.account_id == account_id).order_by(models.c.seq.desc())
        with self._store.database.read() as connection:
            return many(connection, Model, query)

    def tuned_model(self, account_id: int, name: str) -> Model | None:
        query = sa.select(models).where(models.c.account_id == account_id, models.c.name == name)
        with self._store.database.read() as connection:
            return one(connection, Model, query)

    def find(self, account_id: int, name: str, *, param: str = "model") -> Target:
        """A base by any of its names, a tuned model, or a checkpoint by its name or ftchkpt- id.

        Raises:
            InvalidRequest: nothing of that name in this account.
        """
        base = self._bases.get(name)
        if base is not None:
            return Target(name=name, base=base)
        model = self.tuned_model(account_id, name)
        if model is not None:
            return self._tuned_target(name, model.adapter, model.name, model.job_id)
        checkpoint = self._checkpoint(account_id, name)
        if checkpoint is not None:
            custom = checkpoint.name.split(":ckpt-step-", 1)[0]
            return self._tuned_target(checkpoint.name, checkpoint.adapter, custom, checkpoint.job_id)
        raise InvalidRequest(
            f"The model '{name}' is neither a base model nor a tuned model or checkpoint of this account. "
            f"Base models: {', '.join(self._bases)}.",
            param=param,
            code="invalidPayload",
        )

    def adapter(self, digest: str) -> Adapter:
        return Adapter(digest=digest, directory=str(self._store.blobs.path(f"adapters/{digest}")))

    def delete(self, account_id: int, name: str) -> None:
        """Forget a tuned model and its checkpoints.

        Raises:
            NotFound: no such tuned model here.
            ModelDeployed: a deployment serves it, or one of its checkpoints.
            Conflict: an unfinished job is being tuned from it.
        """
        with self._store.database.begin() as connection:
            mine = sa.and_(models.c.account_id == account_id, models.c.name == name)
            model = one(connection, Model, sa.select(models).where(mine))
            if model is None:
                raise NotFound(f"The model '{name}' does not exist.")
            _refuse_if_used(connection, model)
            connection.execute(sa.delete(models).where(mine))
            gone = many(
                connection,
                Checkpoint,
                sa.delete(checkpoints).where(checkpoints.c.job_id == model.job_id).returning(checkpoints),
            )
            digests = {model.adapter, *(checkpoint.adapter for checkpoint in gone)}
            kept = {
                digest
                for table in (models, checkpoints)
                for (digest,) in connection.execute(sa.select(table.c.adapter).where(table.c.adapter.in_(digests)))
            }
        for digest in digests - kept:
            self._store.blobs.delete(f"adapters/{digest}")

    def _tuned_target(self, name: str, adapter: str, custom: str, job_id: str) -> Target:
        return Target(
            name=name,
            base=self._bases[custom.split(".ft-", 1)[0]],
            adapter=adapter,
            custom_model=custom,
            job_id=job_id,
        )

    def _checkpoint(self, account_id: int, name: str) -> Checkpoint | None:
        query = sa.select(checkpoints).where(
            checkpoints.c.account_id == account_id, sa.or_(checkpoints.c.name == name, checkpoints.c.id == name)
        )
        with self._store.database.read() as connection:
            return one(connection, Checkpoint, query)


def _refuse_if_used(connection: Connection, model: Model) -> None:
    served = sa.select(deployments.c.name).where(
        deployments.c.account_id == model.account_id, deployments.c.custom_model == model.name
    )
    name = connection.execute(served).scalar()
    if name is not None:
        raise ModelDeployed(
            f"The model '{model.name}' can't be deleted while the deployment '{name}' serves it. "
            "Delete the deployment first."
        )
    tuned_from = sa.or_(
        jobs.c.model == model.name, jobs.c.model.startswith(model.name + ":ckpt-step-", autoescape=True)
    )
    unfinished = sa.select(jobs.c.id).where(
        jobs.c.account_id == model.account_id, tuned_from, jobs.c.status.not_in(TERMINAL)
    )
    job = connection.execute(unfinished).scalar()
    if job is not None:
        raise Conflict(f"The job {job} is being tuned from the model '{model.name}'. Cancel it or wait for its end.")
