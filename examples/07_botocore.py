"""botocore: its clients have pools of their own, which are watched like any other; here one that is too small."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import botocore.session
from botocore import UNSIGNED
from botocore.config import Config

import pool_telemetry
from misbehaving import Server

THREADS = 6
pool_telemetry.install()

with Server() as server:
    config = Config(max_pool_connections=2, signature_version=UNSIGNED, s3={"addressing_style": "path"})
    client = botocore.session.get_session().create_client(
        "s3", region_name="eu-central-1", endpoint_url=server.url, config=config
    )
    together = threading.Barrier(THREADS)

    def work(_: int) -> None:
        for _ in range(5):
            together.wait()
            client.get_object(Bucket="slow", Key="0.05")["Body"].read()

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(work, range(THREADS)))

    pool_telemetry.report(sys.stdout)
