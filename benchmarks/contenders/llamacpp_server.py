"""llama.cpp's server out of the package xllamacpp: python llamacpp_server.py WORK.json"""

import json
import sys
import time
from pathlib import Path

import xllamacpp


def main() -> None:
    work = json.loads(Path(sys.argv[1]).read_text())
    params = xllamacpp.CommonParams()
    params.model.path = f"{work['ggufs']}/{work['gguf']}"
    params.port = work["port"]
    params.n_parallel = work["slots"]
    params.n_ctx = work["slots"] * work["longest"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = work["threads"]
    params.lora_init_without_apply = True
    adapters = []
    for adapter in work["adapters"]:
        info = xllamacpp.CommonAdapterLoraInfo()
        info.path, info.scale = f"{work['ggufs']}/{Path(adapter['directory']).name}.gguf", 0.0
        adapters.append(info)
    params.lora_adapters = adapters
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
