"""A pool that is too small: six threads share a Session that keeps two connections, and open new ones all the time."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import requests
from requests.adapters import HTTPAdapter

import pool_telemetry
from misbehaving import Server

THREADS = 6
pool_telemetry.install()

with Server() as server, requests.Session() as session:
    session.mount("http://", HTTPAdapter(pool_maxsize=2))
    together = threading.Barrier(THREADS)

    def work(_: int) -> None:
        for _ in range(5):
            together.wait()
            session.get(f"{server.url}/slow/0.05")

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(work, range(THREADS)))

    pool_telemetry.report(sys.stdout)
