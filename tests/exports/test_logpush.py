"""Log files at HTTP endpoints and in an S3 store, encrypted, each log exactly as often as specified."""

import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from farebox.calls.exports import delivering, log_push
from farebox.storage.notices import list_notices
from farebox.storage.sql import Connection, rows
from tests import processes
from tests.engines import ON_BOTH_ENGINES, read_now
from tests.exports import decrypt
from tests.exports.receiver import Received, Receiver
from tests.http.support import GATEWAY_FIELDS, http, result
from tests.sdks import boto3
from tests.support import Customer, Farebox

pytestmark = ON_BOTH_ENGINES

HEADERS = {"Authorization": "Bearer of-the-endpoint-0001"}


@pytest.fixture(scope="module")
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def destination(customer: Customer, method: str = "PUT", **body: Any) -> httpx.Response:
    url = f"{customer.api_url}/farebox/logpush"
    return http.request(method, url, json=body or None, headers=customer.headers)


def gateway(customer: Customer, gateway_id: str = "default", **fields: Any) -> httpx.Response:
    url = f"{customer.api_url}/ai-gateway/gateways/{gateway_id}"
    if http.get(url, headers=customer.headers).status_code == 404:
        body = GATEWAY_FIELDS | {"id": gateway_id} | fields
        return http.post(f"{customer.api_url}/ai-gateway/gateways", json=body, headers=customer.headers)
    return http.patch(url, json=fields, headers=customer.headers)


def push(farebox: Farebox) -> None:
    """Run a push round now, whichever process held the lease before."""
    database = farebox.services.database
    farebox.run(database.write(lambda connection: connection.execute("DELETE FROM leases WHERE name = ?", ("push",))))
    farebox.run(log_push.work(farebox.services))


def lines_of(file: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(file).splitlines()]


def ids(requests: list[Received]) -> list[str]:
    return [line["Farebox"]["id"] for request in requests for line in lines_of(request.body)]


def state(customer: Customer) -> dict[str, Any]:
    [found] = result(destination(customer, "GET"))["gateways"]
    return dict(found)


def test_logs_are_pushed_once_to_an_endpoint(customer: Customer, receiver: Receiver) -> None:
    assert destination(customer, type="http", url=f"{receiver.url}/logs?x=1", headers=HEADERS).status_code == 200
    assert gateway(customer, logpush=True).status_code == 200
    metadata = {"cf-aig-metadata": json.dumps({"team": "red"})}
    log_id = customer.chat(headers=metadata).headers["cf-aig-log-id"]
    customer.chat(headers={"cf-aig-collect-log": "false"})
    bare = customer.chat(headers={"cf-aig-collect-log-payload": "false"}).headers["cf-aig-log-id"]
    streamed = customer.chat(stream=True).headers["cf-aig-log-id"]
    push(customer.farebox)
    push(customer.farebox)
    assert ids(receiver.requests) == [log_id, bare, streamed], "unlogged calls are not pushed"
    [request] = receiver.requests
    assert (request.method, request.path) == ("POST", "/logs?x=1")
    assert request.headers["authorization"] == HEADERS["Authorization"]
    assert request.headers["content-encoding"] == "gzip"
    assert request.headers["farebox-file"].startswith("default/20")
    first, without, events = lines_of(request.body)
    log = result(http.get(f"{customer.api_url}/ai-gateway/gateways/default/logs/{log_id}", headers=customer.headers))
    assert first["Timestamp"] == log["created_at"]
    assert (first["Gateway"], first["Provider"], first["Model"], first["RequestedModel"]) == (
        "default", "demo", "demo-1", "demo-1",
    )  # fmt: skip
    assert (first["Endpoint"], first["StatusCode"], first["Cached"]) == (log["path"], 200, False)
    assert (first["Metrics"]["cost"], first["Metrics"]["durationMs"]) == (log["cost"], log["duration"])
    assert first["Farebox"]["charge_nanos"] == log["farebox"]["charge_nanos"] > 0
    assert first["Metadata"] == {"team": "red"}
    assert first["RequestBody"]["messages"][0]["content"] == "Hello there"
    assert first["ResponseBody"]["object"] == "chat.completion"
    assert (without["RequestBody"], without["ResponseBody"], without["Metadata"]) == ({}, {}, {})
    assert events["ResponseBody"].startswith("data: ")
    found = state(customer)
    assert (found["gateway_id"], found["waiting"], found["failures"], found["error"]) == ("default", 0, 0, None)
    assert found["delivered_at"] is not None


def test_metadata_and_bodies_are_encrypted(
    customer: Customer, receiver: Receiver, private_key: rsa.RSAPrivateKey, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """In Cloudflare's format: the program in the documentation decrypts it."""
    destination(customer, type="http", url=receiver.url)
    gateway(customer, logpush=True, logpush_public_key=pem(private_key))
    response = customer.chat("the secret words", headers={"cf-aig-metadata": json.dumps({"team": "of the reds"})})
    customer.chat()
    push(customer.farebox)
    [request] = receiver.requests
    assert b"secret words" not in gzip.decompress(request.body)
    assert b"of the reds" not in gzip.decompress(request.body)
    first, second = lines_of(request.body)
    keys = {line[name]["key"] for line in (first, second) for name in ("Metadata", "RequestBody", "ResponseBody")}
    assert len(keys) == 2, "each log has its own key"
    nonces = {line[name]["iv"] for line in (first, second) for name in ("Metadata", "RequestBody", "ResponseBody")}
    assert len(nonces) == 6
    (tmp_path / "key.pem").write_bytes(private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "logs.gz").write_bytes(request.body)
    decrypt.main(str(tmp_path / "key.pem"), str(tmp_path / "logs.gz"))
    shown = json.loads(capsys.readouterr().out.splitlines()[0])
    assert shown["Provider"] == "demo"
    assert json.loads(shown["Metadata"]) == {"team": "of the reds"}
    assert json.loads(shown["RequestBody"])["messages"][0]["content"] == "the secret words"
    assert json.loads(shown["ResponseBody"]) == response.json()


def test_a_failed_push_is_retried_with_the_same_file_and_reported_to_the_owner(
    customer: Customer, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivering, "_PAUSES_MS", (0, 0))
    destination(customer, type="http", url=receiver.url)
    gateway(customer, logpush=True)
    first = customer.chat().headers["cf-aig-log-id"]
    receiver.answers += [(500, {}, b"<Code>SlowDown</Code>")] * delivering.TOLD_AFTER
    for _ in range(delivering.TOLD_AFTER):
        push(customer.farebox)
    found = state(customer)
    assert (found["failures"], found["waiting"]) == (delivering.TOLD_AFTER, 1)
    assert found["error"] == "answered 500 (SlowDown)"
    notices, _ = read_now(
        customer.farebox.services.database, lambda connection: list_notices(connection, customer.account_id, 0, 10)
    )
    assert [(notice.kind, notice.content["what"]) for notice in notices] == [("export_failing", "logpush")]
    later = customer.chat().headers["cf-aig-log-id"]
    push(customer.farebox)
    names = [request.headers["farebox-file"] for request in receiver.requests]
    assert len(set(names[:-1])) == 1
    assert ids(receiver.requests[delivering.TOLD_AFTER :]) == [first, later]
    assert state(customer)["failures"] == 0


def test_an_unreachable_destination(customer: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner learns nothing about the operator's network; calls continue."""
    monkeypatch.setattr(delivering, "_PAUSES_MS", (60_000, 60_000))
    destination(customer, type="http", url="http://127.0.0.1:1/")
    gateway(customer, logpush=True)
    assert customer.chat().status_code == 200
    push(customer.farebox)
    error = state(customer)["error"]
    assert "cannot be reached" in error
    assert "refused" not in error.split(";")[0]
    push(customer.farebox)
    assert state(customer)["failures"] == 1, "not before its pause is over"


CHILD = """
import asyncio, sys
from pathlib import Path
from farebox.calls.exports import log_push
from farebox.clock import RandomIds, SystemClock
from farebox.runtime.opening import open_services
from farebox.settings import Settings, secret_key
from farebox.vault import Vault

log_push.EVERY_SECONDS = 0

async def main() -> None:
    settings = Settings(data_dir=sys.argv[1], database_url=sys.argv[2], custom_networks="127.0.0.0/8")
    clock = SystemClock()
    async with open_services(
        settings, clock=clock, ids=RandomIds(clock), vault=Vault(secret_key(settings)), base_url="", grace_seconds=1,
        serves=False,
    ) as services:
        await log_push.work(services)

asyncio.run(main())
"""


def test_a_process_that_is_killed_after_sending(customer: Customer, receiver: Receiver) -> None:
    """The receiver has the file, but that was not recorded: the next process sends the same file again, and no
    other."""
    settings = customer.farebox.services.settings
    destination(customer, type="http", url=receiver.url)
    gateway(customer, logpush=True)
    first = [customer.chat().headers["cf-aig-log-id"] for _ in range(2)]
    receiver.hang.set()
    child = processes.start([settings.data_dir, settings.database_url], env=os.environ, program=CHILD, stderr=2)
    receiver.wait_for(bool)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    receiver.hang.clear()
    receiver.go.set()
    later = customer.chat().headers["cf-aig-log-id"]
    push(customer.farebox)
    names = [request.headers["farebox-file"] for request in receiver.requests]
    assert [ids([request]) for request in receiver.requests] == [first, first, [later]]
    assert names[0] == names[1] != names[2]
    assert state(customer)["waiting"] == 0


def test_files_are_bounded(customer: Customer, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_push, "FILE_LOGS", 2)
    monkeypatch.setattr(log_push, "FILE_BYTES", 3_000)
    destination(customer, type="http", url=receiver.url)
    gateway(customer, logpush=True)
    made = [customer.chat().headers["cf-aig-log-id"] for _ in range(3)]
    made += [customer.chat("x" * 2_500).headers["cf-aig-log-id"] for _ in range(2)]
    push(customer.farebox)
    assert [len(lines_of(request.body)) for request in receiver.requests] == [2, 1, 1, 1]
    assert ids(receiver.requests) == made


def test_disabled_or_deleted_gateways_are_not_pushed(customer: Customer, receiver: Receiver) -> None:
    destination(customer, type="http", url=receiver.url)
    gateway(customer, logpush=True)
    deleted = customer.chat().headers["cf-aig-log-id"]
    kept = customer.chat().headers["cf-aig-log-id"]
    logs = f"{customer.api_url}/ai-gateway/gateways/default/logs"
    filters = json.dumps([{"key": "id", "operator": "eq", "value": [deleted]}])
    assert http.request("DELETE", logs, params={"filters": filters}, headers=customer.headers).status_code == 200
    push(customer.farebox)
    assert ids(receiver.requests) == [kept]
    customer.chat()
    gateway(customer, logpush=False)
    push(customer.farebox)
    assert len(receiver.requests) == 1

    def waiting(connection: Connection) -> list[Any]:
        return list(rows(connection, "SELECT 1 FROM calls WHERE push = 1 AND account_id = ?", (customer.account_id,)))

    assert not read_now(customer.farebox.services.database, waiting)


def test_it_needs_a_destination_and_a_destination_is_needed(
    customer: Customer, receiver: Receiver, private_key: rsa.RSAPrivateKey
) -> None:
    refused = gateway(customer, logpush=True)
    [error] = refused.json()["errors"]
    assert (refused.status_code, error["path"]) == (400, ["body", "logpush"])
    assert "farebox/logpush" in error["message"]
    assert result(destination(customer, "GET")) == {"destination": None, "gateways": []}
    assert destination(customer, "DELETE").status_code == 404
    for key in ("x" * 16, pem(ec.generate_private_key(ec.SECP256R1())), pem(rsa.generate_private_key(65537, 1024))):
        [error] = gateway(customer, logpush_public_key=key).json()["errors"]
        assert error["path"] == ["body", "logpush_public_key"]
    assert result(gateway(customer, logpush_public_key=pem(private_key)))["logpush_public_key"] == pem(private_key)

    made = result(destination(customer, type="http", url=receiver.url, headers=HEADERS))["destination"]
    assert made["headers"] == {"authorization": "…0001"}
    assert "of-the-endpoint" not in json.dumps(made)
    again = destination(customer, type="http", url=receiver.url, headers={"authorization": "…0001"})
    assert result(again)["destination"]["headers"] == made["headers"]
    moved = destination(customer, type="http", url=f"{receiver.url}/b", headers={"authorization": "…0001"})
    assert moved.status_code == 400, "a secret stored for one URL is sent to no other"
    result(gateway(customer, logpush=True))
    in_use = destination(customer, "DELETE")
    assert (in_use.status_code, in_use.json()["errors"][0]["path"]) == (400, ["path", "logpush"])
    assert "default" in in_use.json()["errors"][0]["message"]
    gateway(customer, logpush=False)
    assert result(destination(customer, "DELETE"))["destination"] is None


@pytest.mark.parametrize(
    ("body", "path", "message"),
    [
        ({"type": "http", "url": "https://10.0.0.1/"}, ["body", "url"], "may not be called"),
        ({"type": "http", "url": "https://example.com", "bucket": "b"}, ["body"], "for `s3`"),
        ({"type": "s3", "url": "https://example.com/path", "bucket": "b"}, ["body", "url"], "Only the endpoint"),
        ({"type": "s3", "url": "https://example.com", "bucket": "../b"}, ["body", "bucket"], "Expected the bucket"),
        ({"type": "s3", "url": "https://example.com", "bucket": "logs", "region": "r", "prefix": "a b",
          "access_key_id": "a", "secret_access_key": "b"}, ["body", "prefix"], "Expected up to 256 letters"),
        ({"type": "s3", "url": "https://example.com", "bucket": "logs", "region": "r", "access_key_id": "a",
          "secret_access_key": ""}, ["body", "secret_access_key"], "Send the whole key"),
        ({"type": "s3", "url": "https://example.com"}, ["body", "bucket"], "Required: the bucket's name"),
        ({"type": "ftp", "url": "https://example.com"}, ["body", "type"], "Expected 'http' | 's3'"),
    ],
)  # fmt: skip
def test_invalid_destinations_are_refused(
    customer: Customer, body: dict[str, Any], path: list[str], message: str
) -> None:
    refused = destination(customer, **body)
    assert refused.status_code == 400
    (error,) = refused.json()["errors"]
    assert error["path"] == path
    assert message in error["message"]


class Store:
    """An S3 store with one bucket, which checks signatures and permissions."""

    def __init__(self, host: str, port: int) -> None:
        self.url = f"http://{host}:{port}"
        with self._client("s3", "any", "any") as s3:
            s3.create_bucket(Bucket="logs")
        statement = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        with self._client("iam", "any", "any") as iam:
            iam.create_user(UserName="pusher")
            iam.put_user_policy(UserName="pusher", PolicyName="push", PolicyDocument=policy)
            key = iam.create_access_key(UserName="pusher")["AccessKey"]
        self.access_key_id, self.secret_access_key = key["AccessKeyId"], key["SecretAccessKey"]

    def _client(self, service: str, key: str, secret: str) -> Any:
        return contextlib.closing(
            boto3.client(
                service,
                endpoint_url=self.url,
                region_name="us-east-1",
                aws_access_key_id=key,
                aws_secret_access_key=secret,
            )
        )

    def objects(self) -> dict[str, bytes]:
        with self._client("s3", self.access_key_id, self.secret_access_key) as s3:
            names = [item["Key"] for item in s3.list_objects_v2(Bucket="logs").get("Contents", [])]
            return {name: self._content(s3, name) for name in names}

    def _content(self, s3: Any, name: str) -> bytes:
        with contextlib.closing(s3.get_object(Bucket="logs", Key=name)["Body"]) as body:
            content: bytes = body.read()
        return content

    def settings(self, **more: str) -> dict[str, str]:
        return {
            "type": "s3",
            "url": self.url,
            "bucket": "logs",
            "region": "us-east-1",
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
        } | more


@pytest.fixture(scope="session")
def store() -> Iterator[Store]:
    # Not with the module, which every test process imports: see tests.sdks.
    import moto.settings
    from moto.core.decorator import mock_aws  # noqa: F401 - loads moto before its server
    from moto.core.responses import ActionAuthenticatorMixin  # type: ignore[attr-defined]
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    made = Store(*server.get_host_and_port())
    ActionAuthenticatorMixin.request_count = 0
    moto.settings.INITIAL_NO_AUTH_ACTION_COUNT = 0.0
    yield made
    moto.settings.INITIAL_NO_AUTH_ACTION_COUNT = float("inf")
    server.stop()


def test_logs_are_pushed_to_a_bucket(customer: Customer, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivering, "_PAUSES_MS", (0, 0))
    wrong = store.settings(prefix=f"{customer.account_id}/a=b/", secret_access_key="not-the-secret-of-the-key")
    shown = result(destination(customer, **wrong))["destination"]
    assert shown["secret_access_key"] == "…-key"
    gateway(customer, logpush=True)
    log_id = customer.chat().headers["cf-aig-log-id"]
    push(customer.farebox)
    assert state(customer)["error"] == "answered 403 (SignatureDoesNotMatch)"
    made = result(destination(customer, **store.settings(prefix=f"{customer.account_id}/a=b/")))["destination"]
    push(customer.farebox)
    assert state(customer)["error"] is None
    [(name, file)] = [item for item in store.objects().items() if item[0].startswith(customer.account_id)]
    assert name.startswith(f"{customer.account_id}/a=b/default/20")
    assert [line["Farebox"]["id"] for line in lines_of(file)] == [log_id]
    unchanged = store.settings(prefix="other/", secret_access_key=made["secret_access_key"])
    assert destination(customer, **unchanged).status_code == 200
    customer.chat()
    push(customer.farebox)
    assert state(customer)["waiting"] == 0
    assert any(name.startswith("other/default/") for name in store.objects())
    body = http.get(f"{customer.api_url}/farebox/logpush", headers=customer.headers).text
    assert store.secret_access_key not in body


def test_rarely_needed_modules_are_loaded_on_use() -> None:
    few = ("botocore", "google.protobuf", "opentelemetry", "webauthn", "authlib", "joserfc", "jinja2")
    code = f"import sys, farebox.app, farebox.periodic_jobs; print([name for name in {few} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
