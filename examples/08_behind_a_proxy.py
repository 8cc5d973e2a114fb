"""Behind a proxy: through its tunnel drops are still told, but not when the server hung up: that FIN is the proxy's."""

import sys
import time

import requests

import pool_telemetry
from misbehaving import Proxy, Server

pool_telemetry.install()

with Server(tls="1.3", keepalive=0.3) as server, Proxy() as proxy, requests.Session() as session:
    session.trust_env, session.verify, session.proxies = False, server.ca_file, {"https": proxy.url}
    for number in range(8):
        session.get(f"{server.url}/ok")
        while len(server.books.idle_closes) <= number:
            time.sleep(0.2)
        time.sleep(0.2)  # for the proxy to pass it on

    pool_telemetry.report(sys.stdout)
