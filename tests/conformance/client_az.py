"""The Azure CLI, unmodified: set up by the lines that `tunery env --az` prints, then the guide's commands and more.

Runs with the Python of the environment that azure-cli is installed in.
"""

import json
import os
import re
import ssl
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

from checks import Checks, until

AZ = str(Path(sys.executable).with_name("az"))
GROUP, ACCOUNT, SUBSCRIPTION = (
    os.environ[f"TUNERY_{name}"] for name in ("RESOURCE_GROUP", "ACCOUNT", "SUBSCRIPTION_ID")
)
ARM = os.environ["TUNERY_ARM_ENDPOINT"]
MODEL, SECOND_MODEL = os.environ["TUNED_MODEL"], os.environ["SECOND_TUNED_MODEL"]
ID = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.CognitiveServices/accounts/{ACCOUNT}"
HERE = ["-g", GROUP, "-n", ACCOUNT]
check = Checks()


class Failed(Exception):
    """az ended with another exit code than 0."""


def az(*words):
    """What the command printed, read as JSON where it printed any."""
    done = subprocess.run([AZ, *words], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise Failed(f"exit {done.returncode}: {done.stderr.strip()[-600:]}")
    return json.loads(done.stdout) if done.stdout.strip() else None


def cognitive(*words):
    return az("cognitiveservices", *words)


def refused(words, code, exit_code=1):
    """The command ends with the exit code and says ARM's code."""
    try:
        az(*words)
    except Failed as error:
        assert f"exit {exit_code}" in str(error) and code in str(error), error
    else:
        raise AssertionError(f"az {' '.join(words)} went through")


def create_deployment(name, model, *more):
    """As the guide writes it."""
    words = ["account", "deployment", "create", "--resource-group", GROUP, "--name", ACCOUNT, "--deployment-name", name]
    words += ["--model-name", model, "--model-version", "1", "--model-format", "OpenAI"]
    return cognitive(*words, "--sku-capacity", "1", "--sku-name", "Standard", *more)


def deployed(name, account=ACCOUNT):
    shown = lambda: cognitive("account", "deployment", "show", "-g", GROUP, "-n", account, "--deployment-name", name)  # noqa: E731
    found = until(shown, lambda one: one["properties"]["provisioningState"] != "Creating")
    assert found["properties"]["provisioningState"] == "Succeeded", found
    return found


def approve(page, form):
    """What the user does on the page that az names."""
    context = ssl.create_default_context(cafile=os.environ["REQUESTS_CA_BUNDLE"])
    data = urllib.parse.urlencode(form).encode()
    with urllib.request.urlopen(page, data, timeout=30, context=context) as answer:
        assert "Done" in answer.read().decode()


@check("cloud register, cloud set, login --service-principal: the printed lines as they are")
def set_up():
    for line in os.environ["AZ_LINES"].splitlines():
        command = line.lstrip("# ").replace("az ", f"{AZ} ", 1)
        subprocess.run(["sh", "-ec", command], check=True, capture_output=True, text=True, timeout=120)


@check("account show, account set, account list --refresh")
def accounts():
    assert az("account", "show")["id"] == SUBSCRIPTION
    az("account", "set", "--subscription", SUBSCRIPTION)
    assert SUBSCRIPTION in [one["id"] for one in az("account", "list", "--refresh")]


@check("account get-access-token for ARM and for the data plane, by resource and by scope")
def tokens():
    assert az("account", "get-access-token")["tokenType"] == "Bearer"
    resource = "https://cognitiveservices.azure.com"
    for words in (["--resource", resource], ["--scope", f"{resource}/.default"]):
        token = az("account", "get-access-token", *words)["accessToken"]
        path = "/openai/models?api-version=2024-10-21"
        request = urllib.request.Request(
            os.environ["AZURE_OPENAI_ENDPOINT"] + path, headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert MODEL in answer.read().decode()


@check("account list-locations")
def locations():
    assert "local" in [one["name"] for one in az("account", "list-locations")]


@check("group list, create, show, exists, delete")
def groups():
    assert GROUP in [one["name"] for one in az("group", "list")]
    assert az("group", "create", "-n", "az-group", "-l", "swedencentral")["location"] == "swedencentral"
    assert az("group", "show", "-n", "az-group")["properties"]["provisioningState"] == "Succeeded"
    assert az("group", "exists", "-n", "az-group") is True
    az("group", "delete", "-n", "az-group", "--yes")
    assert az("group", "exists", "-n", "az-group") is False


@check("cognitiveservices account show")
def account():
    assert cognitive("account", "show", *HERE)["id"] == ID


@check("cognitiveservices account list, of the group and of the subscription")
def account_list():
    for words in ([], ["-g", GROUP]):
        assert ACCOUNT in [one["name"] for one in cognitive("account", "list", *words)]


@check("cognitiveservices account keys list, keys regenerate")
def keys():
    old = cognitive("account", "keys", "list", *HERE)
    assert old["key1"] == os.environ["AZURE_OPENAI_API_KEY"]
    new = cognitive("account", "keys", "regenerate", *HERE, "--key-name", "key2")
    assert new["key1"] == old["key1"] and new["key2"] != old["key2"]


@check("cognitiveservices account list-models: the tuned model and its base")
def models():
    found = {one["name"]: one for one in cognitive("account", "list-models", *HERE)}
    assert found[MODEL]["source"] == ID and "gpt-35-turbo" in found


@check("cognitiveservices account list-usage, list-skus, list-kinds")
def offers():
    assert all(one["currentValue"] <= one["limit"] for one in cognitive("account", "list-usage", *HERE))
    assert "S0" in json.dumps(cognitive("account", "list-skus", *HERE))
    assert "S0" in json.dumps(cognitive("account", "list-skus", "--kind", "OpenAI", "--location", "local"))
    assert "OpenAI" in cognitive("account", "list-kinds")


@check("cognitiveservices model list, usage list")
def of_location():
    assert "gpt-4o-mini" in [one["model"]["name"] for one in cognitive("model", "list", "-l", "local")]
    assert cognitive("usage", "list", "-l", "local")[0]["currentValue"] >= 1


@check("cognitiveservices account deployment create, the guide's words")
def deployment():
    made = create_deployment("gpt-35-turbo-ft", MODEL)
    assert made["properties"]["model"]["name"] == MODEL and made["sku"]["capacity"] == 1
    assert create_deployment("gpt-35-turbo-ft", MODEL)["name"] == "gpt-35-turbo-ft"


@check("cognitiveservices account deployment show until it has succeeded")
def deployment_show():
    assert deployed("gpt-35-turbo-ft")["properties"]["model"]["version"] == "1"


@check("cognitiveservices account deployment list")
def deployment_list():
    found = cognitive("account", "deployment", "list", *HERE)
    assert "gpt-35-turbo-ft" in [one["name"] for one in found]


@check("a second deployment of the model: (DuplicatedDeploymentForSameModel), exit 1")
def duplicate():
    words = ["cognitiveservices", "account", "deployment", "create", *HERE, "--deployment-name", "again"]
    words += ["--model-name", MODEL, "--model-version", "1", "--model-format", "OpenAI"]
    refused([*words, "--sku-capacity", "1", "--sku-name", "Standard"], "DuplicatedDeploymentForSameModel")


@check("an unknown model: (DeploymentModelNotSupported), exit 1")
def unknown_model():
    words = ["cognitiveservices", "account", "deployment", "create", *HERE, "--deployment-name", "bad"]
    words += ["--model-name", "missing", "--model-version", "1", "--model-format", "OpenAI"]
    refused([*words, "--sku-capacity", "1", "--sku-name", "Standard"], "DeploymentModelNotSupported")


@check("an unknown deployment or account: (ResourceNotFound), exit 3")
def unknown_deployment():
    words = ["cognitiveservices", "account", "deployment", "show", *HERE, "--deployment-name", "nope"]
    refused(words, "ResourceNotFound", exit_code=3)
    refused(["cognitiveservices", "account", "show", "-g", GROUP, "-n", "nope"], "ResourceNotFound", exit_code=3)


@check("cognitiveservices account create, update, keys of it")
def second_account():
    words = ["-g", GROUP, "-n", "az-second", "--kind", "OpenAI", "--sku", "S0", "-l", "swedencentral", "--yes"]
    made = cognitive("account", "create", *words, "--custom-domain", "az-second")
    assert made["properties"]["endpoint"] == f"{ARM}/accounts/az-second/"
    changed = cognitive("account", "update", "-g", GROUP, "-n", "az-second", "--tags", "team=one")
    assert changed["tags"] == {"team": "one"}
    assert cognitive("account", "keys", "list", "-g", GROUP, "-n", "az-second")["key1"]


@check("deployment create --model-source: the model of another account")
def sourced():
    words = ["account", "deployment", "create", "-g", GROUP, "-n", "az-second", "--deployment-name", "far"]
    words += ["--model-name", MODEL, "--model-version", "1", "--model-format", "OpenAI", "--model-source", ID]
    cognitive(*words, "--sku-capacity", "1", "--sku-name", "Standard")
    assert deployed("far", "az-second")["properties"]["model"]["source"] == ID


@check("an account with a deployment isn't deleted: (CannotDeleteResource), exit 1")
def account_in_use():
    refused(["cognitiveservices", "account", "delete", "-g", GROUP, "-n", "az-second"], "CannotDeleteResource")


@check("account delete once its deployment is gone")
def account_deleted():
    cognitive("account", "deployment", "delete", "-g", GROUP, "-n", "az-second", "--deployment-name", "far")
    cognitive("account", "delete", "-g", GROUP, "-n", "az-second")
    assert "az-second" not in [one["name"] for one in cognitive("account", "list")]


@check("az rest: get, put and delete of a deployment")
def rest():
    path = ID.replace(SUBSCRIPTION, "{subscriptionId}") + "/deployments"
    version = "?api-version=2023-05-01"
    found = az("rest", "--method", "get", "--url", path + version)
    assert "gpt-35-turbo-ft" in [one["name"] for one in found["value"]]
    model = {"format": "OpenAI", "name": SECOND_MODEL, "version": "1"}
    body = json.dumps({"sku": {"name": "standard", "capacity": 1}, "properties": {"model": model}})
    az("rest", "--method", "put", "--url", f"{ARM}{path}/by-rest{version}", "--body", body)
    deployed("by-rest")
    az("rest", "--method", "delete", "--url", f"{path}/by-rest{version}")


@check("az resource show, of an account and of a deployment")
def resource():
    assert az("resource", "show", "--ids", ID)["kind"] == "OpenAI"
    assert az("resource", "show", "--ids", ID + "/deployments/gpt-35-turbo-ft")["sku"]["name"] == "Standard"


@check("deployment delete, of one that is there and of one that isn't")
def deployment_deleted():
    for name in ("gpt-35-turbo-ft", "nope"):
        cognitive("account", "deployment", "delete", *HERE, "--deployment-name", name)
    assert cognitive("account", "deployment", "list", *HERE) == []


@check("login with user name and password")
def password():
    az("logout")
    user = ["-u", os.environ["TEST_USER"], "-p", os.environ["TEST_PASSWORD"]]
    az("login", *user, "--tenant", os.environ["TUNERY_TENANT_ID"])
    assert cognitive("account", "show", *HERE)["id"] == ID


@check("login with a device code")
def device_code():
    az("logout")
    command = [AZ, "login", "--use-device-code", "--tenant", os.environ["TUNERY_TENANT_ID"]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as login:
        said = ""
        while (found := re.search(r"(https://\S+) and enter the code (\S+?)[. ]", said)) is None:
            line = login.stderr.readline()
            assert line, said
            said += line
        form = {"user_code": found[2], "username": os.environ["TEST_USER"], "password": os.environ["TEST_PASSWORD"]}
        approve(found[1], form)
        out, err = login.communicate(timeout=120)
        assert login.returncode == 0, err
    assert json.loads(out)[0]["id"] == SUBSCRIPTION
    assert cognitive("account", "show", *HERE)["id"] == ID


@check("a wrong secret: exit 1")
def wrong_secret():
    az("account", "clear")  # az of 2024 would go on with the token that it kept of the right secret
    who = ["--service-principal", "-u", os.environ["TUNERY_CLIENT_ID"], "-p", "wrong"]
    refused(["login", *who, "--tenant", os.environ["TUNERY_TENANT_ID"]], "its secret is wrong")
