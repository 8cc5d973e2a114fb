"""The lost race: the server hangs up between urllib3's look at the connection and the request's arrival."""

import sys

import requests

import pool_telemetry
from misbehaving import Server

pool_telemetry.install()

with Server() as server, requests.Session() as session:
    for _ in range(4):
        session.get(f"{server.url}/lost")
        try:
            session.get(f"{server.url}/lost")  # of each connection it answers the first request only
        except requests.ConnectionError as error:
            print(error)

    pool_telemetry.report(sys.stdout)
