"""vLLM's CPU build with its OpenAI server: python vllm_server.py WORK.json"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path


def main() -> None:
    work = json.loads(Path(sys.argv[1]).read_text())
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", work["base"]]
    command += ["--served-model-name", "base", "--dtype", "float32", "--enforce-eager", "--host", "127.0.0.1"]
    command += ["--port", str(work["port"]), "--max-model-len", str(work["longest"]), "--enable-lora"]
    loras = str(max(1, len(work["adapters"])))  # as many as a batch may have here, so that none has to wait for a place
    command += ["--max-loras", loras, "--max-lora-rank", "16", "--max-num-seqs", str(work["slots"])]
    command += ["--lora-modules", *(f"{n}={a['directory']}" for n, a in enumerate(work["adapters"]))]
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": "0-1",
        "OMP_NUM_THREADS": "2",
    }
    server = subprocess.Popen(command, env=environment, stdout=sys.stderr)
    try:
        while server.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{work['port']}/health", timeout=2).close()
                break
            except OSError:
                time.sleep(0.5)
        print("ready", flush=True)
        server.wait()
    finally:
        server.kill()


if __name__ == "__main__":
    main()
