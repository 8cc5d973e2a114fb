"""Misbehaving servers, an ordinary requests session, and what pool_telemetry tells about it.

`make demo` runs it. It needs nothing but loopback, takes a few seconds, and ends with exit code 1 if its own figures
disagree with the books that the servers keep.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import requests

from demo_parts.books import compare
from demo_parts.expect import DisagreementError
from demo_parts.scenes import back_to_work, burst, leak, lost_race, reset, silence, the_end
from demo_parts.screen import BOLD, GREEN
from demo_parts.stage import set_the_stage
from demo_parts.summary import show_metrics
from demo_parts.trees import show_spans


def perform(*, every_span: bool) -> None:
    """The whole demo; raises `DisagreementError`."""
    started_at = time.monotonic()
    with set_the_stage() as stage:
        screen = stage.screen
        screen.part("pool_telemetry: what happens inside a connection pool")
        screen.tell(
            f"""Two real servers run on this machine, {stage.http.url} and {stage.https.url}, and both misbehave. An
            ordinary requests session talks to them; pool_telemetry was installed before. Here is what
            happens, and then what OpenTelemetry was told."""
        )
        for scene in (burst, silence, back_to_work, reset, lost_race, leak):
            scene(stage)
        before = stage.telemetry.collect()
        books = {server: server.books for server in stage.servers}
        the_end(stage)
        after = stage.telemetry.collect()

        screen.part("What was emitted: metrics")
        screen.tell(
            """By upstream; all names begin with 'urllib3.'. Durations in ms are means. A close_notify is TLS's own
            goodbye, seen before the FIN. docs/telemetry.md explains these metrics, and has the others."""
        )
        show_metrics(stage, after)
        screen.part("What was emitted: spans")
        screen.tell(
            """Below each request, what kept it waiting. Attributes are shown without their 'urllib3.connection.'; an
            arrow is a link to another span."""
        )
        show_spans(stage, every=every_span)

        screen.part("Is it true?")
        screen.tell("The servers kept books of their own. The metrics, and what the books say:")
        print()
        compare(stage, before, after, books)
        print()
        screen.result(f"All figures agree. ({time.monotonic() - started_at:.1f} s)", GREEN, BOLD)
        print("\nIn your own program: import pool_telemetry; pool_telemetry.install()\nNext: README.md")


def main() -> int:
    """Gives the exit code."""
    parser = argparse.ArgumentParser(prog="demo.py", description=__doc__)
    parser.add_argument("--all-spans", action="store_true", help="show every span tree, not one of each kind")
    options = parser.parse_args()
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        del os.environ[name]  # what is set up for other programs must not change what is shown here
    try:
        perform(every_span=options.all_spans)
        sys.stdout.flush()
    except DisagreementError as error:
        sys.stdout.flush()
        print(f"\nThe demo's figures disagree. {error}", file=sys.stderr)
        return 1
    except (TimeoutError, requests.RequestException) as error:
        sys.stdout.flush()
        print(f"\nThe demo could not go on. {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever was reading has seen enough; the flush at exit must not fail as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
