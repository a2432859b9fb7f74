"""An S3-compatible store on loopback, for tests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

# What the store takes for credentials: anything.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "unguessable",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def object_store() -> Iterator[str]:
    """Serve a bucket for the time of the block; the URI of a place in it.

    The environment of this process holds the credentials meanwhile.
    """
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with patch.dict(os.environ, CREDENTIALS):
        server.start()
        try:
            host, port = server.get_host_and_port()
            endpoint = f"{host}:{port}"
            client = boto3.client("s3", endpoint_url=f"http://{endpoint}", region_name="us-east-1")
            client.create_bucket(Bucket="bucket")
            yield f"s3://bucket/runs?endpoint_override={endpoint}&scheme=http&region=us-east-1"
        finally:
            server.stop()
