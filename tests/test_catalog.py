"""Bases that a user added, from tunery.json to a name that jobs and deployments take."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.fake_training import FakeTrainer
from tests.models.tiny import write_other
from tests.test_files import jsonl
from tests.test_worker import Shop
from tunery.catalog import BUNDLED, CHAT_ALIASES, licence_of
from tunery.errors import Conflict, InvalidRequest
from tunery.messages import TrainingOrder
from tunery.models import adding
from tunery.models.probe import Probe
from tunery.records import JobStatus
from tunery.settings import Settings
from tunery.store import Store
from tunery.training.local import LocalTrainer
from tunery.worker import Worker


@pytest.fixture
def shop(store: Store, settings: Settings, tmp_path: Path) -> Shop:
    return Shop(store, msgspec.structs.replace(settings, models=tmp_path / "models", training_threads=1))


def add(shop: Shop, tmp_path: Path, name: str = "mine", architecture: str = "gpt_neox") -> None:
    if not (tmp_path / architecture).exists():
        write_other(tmp_path / architecture, architecture)
    wanted = adding.Wanted(learning_rate=5e-3, lora_rank=4)
    adding.add(str(tmp_path / architecture), shop.settings.models, name, wanted, lambda _: None)


def test_an_added_base_comes_and_goes_while_the_catalog_lives(shop: Shop, tmp_path: Path) -> None:
    before = [base.name for base in shop.catalog.bases()]
    assert shop.catalog.base("mine") is None
    add(shop, tmp_path)
    assert [base.name for base in shop.catalog.bases()] == [*before, "mine"]
    found = shop.catalog.find(1, "mine").base
    assert (found.model.name, found.model.learning_rate, found.model.lora_rank) == ("mine", 5e-3, 4)
    assert Path(found.model.directory) == shop.settings.models / "mine"
    assert found.kinds == {"chat", "completion"}
    assert shop.catalog.base_model("mine") == found.model
    adding.remove(shop.settings.models, "mine")
    assert [base.name for base in shop.catalog.bases()] == before


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda raw: b"{", "tunery.json is damaged"),
        (lambda raw: b"\xff\xfe", "tunery.json is damaged"),
        (lambda raw: raw.replace(b"0.005", b"-1"), "learning_rate"),
        (lambda raw: raw.replace(b"kinds", b"kind"), "unknown field `kind`"),
    ],
)
def test_a_damaged_tunery_json_is_told_and_hides_no_other_base(
    shop: Shop, tmp_path: Path, harm: Callable[[bytes], bytes], said: str
) -> None:
    add(shop, tmp_path, "bad")
    add(shop, tmp_path, "good")
    path = shop.settings.models / "bad" / "tunery.json"
    path.write_bytes(harm(path.read_bytes()))
    names = [base.name for base in shop.catalog.bases()]
    assert "good" in names
    assert "bad" not in names
    assert list(shop.catalog.damaged()) == ["bad"]
    with pytest.raises(InvalidRequest, match=said):
        shop.catalog.find(1, "bad")


def test_the_bundled_base_and_its_aliases_keep_their_names(shop: Shop, tmp_path: Path) -> None:
    add(shop, tmp_path, CHAT_ALIASES[0])
    base = shop.catalog.base(CHAT_ALIASES[0])
    assert base is not None
    assert base.model.name == BUNDLED
    for name in (BUNDLED, CHAT_ALIASES[0]):
        with pytest.raises(Conflict):
            shop.catalog.refuse_name(name)
        with pytest.raises(Conflict, match="bundled"):
            shop.catalog.refuse_removal(name)


def train(shop: Shop) -> None:
    worker = Worker(shop.bench(LocalTrainer()))
    while worker.check_once():
        pass
    assert worker.work_once()


def test_a_job_trains_an_added_base_and_its_adapter_loads_in_peft(shop: Shop, tmp_path: Path) -> None:
    add(shop, tmp_path)
    job = shop.job(model="mine", training_file=shop.file(jsonl(10)), hyperparameters={"n_epochs": 1})
    with pytest.raises(Conflict, match=f"job {job.id} trains"):
        shop.catalog.refuse_removal("mine")
    train(shop)
    done = shop.jobs.get(1, job.id)
    assert done.status == JobStatus.SUCCEEDED, done.error
    target = shop.catalog.find(1, done.fine_tuned_model or "")
    folder = shop.catalog.adapter(target.adapter or "").directory
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(shop.settings.models / "mine"), folder)
    probe = Probe.load(folder)
    with torch.inference_mode():
        logits = model(torch.tensor([probe.token_ids])).logits[0]
    assert probe.agreement(dict(enumerate(logits))).largest_difference < 1e-3
    with pytest.raises(Conflict, match="tuned model"):
        shop.catalog.refuse_removal("mine")


def test_a_tuned_model_whose_base_is_gone_says_so(shop: Shop, tmp_path: Path) -> None:
    add(shop, tmp_path)
    job = shop.job(model="mine")
    shop.run()
    done = shop.jobs.get(1, job.id)
    adding.remove(shop.settings.models, "mine")
    with pytest.raises(InvalidRequest, match="isn't on this machine any more"):
        shop.catalog.find(1, done.fine_tuned_model or "")


def test_a_job_whose_base_s_folder_goes_while_it_trains_keeps_what_it_trained(shop: Shop, tmp_path: Path) -> None:
    add(shop, tmp_path)

    def between(_order: TrainingOrder, step: int) -> None:
        if step == 5:
            adding.remove(shop.settings.models, "mine")

    job = shop.job(model="mine")
    shop.run(FakeTrainer(between=between))
    found = shop.jobs.get(1, job.id)
    assert found.status == JobStatus.SUCCEEDED, found.error
    assert shop.catalog.tuned_model(1, found.fine_tuned_model or "") is not None


def test_a_base_s_licence_is_said_as_far_as_it_is_known(shop: Shop, tmp_path: Path) -> None:
    add(shop, tmp_path)
    model = shop.catalog.find(1, "mine").base.model
    assert licence_of(model) is None
    (Path(model.directory) / "LICENSE.txt").write_text("\n   MIT License\n\nCopyright ...")
    assert licence_of(model) == "MIT License"
    assert licence_of(shop.catalog.find(1, CHAT_ALIASES[0]).base.model) == "Apache-2.0"
