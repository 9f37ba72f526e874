"""Base models and tuned models: from a name to what has to be loaded.

The names that users' code already holds (gpt-35-turbo-0613, babbage-002 ...) are aliases of a base on disk. The mapping
is shown openly: GET /openai/models and every answer's `model` name the base, and nobody is told that a small model is
GPT-3.5.
"""

import re
import sys
from pathlib import Path

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tunery import adapters
from tunery.bases import BASE_FILE, BASE_NAME, BaseFile, BaseModel
from tunery.errors import Conflict, InvalidRequest, ModelDeployed, NotFound
from tunery.messages import Adapter
from tunery.records import TERMINAL, Checkpoint, Copy, Model
from tunery.store import Store
from tunery.store.database import many, one
from tunery.store.tables import checkpoints, copies, deployments, jobs, models

CHAT, COMPLETION = "chat", "completion"
STEP = ":ckpt-step-"
"""Between a model's name and the step, in the name of a checkpoint that isn't the last."""
VERSIONED = re.compile(r"(?P<name>.+)-(?P<version>\d{4}(-\d{2}-\d{2})?)")

BUNDLED = "smollm2-135m-instruct"
BUNDLED_LICENCE = "Apache-2.0"
LICENCE_CHARACTERS = 200
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


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """A name that a job can start from."""

    name: str
    base: str
    """Itself, if it is a base."""
    kinds: frozenset[str]
    job_id: str | None = None
    step: int | None = None
    """Of a checkpoint that isn't the last one of its job."""
    created_at: int | None = None


class Catalog:
    """Knows every base by each of its names; looks tuned models up in the database.

    Bases that the user added are read from the models folder each time: a running service sees them come and go.
    """

    def __init__(self, store: Store, models_folder: Path) -> None:
        self._store = store
        self._folder = models_folder
        bundled = BaseModel(
            name=BUNDLED, directory=str(models_folder / BUNDLED), learning_rate=2e-3, context_length=8192
        )
        self._own = {BUNDLED: Base(name=BUNDLED, model=bundled, kinds=frozenset({CHAT, COMPLETION}))}
        for alias in CHAT_ALIASES:
            self._own[alias] = Base(name=alias, model=bundled, kinds=frozenset({CHAT}))
        for alias in COMPLETION_ALIASES:
            self._own[alias] = Base(name=alias, model=bundled, kinds=frozenset({COMPLETION}))

    def bases(self) -> list[Base]:
        return [*self._own.values(), *self._added().values()]

    def base(self, name: str) -> Base | None:
        """None if there is no such base, or its folder is damaged; see `damaged`."""
        return self._own.get(name) or self._added().get(name)

    def base_model(self, name: str) -> BaseModel | None:
        """What is on disk under a base's own name: what engines are started for."""
        base = self.base(name)
        return None if base is None else base.model

    def damaged(self) -> dict[str, str]:
        """Folders of added bases that can't be used, by name, and why."""
        found = {name: _read(self._folder / name) for name in self._added_names()}
        return {name: base for name, base in found.items() if isinstance(base, str)}

    def refuse_name(self, name: str) -> None:
        """Raises Conflict for a name that an added base can't have."""
        if name in self._own:
            raise Conflict(f"The name '{name}' is the bundled base's. Choose another one.")

    def refuse_removal(self, name: str) -> None:
        """Raises Conflict while something in this home needs the base."""
        if name in self._own:
            raise Conflict(f"'{name}' is the bundled base, which can't be removed.")
        uses = {
            "The deployment '{}' serves": sa.select(deployments.c.name).where(deployments.c.base == name),
            "The tuned model '{}' needs": sa.select(models.c.name).where(models.c.base == name),
            "The job {} trains": sa.select(jobs.c.id).where(jobs.c.base == name, jobs.c.status.not_in(TERMINAL)),
        }
        with self._store.database.read() as connection:
            for sentence, query in uses.items():
                user = connection.execute(query).scalar()
                if user is not None:
                    raise Conflict(f"{sentence.format(user)} the base model '{name}'. Delete that first.")

    def tuned(self, account_id: int) -> list[Model]:
        query = sa.select(models).where(models.c.account_id == account_id).order_by(models.c.seq.desc())
        with self._store.database.read() as connection:
            return many(connection, Model, query)

    def tuned_model(self, account_id: int, name: str) -> Model | None:
        query = sa.select(models).where(models.c.account_id == account_id, models.c.name == name)
        with self._store.database.read() as connection:
            return one(connection, Model, query)

    def starts(self, account_id: int) -> list[Start]:
        """All that `find` finds and the account may tune: bases, then tuned models and checkpoints, newest first."""
        kept = [
            sa.select(table.c.name, table.c.job_id, table.c.created_at).where(table.c.account_id == account_id)
            for table in (models, checkpoints, copies)
        ]
        with self._store.database.read() as connection:
            rows = connection.execute(sa.union_all(*kept)).all()
        kinds = {base.name: base.kinds for base in self.bases()}
        tuned = {name: _start(name, job_id, created_at, kinds) for name, job_id, created_at in rows}
        usable = [start for start in tuned.values() if start.base in kinds]
        usable.sort(key=lambda start: (start.created_at or 0, start.step or sys.maxsize), reverse=True)
        return [*(Start(name=name, base=name, kinds=kinds[name]) for name in kinds), *usable]

    def find(self, account_id: int, name: str, *, param: str = "model") -> Target:
        """A base by any of its names, a tuned model, or a checkpoint by its name or ftchkpt- id.

        Raises:
            InvalidRequest: nothing of that name in this account.
        """
        base = self.base(name)
        if base is not None:
            return Target(name=name, base=base)
        model = self.tuned_model(account_id, name)
        if model is not None:
            return self._tuned_target(name, model.adapter, model.name, model.job_id)
        checkpoint = self._checkpoint(account_id, name)
        if checkpoint is not None:
            return self._tuned_target(checkpoint.name, checkpoint.adapter, model_of(checkpoint.name), checkpoint.job_id)
        copy = self._copy(account_id, name)
        if copy is not None:
            return self._tuned_target(name, copy.adapter, model_of(name), copy.job_id)
        if name in (damaged := self.damaged()):
            raise InvalidRequest(damaged[name], param=param)
        raise InvalidRequest(
            f"The model '{name}' is neither a base model nor a tuned model or checkpoint of this account. "
            f"Base models: {', '.join(base.name for base in self.bases())}.",
            param=param,
            code="invalidPayload",
        )

    def adapter(self, digest: str) -> Adapter:
        return Adapter(digest=digest, directory=str(self._store.blobs.path(adapters.blob(digest))))

    def delete(self, account_id: int, name: str) -> None:
        """Forget a tuned model and its checkpoints, or a checkpoint that was copied here.

        Raises:
            NotFound: no such tuned model here.
            ModelDeployed: a deployment serves it, or one of its checkpoints.
            Conflict: an unfinished job is being tuned from it.
        """
        with self._store.database.begin() as connection:
            mine = sa.and_(models.c.account_id == account_id, models.c.name == name)
            model = one(connection, Model, sa.select(models).where(mine))
            copied = sa.and_(copies.c.account_id == account_id, copies.c.name == name)
            if model is None and one(connection, Copy, sa.select(copies).where(copied)) is None:
                raise NotFound(f"The model '{name}' does not exist.")
            _refuse_if_used(connection, account_id, model_of(name))
            deletions = [sa.delete(copies).where(copied).returning(copies.c.adapter)]
            if model is not None:
                its_own = sa.and_(checkpoints.c.account_id == account_id, checkpoints.c.job_id == model.job_id)
                deletions.append(sa.delete(models).where(mine).returning(models.c.adapter))
                deletions.append(sa.delete(checkpoints).where(its_own).returning(checkpoints.c.adapter))
            digests = {digest for deletion in deletions for (digest,) in connection.execute(deletion)}
            unnamed = adapters.unnamed(connection, digests)
        for digest in unnamed:
            self._store.blobs.delete(adapters.blob(digest))

    def _added(self) -> dict[str, Base]:
        found = {name: _read(self._folder / name) for name in self._added_names()}
        return {name: base for name, base in found.items() if isinstance(base, Base)}

    def _added_names(self) -> list[str]:
        """Not those under construction, whose names begin with a dot."""
        if not self._folder.is_dir():
            return []
        names = sorted(path.parent.name for path in self._folder.glob(f"*/{BASE_FILE}"))
        return [name for name in names if re.fullmatch(BASE_NAME, name) and name not in self._own]

    def _tuned_target(self, name: str, adapter: str, custom: str, job_id: str) -> Target:
        base = self.base(custom.split(".ft-", 1)[0])
        if base is None:
            raise InvalidRequest(f"The base of the model '{name}' isn't on this machine any more.")
        return Target(
            name=name,
            base=base,
            adapter=adapter,
            custom_model=custom,
            job_id=job_id,
        )

    def _copy(self, account_id: int, name: str) -> Copy | None:
        query = sa.select(copies).where(copies.c.account_id == account_id, copies.c.name == name)
        with self._store.database.read() as connection:
            return one(connection, Copy, query)

    def _checkpoint(self, account_id: int, name: str) -> Checkpoint | None:
        query = sa.select(checkpoints).where(
            checkpoints.c.account_id == account_id, sa.or_(checkpoints.c.name == name, checkpoints.c.id == name)
        )
        with self._store.database.read() as connection:
            return one(connection, Checkpoint, query)


def _start(name: str, job_id: str, created_at: int, kinds: dict[str, frozenset[str]]) -> Start:
    base = name.split(".ft-", 1)[0]
    step = name.partition(STEP)[2]
    return Start(
        name=name,
        base=base,
        kinds=kinds.get(base, frozenset()),
        job_id=job_id,
        step=int(step) if step else None,
        created_at=created_at,
    )


def model_of(name: str) -> str:
    """The tuned model that a checkpoint belongs to, by its name; of a model, itself."""
    return name.split(STEP, 1)[0]


def starts_from(model: str) -> sa.ColumnElement[bool]:
    """Whether a job is tuned from this model or one of its checkpoints."""
    return sa.or_(jobs.c.model == model, jobs.c.model.startswith(model + STEP, autoescape=True))


def licence_of(base: BaseModel) -> str | None:
    """As far as it is known: the bundled one's name, or the first line of the licence that lies with the weights."""
    if base.name == BUNDLED:
        return BUNDLED_LICENCE
    for path in sorted(Path(base.directory).glob("LICENSE*")):
        lines = path.read_text("utf-8", errors="replace")[:LICENCE_CHARACTERS].splitlines()
        return next((line.strip() for line in lines if line.strip()), None)
    return None


def versioned(name: str) -> tuple[str, str]:
    """A base's name as ARM takes it apart: gpt-35-turbo-0613 is version 0613 of gpt-35-turbo."""
    found = VERSIONED.fullmatch(name)
    return (name, "1") if found is None else (found["name"], found["version"])


def _read(folder: Path) -> Base | str:
    """The base in a folder of the user's own, or what is wrong with it."""
    try:
        found = msgspec.json.decode((folder / BASE_FILE).read_bytes(), type=BaseFile)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        return f"The base model '{folder.name}' can't be used: {folder / BASE_FILE} is damaged: {error}."
    fields = {key: value for key, value in msgspec.structs.asdict(found).items() if key != "kinds"}
    model = BaseModel(name=folder.name, directory=str(folder), **fields)
    return Base(name=folder.name, model=model, kinds=frozenset(found.kinds))


def _refuse_if_used(connection: Connection, account_id: int, model: str) -> None:
    served = sa.select(deployments.c.name).where(
        deployments.c.account_id == account_id, deployments.c.custom_model == model
    )
    name = connection.execute(served).scalar()
    if name is not None:
        raise ModelDeployed(
            f"The model '{model}' can't be deleted while the deployment '{name}' serves it. "
            "Delete the deployment first."
        )
    mine = sa.and_(jobs.c.account_id == account_id, starts_from(model))
    unfinished = sa.select(jobs.c.id).where(mine, jobs.c.status.not_in(TERMINAL))
    job = connection.execute(unfinished).scalar()
    if job is not None:
        raise Conflict(f"The job {job} is being tuned from the model '{model}'. Cancel it or wait for its end.")
