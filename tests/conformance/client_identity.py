"""azure-identity at the built-in authority, and what its tokens open: ARM by requests, the data plane by openai."""

import os
import threading

import openai
import requests
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import ClientSecretCredential, DeviceCodeCredential, get_bearer_token_provider
from checks import Checks

ARM = os.environ["TUNERY_ARM_ENDPOINT"]
DATA_SCOPE = "https://cognitiveservices.azure.com/.default"
AUTHORITY = {"authority": ARM, "tenant_id": "adfs"}
VERSION = {"api-version": "2023-05-01"}
check = Checks()


def robot(secret):
    return ClientSecretCredential(client_id=os.environ["TUNERY_CLIENT_ID"], client_secret=secret, **AUTHORITY)


def deployments(credential):
    headers = {"Authorization": "Bearer " + credential.get_token(ARM + "/.default").token}
    answer = requests.get(os.environ["ARM"] + "/deployments", params=VERSION, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text


@check("ClientSecretCredential signs in, and its token opens ARM")
def client_secret():
    deployments(robot(os.environ["TUNERY_CLIENT_SECRET"]))


@check("a wrong secret is a ClientAuthenticationError")
def wrong_secret():
    try:
        robot("wrong").get_token(ARM + "/.default")
    except ClientAuthenticationError as error:
        assert "wrong" in str(error)
        return
    raise AssertionError("no error")


@check("openai takes azure_ad_token_provider on the data plane")
def token_provider():
    provider = get_bearer_token_provider(robot(os.environ["TUNERY_CLIENT_SECRET"]), DATA_SCOPE)
    client = openai.AzureOpenAI(
        azure_endpoint=os.environ["AZURE_OPENAI_ENDPOINT"], azure_ad_token_provider=provider, api_version="2024-10-21"
    )
    assert client.models.list().data


def approve(uri, user_code, _expires):
    form = {"user_code": user_code, "username": os.environ["TEST_USER"], "password": os.environ["TEST_PASSWORD"]}
    threading.Thread(target=requests.post, args=(uri,), kwargs={"data": form, "timeout": 30}).start()


@check("DeviceCodeCredential signs a user in, approved on the page")
def device_code():
    deployments(DeviceCodeCredential(prompt_callback=approve, **AUTHORITY))
