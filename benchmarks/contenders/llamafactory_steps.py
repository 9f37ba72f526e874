"""LLaMA-Factory's supervised trainer, a step at a time: python llamafactory_steps.py WORK.json llamafactory

Its command line's own defaults, in float32, over ready batches. It imports torchaudio for sound files, which
has no build for this torch; an empty module stands in, since there are none.
"""

import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import torch
from callback import InTurns
from datasets import Dataset, DatasetDict
from steps import Turn

sys.modules["torchaudio"] = ModuleType("torchaudio")

from llamafactory.train.tuner import run_exp  # noqa: E402 (after the stand-in)


def main() -> None:
    turn = Turn()
    work = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(work["threads"])
    rows = [
        example | {"attention_mask": [1] * len(example["input_ids"])} for batch in work["batches"] for example in batch
    ]
    with tempfile.TemporaryDirectory() as folder:
        ready = f"{folder}/ready"
        DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(ready)
        run_exp(
            {
                "stage": "sft",
                "do_train": True,
                "model_name_or_path": work["base"],
                "template": "default",
                "finetuning_type": "lora",
                "lora_rank": work["rank"],
                "lora_alpha": work["alpha"],
                "lora_target": "all",
                "dataset": "ready",
                "tokenized_path": ready,
                "disable_shuffling": True,
                "output_dir": f"{folder}/out",
                "per_device_train_batch_size": work["batch_size"],
                "learning_rate": work["learning_rate"],
                "num_train_epochs": 1,
                "logging_steps": 1,
                "save_strategy": "no",
                "report_to": "none",
                "use_cpu": True,
                "disable_tqdm": True,
            },
            callbacks=[InTurns(turn)],
        )


main()
