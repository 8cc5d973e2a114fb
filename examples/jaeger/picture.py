"""The picture of the README: the app against a real Jaeger, and what Jaeger has of the request that paid.

`make picture` runs it.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from pathlib import Path

from . import app
from .backend import JaegerMissingError, running
from .waterfall import render

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"
SHOWN = (app.CLEAN, app.PAYING)


def main() -> int:
    """Gives the exit code."""
    for name in [name for name in os.environ if name.startswith(("OTEL_", "POOL_TELEMETRY_"))]:
        del os.environ[name]  # nothing of this machine belongs into the picture
    try:
        with running() as jaeger:
            os.environ.update(jaeger.environment())
            trace_ids = app.perform()
            jaeger.wait_for(app.SERVICE, lambda traces: len(traces) == len(trace_ids))
            query = "&".join(f"traceID={trace_ids[request]}" for request in SHOWN)
            with urllib.request.urlopen(f"{jaeger.url}/api/traces?{query}") as answer:
                response = json.load(answer)
    except JaegerMissingError as error:
        print(f"No picture: {error}", file=sys.stderr)
        return 1
    PICTURES.mkdir(parents=True, exist_ok=True)
    for suffix, text in (("json", json.dumps(response, indent=1) + "\n"), ("svg", render(response))):
        picture = PICTURES / f"dropped.{suffix}"
        picture.write_text(text, encoding="utf-8")
        print(os.path.relpath(picture))
    return 0


if __name__ == "__main__":
    sys.exit(main())
