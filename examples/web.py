"""What the two web examples share: an upstream that hangs up early, and one line on the console for each span.

`python -m web COMMAND...` starts the upstream, and a web application that finds its address in UPSTREAM_URL.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from misbehaving import ServerProcess

KEEPALIVE = 2.0  # seconds after which the upstream hangs up on an idle connection
#: Where to export to, if anywhere; else the console has to do.
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
# The name to look for in the back end; and Jaeger, which most have there, takes no metrics.
_DEFAULTS = {"OTEL_SERVICE_NAME": "web-example", "OTEL_METRICS_EXPORTER": "none"}
_SHOWN = {
    "urllib3.connection.setup.cause": "cause: {}",
    "urllib3.connection.drop.reason": "ended by the upstream ({})",
    "urllib3.connection.idle.duration": "after {:.1f} s of idling",
    "urllib3.connection.remote_close.duration": "the upstream keeps idle connections for {:.1f} s",
}


def is_exporting() -> bool:
    """Whether there is a back end to export to."""
    return bool(os.environ.get(ENDPOINT))


def upstream_url() -> str:
    """A resource of the upstream, after whose answer it hangs up as soon as it may."""
    return f"{os.environ['UPSTREAM_URL']}/fin/{KEEPALIVE}"


def show_spans_on_console() -> None:
    """Set OpenTelemetry up as an application does that has no back end."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(_OneLine()))
    trace.set_tracer_provider(provider)


class _OneLine(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            if span.name.startswith("HTTP connection_"):
                print(_describe(span), file=sys.stderr, flush=True)
        return SpanExportResult.SUCCESS


def _describe(span: ReadableSpan) -> str:
    """One line about a span."""
    attributes = span.attributes or {}
    told = [text.format(attributes[name]) for name, text in _SHOWN.items() if name in attributes]
    took = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
    return f"  {span.name:<39} {took:6.2f} ms  {', '.join(told)}"


def main(command: Sequence[str]) -> int:
    """Start the upstream and the application; gives the application's exit code."""
    # Unbuffered, so that the lines of all come in their order, in a pipe too.
    environ = {**_DEFAULTS, "PYTHONUNBUFFERED": "1", **os.environ}
    with ServerProcess() as upstream:
        print(f"An upstream listens on {upstream.url}: it hangs up on connections that idle for {KEEPALIVE:.0f} s.")
        print(f"Open the page below, wait {KEEPALIVE + 1:.0f} s, and open it again.", end=" ")
        if is_exporting():
            print(f"Spans go to {environ[ENDPOINT]}, as those of {environ['OTEL_SERVICE_NAME']!r}.")
        else:
            print(f"Spans are shown here; with {ENDPOINT} set they go there.")
        print(flush=True)
        environ["UPSTREAM_URL"] = upstream.url
        with subprocess.Popen(command, env=environ) as application:
            # So that it is not left behind where this process alone is ended.
            signal.signal(signal.SIGTERM, lambda *_: application.terminate())
            with contextlib.suppress(KeyboardInterrupt):  # the application has got it as well
                application.wait()
            return application.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
