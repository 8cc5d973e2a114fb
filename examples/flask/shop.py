"""A page that asks an upstream, as many do: `make flask` starts both. Two lines are about pool_telemetry."""

import time

import requests
from flask import Flask, render_template

import web
from pool_telemetry.flask import PoolTelemetry

app = Flask(__name__)
app.config["POOL_TELEMETRY_EXPORT"] = True
PoolTelemetry(app)

if not web.is_exporting():
    web.show_spans_on_console()  # in the place of your own set-up of OpenTelemetry, if you have one

# One for all requests, so that they share its connections. With a new one for each there would be nothing to reuse.
session = requests.Session()


@app.get("/")
def page() -> str:
    """What the upstream says, and how long it took to say it."""
    started = time.perf_counter()
    answer = session.get(web.upstream_url(), timeout=5)
    took = time.perf_counter() - started
    return render_template(
        "page.html", answer=answer.text, took=took, keepalive=web.KEEPALIVE, is_exporting=web.is_exporting()
    )
