"""Archives on a disk and on an S3 server of this machine."""

import os
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trajectories.archive import Place


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, Any]]:
    """Options that reach an S3 server which runs here."""
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as environment:
        for name in list(os.environ):
            if name.startswith("AWS_"):
                environment.delenv(name)
        environment.setenv("AWS_ACCESS_KEY_ID", "testing")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield {"client_kwargs": {"endpoint_url": f"http://{host}:{port}"}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            server.stop()


def closed_port(environment: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options for an object store that is away; it is not asked twice."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            environment.delenv(name)
    environment.setenv("AWS_ACCESS_KEY_ID", "testing")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
    environment.setenv("AWS_MAX_ATTEMPTS", "1")
    environment.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    return {"skip_instance_cache": True}


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty archive."""
    if request.param == "file":
        return Place(str(tmp_path / "archive"))
    options = request.getfixturevalue("s3")
    bucket = f"bucket-{uuid.uuid4().hex}"
    found = Place(f"s3://{bucket}/kept/here", **options)
    found._fs.mkdir(bucket)
    return found


@pytest.fixture
def local(tmp_path: Path) -> Place:
    return Place(str(tmp_path / "archive"))


Made = Callable[..., Any]
