"""transformers + peft behind the smallest server: python transformers_server.py WORK.json

What waits is generated as one padded batch, each row with its own adapter (peft's `adapter_names`); an answer goes out
when its batch is done, since generate has no way to stream several rows.
"""

import json
import queue
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

waiting: "queue.Queue[tuple[dict[str, Any], queue.Queue[str]]]" = queue.Queue()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer: queue.Queue[str] = queue.Queue()
        waiting.put((asked, answer))
        text = answer.get()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"data: " + json.dumps({"choices": [{"text": text}]}).encode() + b"\n\ndata: [DONE]\n\n")

    def log_message(self, *_: object) -> None:
        pass


def generate(model: PeftModel, tokenizer: AutoTokenizer, slots: int) -> None:
    while True:
        batch = [waiting.get()]
        while len(batch) < slots and not waiting.empty():
            batch.append(waiting.get())
        inputs = tokenizer([asked["prompt"] for asked, _ in batch], return_tensors="pt", padding=True)
        names = [asked["model"] if asked["model"] != "base" else "__base__" for asked, _ in batch]
        count = max(asked["max_tokens"] for asked, _ in batch)
        given = {"adapter_names": names} if set(names) != {"__base__"} else {}
        with torch.inference_mode():
            if not given:
                with model.disable_adapter():
                    out = model.generate(**inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False)
            else:
                out = model.generate(**inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False, **given)
        for row, (_, answer) in zip(out, batch, strict=True):
            answer.put(tokenizer.decode(row[inputs["input_ids"].shape[1] :]))


def main() -> None:
    work = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(work["threads"])
    tokenizer = AutoTokenizer.from_pretrained(work["base"], padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    base = AutoModelForCausalLM.from_pretrained(work["base"], dtype=torch.float32)
    first, *others = work["adapters"]
    model = PeftModel.from_pretrained(base, first["directory"], adapter_name="0")
    for number, adapter in enumerate(others, start=1):
        model.load_adapter(adapter["directory"], adapter_name=str(number))
    model.eval()
    server = ThreadingHTTPServer(("127.0.0.1", work["port"]), Handler)
    threading.Thread(target=generate, args=(model, tokenizer, work["slots"]), daemon=True).start()
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
