"""A base that the user added, through the wire: there at once, and gone without harm."""

import shutil

import openai
import pytest

from tests.api.test_control import body, deploy
from tests.api.test_jobs import finished, upload
from tests.live import LiveService


def test_an_added_base_is_tuned_and_listed_and_its_disappearance_is_told(service: LiveService) -> None:
    client, folder = service.azure(), service.rooms.settings.models / "mine"
    folder.mkdir(parents=True)
    (folder / "tunery.json").write_text('{"learning_rate": 0.0002, "kinds": ["chat"]}')
    listed = {model.id: model for model in client.models.list()}
    assert listed["mine"].model_extra["capabilities"]["completion"] is False
    job = finished(client, client.fine_tuning.jobs.create(model="mine", training_file=upload(service)).id)
    assert job.fine_tuned_model.startswith("mine.ft-")
    assert deploy(service, "of-mine", job.fine_tuned_model)["properties"]["provisioningState"] == "Succeeded"
    shutil.rmtree(folder)
    gone = {model.id: model for model in client.models.list()}
    assert "mine" not in gone
    assert gone[job.fine_tuned_model].model_extra["capabilities"]["inference"] is False
    with pytest.raises(openai.APIStatusError, match="isn't on this machine any more"):
        client.chat.completions.create(model="of-mine", messages=[{"role": "user", "content": "x"}])
    again = service.arm("PUT", "/deployments/again", json=body(job.fine_tuned_model))
    assert again.status_code == 400
    assert "isn't on this machine any more" in again.text
