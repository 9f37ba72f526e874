"""`make conformance`: real clients, old and new, against a live service; one line a check.

Each client runs in an environment of its own (`.venv-clients/`), from the outside, over HTTP. The service's trainer and
engine are scripted: what is under test is the wire. The real model goes the same ways in tests/journeys.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import identities
from tests.api.test_jobs import tune
from tests.live import ROOMY, LiveService, live_service
from tests.test_files import jsonl
from tunery.address import write_address

HERE = Path(__file__).parent
VENVS = HERE.parent.parent / ".venv-clients"

CLIENTS = {
    "openai-0.28": ("client_0_28.py", ["openai==0.28.1"]),
    "openai-1.12": ("client_1.py", ["openai==1.12.0", "httpx<0.28"]),
    "openai-1.109": ("client_1.py", ["openai==1.109.1"]),
    "openai-2.54": ("client_1.py", ["openai==2.54.0"]),
    "openai-3.54": ("client_1.py", ["openai==3.54.0"]),
}

CONTROL_CLIENTS = {
    "azure-mgmt-14.1": (
        "client_mgmt.py",
        ["azure-mgmt-cognitiveservices==14.1.0", "azure-identity==1.27.0", "openai==3.54.0", "requests"],
    ),
    "azure-identity": ("client_identity.py", ["azure-identity==1.27.0", "openai==3.54.0", "requests==2.34.2"]),
    "azure-cli-2.91": ("client_az.py", ["azure-cli==2.91.0"]),
}
"""Clients of the control plane: they sign in as `tunery env --az` says."""

NODE = "node-openai-6.49"
NODE_PACKAGES = ["openai@6.49.0"]
AZURITE = "azurite-3.35"
AZURITE_PACKAGES = ["azurite@3.35.0"]
AZURE_STORAGE = ["azure-storage-blob==12.31.1", "requests==2.34.2"]


def main() -> int:
    failures = 0
    with (
        tempfile.TemporaryDirectory() as home,
        live_service(Path(home), import_allow="127.0.0.1", **ROOMY) as service,
    ):
        training = Path(home) / "training_set.jsonl"
        training.write_bytes(b"\xef\xbb\xbf" + jsonl(20))
        environ = environment(service, training)
        for name, (script, requirements) in CLIENTS.items():
            failures += run(name, [str(python_with(name, requirements)), str(HERE / script)], environ)
        if shutil.which("npm"):
            folder = node_with(NODE, NODE_PACKAGES)
            failures += run(NODE, ["node", str(shutil.copy(HERE / "client_node.mjs", folder))], environ)
            azurite = {"AZURITE": str(node_with(AZURITE, AZURITE_PACKAGES) / "node_modules" / ".bin" / "azurite-blob")}
            command = [str(python_with("azure-storage", AZURE_STORAGE)), str(HERE / "client_azurite.py")]
            failures += run(AZURITE, command, environ | azurite)
        else:
            print("Node's client and Azurite are skipped: npm isn't installed")
        signed_in = environ | control_environment(service, Path(home))
        for name, (script, requirements) in CONTROL_CLIENTS.items():
            failures += run(name, [str(python_with(name, requirements)), str(HERE / script)], signed_in)
        if shutil.which("curl"):
            failures += run("curl", ["sh", str(HERE / "guide_curl.sh")], environ)
    print(f"{failures} failed" if failures else "all checks passed")
    return 1 if failures else 0


def environment(service: LiveService, training: Path) -> dict[str, str]:
    account = service.account
    return {
        "PATH": os.environ["PATH"],
        "AZURE_OPENAI_ENDPOINT": service.base,
        "AZURE_OPENAI_API_KEY": service.key,
        "TRAINING_FILE": str(training),
        "ARM": service.rooms.settings.tls_endpoint + account.arm_id,
        "ARM_TOKEN": service.token,
        "CA": str(service.ca),
        "NODE_EXTRA_CA_CERTS": str(service.ca),
    }


def control_environment(service: LiveService, home: Path) -> dict[str, str]:
    """What `tunery env --az` prints, a user who may do everything, and two tuned models."""
    write_address(service.rooms.settings, service.ca)
    command = [sys.executable, "-m", "tunery", "env", "--az", "--home", str(home)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    exports = dict(line.removeprefix("export ").split("=", 1) for line in printed if line.startswith("export "))
    lines = [line for line in printed if line.startswith("#   az ")]
    user = identities.make(service, "Owner", user=True)
    models = [tune(service).fine_tuned_model for _ in range(2)]
    return {
        **{name: value.strip("'") for name, value in exports.items()},
        "AZ_LINES": "\n".join(lines),
        "AZURE_CONFIG_DIR": str(home / "azure"),
        "AZURE_CORE_COLLECT_TELEMETRY": "0",
        "HOME": str(home),
        "TEST_USER": user.name,
        "TEST_PASSWORD": user.secret,
        "TUNED_MODEL": models[0],
        "SECOND_TUNED_MODEL": models[1],
    }


def python_with(name: str, requirements: list[str]) -> Path:
    python = VENVS / name / "bin" / "python"
    done = VENVS / name / "installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENVS / name)], check=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
        subprocess.run(command, check=True)
        done.touch()
    return python


def node_with(name: str, packages: list[str]) -> Path:
    """A folder with these packages: Node looks for them from the script that imports them."""
    folder = VENVS / name
    if not (folder / "installed").exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), *packages]
        subprocess.run(command, check=True)
        (folder / "installed").touch()
    return folder


def run(name: str, command: list[str], environ: dict[str, str]) -> int:
    """Failed checks of one client; its lines are `ok WHAT` or `FAILED WHAT: WHY`."""
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=900, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("ok ", "FAILED "))]
    for line in lines:
        print(f"{name:16} {line}")
    failed = sum(line.startswith("FAILED") for line in lines)
    if done.returncode != 0 or not lines:
        print(f"{name:16} FAILED to finish: {done.stderr.strip()[-800:]}")
        failed += 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
