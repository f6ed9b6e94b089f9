"""Signed requests to an S3-compatible store, by botocore's signer. Importing that takes time and memory, so this module
is loaded only when something is stored."""

from collections.abc import Sequence
from urllib.parse import quote

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials


def put_request(
    endpoint: str,
    bucket: str,
    region: str,
    access_key_id: str,
    secret_access_key: str,
    name: str,
    headers: Sequence[tuple[str, str]],
    body: bytes,
) -> tuple[str, list[tuple[str, str]]]:
    """URL and headers of a PUT that stores the body under this name, with the bucket in the path (Signature Version 4).
    `endpoint` has no slash at its end."""
    url = f"{endpoint}/{quote(bucket, safe='')}/{quote(name, safe='/-_.~')}"
    request = AWSRequest("PUT", url, data=body, headers=dict(headers))
    S3SigV4Auth(Credentials(access_key_id, secret_access_key), "s3", region).add_auth(request)
    return url, [(name.lower(), value) for name, value in request.headers.items()]
