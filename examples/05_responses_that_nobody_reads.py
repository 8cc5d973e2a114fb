"""Leaked responses: a streamed body that is not read to its end takes a connection along, and its place in the pool."""

import sys

import requests
from requests.adapters import HTTPAdapter

import pool_telemetry
from misbehaving import Server

pool_telemetry.install()

with Server() as server, requests.Session() as session:
    session.mount("http://", HTTPAdapter(pool_maxsize=4, pool_block=True))
    for _ in range(3):
        response = session.get(f"{server.url}/big/1000000", stream=True)
        if response.headers["Content-Length"] != "0":
            del response  # neither read nor closed: of four places three are gone now
    session.get(f"{server.url}/ok")

    pool_telemetry.report(sys.stdout)
