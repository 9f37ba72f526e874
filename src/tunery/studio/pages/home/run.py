"""The demo's way through the service, by the visitor's own rights. Its state is what lies in the account: two files,
a job, two deployments; so it goes on wherever it was left.
"""

from typing import NamedTuple

import anyio
import msgspec

from tunery import sample
from tunery.api.answer import whole
from tunery.api.asking import ask
from tunery.catalog import CHAT
from tunery.deploying import Wanted
from tunery.errors import NotFound, TuneryError
from tunery.files import TRAINING
from tunery.jobs import NewJob, Sought
from tunery.records import TERMINAL, Deployment, DeploymentState, File, FileStatus, Job, JobStatus
from tunery.studio.deployed import Deployed
from tunery.studio.pages.deployments.form import suggested

UPLOAD, FILE, FILES = "POST /files", "GET /files/{file_id}", "GET /files"
CREATE, JOBS = "POST /fine_tuning/jobs", "GET /fine_tuning/jobs"
CHATS = "POST /deployments/{deployment}/chat/completions"
MARK = {"made_by": "studio demo"}
"""Metadata by which the demo's job is known."""
BASE_NAME = "demo-base"
LOOKED_AT = 20
"""Newest jobs whose suffix could be the demo's."""
ASKED, LONGEST_ANSWER = 3, 24


class Answer(NamedTuple):
    """One question that no training example held, and what came."""

    question: str
    base: str
    tuned: str
    wanted: str


class State(msgspec.Struct, frozen=True, kw_only=True):
    """How far the demo is."""

    job: Job | None = None
    files: list[File] = []
    base: Deployment | None = None
    tuned: Deployment | None = None

    @property
    def ended(self) -> bool:
        """Nothing will come any more: failed, cancelled, or ready to be asked."""
        return bool(self.broken) or self.untrained or self.ready

    @property
    def untrained(self) -> bool:
        """There is no job, or one that ended without a model."""
        return self.job is None or self.job.status in TERMINAL - {JobStatus.SUCCEEDED}

    @property
    def broken(self) -> list[Deployment]:
        """Deployments that failed."""
        return [one for one in (self.base, self.tuned) if one is not None and one.state == DeploymentState.FAILED]

    @property
    def ready(self) -> bool:
        """Both deployments answer."""
        return all(one is not None and one.state == DeploymentState.SUCCEEDED for one in (self.base, self.tuned))


class Run:
    """Looks where the demo is and does what comes next."""

    def __init__(self, deployed: Deployed) -> None:
        self._deployed = deployed
        self._visitor = deployed.visitor

    def lacking(self) -> str | None:
        """An operation of the demo's that the visitor may not do."""
        needed = (UPLOAD, CREATE, self._deployed.operations.put, CHATS)
        return next((operation for operation in needed if not self._visitor.may(operation)), None)

    async def look(self) -> State:
        visitor, rooms = self._visitor, self._visitor.rooms
        sought = Sought(search=sample.SUFFIX)
        found, _ = await visitor.do(JOBS, rooms.jobs.page, visitor.account.id, limit=LOOKED_AT, sought=sought)
        job = next((one for one in found if MARK.items() <= (one.metadata or {}).items()), None)
        if job is None:
            return State()
        seen = [one.deployment for one in await self._deployed.all()]
        return State(
            job=job,
            files=await self._files(job),
            base=next((one for one in seen if one.name == BASE_NAME and one.adapter is None), None),
            tuned=next((one for one in seen if job.fine_tuned_model and one.model == job.fine_tuned_model), None),
        )

    async def start(self) -> None:
        """Upload what isn't there yet, and queue the job."""
        visitor, rooms = self._visitor, self._visitor.rooms
        data = sample.generate()
        training = await self._upload(sample.FILES[0], sample.jsonl(data.training))
        validation = await self._upload(sample.FILES[1], sample.jsonl(data.validation))
        rooms.accounts.refuse_without_tuning(visitor.account)
        wanted = NewJob(
            model=sample.BASE,
            training_file=training,
            validation_file=validation,
            suffix=sample.SUFFIX,
            seed=sample.SEED,
            hyperparameters={"n_epochs": sample.EPOCHS},
            metadata=MARK,
        )
        await visitor.do(CREATE, rooms.jobs.create, visitor.account.id, wanted, resource="/openai/fine_tuning/jobs")

    async def advance(self, state: State) -> None:
        """The next step that is due, if one is."""
        if state.job is None or state.ended:
            return
        if state.base is None:
            await self._deployed.put(BASE_NAME, Wanted(model=sample.BASE))
        if state.job.fine_tuned_model and state.tuned is None:
            taken = {one.deployment.name.lower() for one in await self._deployed.all()}
            model = state.job.fine_tuned_model
            try:
                await self._deployed.put(suggested(model, taken), Wanted(model=model))
            except TuneryError:
                if (await self.look()).tuned is None:
                    raise
                # The demo runs in another window too, and that one was first.

    async def mend(self, state: State) -> None:
        """Deploy again what failed."""
        for one in state.broken:
            await self._deployed.put(one.name, Wanted(model=one.model))

    async def ask(self, base: str, tuned: str) -> list[Answer]:
        """The same questions to both, at temperature 0."""
        examples = sample.generate().held_out[:ASKED]
        answers: dict[tuple[str, int], str] = {}

        async def one(name: str, number: int) -> None:
            answers[name, number] = await self._ask(name, examples[number])

        async with anyio.create_task_group() as tasks:
            for number in range(ASKED):
                for name in (base, tuned):
                    tasks.start_soon(one, name, number)
        return [
            Answer(example.question, answers[base, number], answers[tuned, number], example.answer)
            for number, example in enumerate(examples)
        ]

    async def _ask(self, name: str, example: sample.Example) -> str:
        visitor, rooms = self._visitor, self._visitor.rooms
        serving = await visitor.do(CHATS, rooms.deployments.serve, visitor.account.id, name)
        body = {"messages": example.messages(), "temperature": 0, "max_tokens": LONGEST_ANSWER}
        answering = await ask(CHAT, msgspec.json.encode(body), serving, account_id=visitor.account.id, desk=rooms)
        answer = await whole(answering.events, answering.order, serving)
        return str(answer["choices"][0]["message"]["content"] or "").strip()

    async def _files(self, job: Job) -> list[File]:
        found = []
        for file_id in (job.training_file, job.validation_file):
            try:
                found.append(
                    await self._visitor.do(FILE, self._visitor.rooms.files.get, self._visitor.account.id, file_id)
                )
            except NotFound:  # it was deleted since
                continue
        return found

    async def _upload(self, name: str, content: bytes) -> str:
        visitor, files = self._visitor, self._visitor.rooms.files
        known, _ = await visitor.do(FILES, files.page, visitor.account.id, purpose=TRAINING)
        for file in known:
            if (file.filename, file.bytes) == (name, len(content)) and file.status != FileStatus.ERROR:
                return file.id

        def keep() -> File:
            with files.receive() as incoming:
                incoming.write(content)
            return files.keep(incoming, account_id=visitor.account.id, filename=name, purpose=TRAINING)

        kept = await visitor.do(UPLOAD, keep, resource="/openai/files")
        return kept.id
