"""A Session for every request, as requests.get() makes one: each pays for a connection that nobody will use again."""

import sys

import requests

import pool_telemetry
from misbehaving import Server

pool_telemetry.install()

with Server() as server:
    for _ in range(25):
        requests.get(f"{server.url}/ok")

    pool_telemetry.report(sys.stdout)
