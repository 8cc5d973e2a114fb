"""Clients that are built on urllib3: they get what they get without us, and all that their pools do is told."""

from __future__ import annotations

import contextlib
import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from urllib3.connection import HTTPConnection

from tests.companions.service import Service, serving
from tests.live.wire import drops, wait_for_peer
from tests.support import Telemetry, check_laws

Call = Callable[[], Any]


def botocore_client(service: Service) -> Call:
    botocore_session = pytest.importorskip("botocore.session", reason="missing: botocore")
    s3 = botocore_session.Session().create_client(
        "s3", "eu-central-1", endpoint_url=service.url, aws_access_key_id="nobody", aws_secret_access_key="nothing"
    )
    return lambda: s3.get_object(Bucket="bucket", Key="key")["Body"].read()


def elasticsearch_client(service: Service) -> Call:
    elasticsearch = pytest.importorskip("elasticsearch", reason="missing: elasticsearch")
    client = elasticsearch.Elasticsearch(service.url, max_retries=0)
    return lambda: client.info().body


def kubernetes_client(service: Service) -> Call:
    kubernetes = pytest.importorskip("kubernetes.client", reason="missing: kubernetes")
    api = kubernetes.CoreV1Api(kubernetes.ApiClient(kubernetes.Configuration(host=service.url)))
    return lambda: [pod.metadata.name for pod in api.list_namespaced_pod("default").items]


def docker_client(service: Service) -> Call:
    docker = pytest.importorskip("docker", reason="missing: docker")
    client = docker.APIClient(f"unix://{service.unix_path}", version="1.44")
    return lambda: client._result(client._get(client._url("/_ping")))


def requests_unixsocket_client(service: Service) -> Call:
    requests_unixsocket = pytest.importorskip("requests_unixsocket", reason="missing: requests-unixsocket")
    session = requests_unixsocket.Session()
    session.trust_env = False
    return lambda: session.get(f"http+unix://{quote(str(service.unix_path), safe='')}/ping").text


TCP: dict[str, Callable[[Service], Call]] = {
    "botocore": botocore_client,
    "elasticsearch": elasticsearch_client,
    "kubernetes": kubernetes_client,
}
UNIX: dict[str, Callable[[Service], Call]] = {
    "docker": docker_client,
    "requests-unixsocket": requests_unixsocket_client,
}


@contextlib.contextmanager
def service_for(name: str) -> Iterator[Service]:
    if name in TCP:
        with serving() as service:
            yield service
    else:
        with (
            tempfile.TemporaryDirectory(prefix="unix-") as folder,  # a unix socket's path is short
            serving(unix_path=os.path.join(folder, "s")) as service,
        ):
            yield service


def use(name: str, service: Service) -> list[Any]:
    """What the client gets of three calls; the service hangs up after the first."""
    before = set(map(id, connections()))
    call = {**TCP, **UNIX}[name](service)
    service.hang_up_after = {service.requests + 1}
    answers = [call()]
    (conn,) = [each for each in connections() if id(each) not in before and each.sock is not None]
    wait_for_peer(conn.sock)
    answers += [call(), call()]
    return answers


def connections() -> list[HTTPConnection]:
    # Not by isinstance(), which asks lazy objects of others for what they stand for.
    return [each for each in gc.get_objects() if issubclass(type(each), HTTPConnection)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")  # of theirs
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # not all of them can be closed
@pytest.mark.parametrize("name", [*TCP, *UNIX])
def test_a_client_gets_what_it_gets_without_us_and_its_drop_is_told(telemetry: Telemetry, name: str) -> None:
    with service_for(name) as service:
        expected = use(name, service)
        telemetry.install()
        assert use(name, service) == expected
        gc.collect()
        metrics = telemetry.collect()
        where = {"server.address": service.unix_path or "127.0.0.1"}
        assert all(point.attributes.items() >= where.items() for point in metrics.points("urllib3.pool.checkouts"))
        check_laws(metrics, checkouts=3)
        outcomes = metrics.by("urllib3.pool.checkouts", "outcome")
        assert outcomes == {"new": 1, "replaced": 1, "reused": 1}
        assert drops(metrics) == {("fin", "checkout"): 1}
