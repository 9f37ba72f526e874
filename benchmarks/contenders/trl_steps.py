"""TRL's SFTTrainer, a step at a time: python trl_steps.py WORK.json trl|trl-tuned

`trl` is SFTTrainer as it comes, in float32; `trl-tuned` has what speeds it up here: no gradient checkpointing, which
it does by default, and the fused AdamW. Batches come ready: the same tokens, labels and order as every contender's.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from callback import InTurns
from datasets import Dataset
from peft import LoraConfig
from steps import Turn
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

TUNED = {"gradient_checkpointing": False, "optim": "adamw_torch_fused"}


def main() -> None:
    turn = Turn()
    work, name = json.loads(Path(sys.argv[1]).read_text()), sys.argv[2]
    torch.set_num_threads(work["threads"])
    model = AutoModelForCausalLM.from_pretrained(work["base"], dtype=torch.float32)
    rows = [example for batch in work["batches"] for example in batch]
    lora = LoraConfig(
        r=work["rank"], lora_alpha=work["alpha"], lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=work["batch_size"],
            num_train_epochs=1,
            learning_rate=work["learning_rate"],
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            bf16=False,
            train_sampling_strategy="sequential",
            disable_tqdm=True,
            **(TUNED if name == "trl-tuned" else {}),
        )
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(work["base"]),
            peft_config=lora,
            callbacks=[InTurns(turn)],
        )
        trainer.train()


main()
