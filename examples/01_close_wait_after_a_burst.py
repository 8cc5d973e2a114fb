"""CLOSE_WAIT after a burst: eight threads ask at once, then one does, and nobody looks at the other seven."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import requests

import pool_telemetry
from misbehaving import Server

pool_telemetry.install()

with Server(keepalive=0.5) as server, requests.Session() as session:
    with ThreadPoolExecutor(8) as threads:
        for _ in range(8):
            threads.submit(session.get, f"{server.url}/slow/0.3")
    while len(server.books.idle_closes) < 8:  # the server hangs up on all of them
        time.sleep(0.2)

    # A pool hands out what came back last: from now on one connection does all the work.
    for _ in range(20):
        session.get(f"{server.url}/ok")

    pool_telemetry.report(sys.stdout)
