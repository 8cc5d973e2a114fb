"""A small fleet whose pools go wrong all the time, to be scraped: `make prometheus` in the root of the checkout.

Two processes, of which each has a page of metrics, and one upstream that misbehaves. It goes on until Ctrl-C.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pool_telemetry
from misbehaving import ServerProcess

from .story import Shop

PAUSE = 5.0  # seconds between two rounds


def settings() -> dict[str, str]:
    """What ``.env`` holds, which ``compose.yaml`` reads as well."""
    lines = Path(__file__).with_name(".env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def work(url: str) -> None:
    """One process of the fleet: as any program does that has no OpenTelemetry of its own."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # its warnings of each round would hide what matters
    pool_telemetry.install(export=True, metrics="all", spans="off")
    with Shop(url) as shop:
        while True:
            shop.play()
            time.sleep(PAUSE)


def environment(port: str) -> dict[str, str]:
    """The standard variables that have a process's metrics scraped from this port of the machine's own."""
    return {
        "OTEL_METRICS_EXPORTER": "prometheus",
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
        "OTEL_EXPORTER_PROMETHEUS_PORT": port,
    }


def main() -> int:
    """Gives the exit code: that of the first process that ends by itself."""
    ports = {**settings(), **os.environ}["APP_PORTS"].split(",")
    with ServerProcess() as upstream, contextlib.ExitStack() as fleet:
        command = [sys.executable, "-m", __spec__.name, upstream.url]
        processes = []
        for port in ports:
            processes.append(fleet.enter_context(subprocess.Popen(command, env={**os.environ, **environment(port)})))
            fleet.callback(processes[-1].terminate)
        pages = " and ".join(f"http://localhost:{port}/metrics" for port in ports)
        print(f"{len(ports)} processes tell at {pages} what their pools do. Ctrl-C ends them.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while all(process.poll() is None for process in processes):
                time.sleep(0.1)
            return next(process.returncode for process in processes if process.returncode is not None)
    return 0


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(main())
    with contextlib.suppress(KeyboardInterrupt):
        work(sys.argv[1])
