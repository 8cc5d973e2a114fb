"""TLS with late messages: a live connection looks dropped, for a message of TLS 1.3 came after the response."""

import sys
import time

import requests

import pool_telemetry
from misbehaving import Server

pool_telemetry.install()

with Server(tls="1.3") as server, requests.Session() as session:
    session.trust_env, session.verify = False, server.ca_file
    for _ in range(8):
        session.get(f"{server.url}/late-handshake/0.05")
        time.sleep(0.4)

    pool_telemetry.report(sys.stdout)
