"""Keep-alive shorter than the gaps: each request comes a little later than the server is willing to wait."""

import sys
import time

import requests

import pool_telemetry
from misbehaving import Server

pool_telemetry.install()

with Server(keepalive=0.3) as server, requests.Session() as session:
    for number in range(8):
        session.get(f"{server.url}/ok")
        while len(server.books.idle_closes) <= number:  # whatever the program does meanwhile, it takes too long
            time.sleep(0.2)

    pool_telemetry.report(sys.stdout)
