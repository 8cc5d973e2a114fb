"""``export`` in processes that make it hard: threads, forks, exit, signals, detectors; against what is sent."""

from __future__ import annotations

import multiprocessing
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from misbehaving import Server
from pool_telemetry.cli import HOOK
from tests import programs
from tests.integrations.otlp import Receiver
from tests.integrations.services import exporting, free_port
from tests.integrations.test_instrumentor import a_distribution

SETUP = "HTTP connection_setup"
BEGIN = """
import atexit, os, signal, sys, threading, time
import pool_telemetry
"""
FLASK = "import flask, pool_telemetry.flask\npool_telemetry.flask.PoolTelemetry(flask.Flask('a'), export=True)"


class Told:
    """Runs programs that export, with an upstream at ``url``."""

    def __init__(self, server: Server, receiver: Receiver) -> None:
        self.server, self._receiver = server, receiver

    def by(self, program: str, *path: Path, **variables: str) -> str:
        """Run a program until it ends; gives what it printed."""
        begin = BEGIN + f"url = {self.server.url!r}\n"
        at_exit = {"OTEL_METRIC_EXPORT_INTERVAL": "600000", "OTEL_BSP_SCHEDULE_DELAY": "600000"}
        return programs.run(
            begin + textwrap.dedent(program), path, **{**exporting(self._receiver), **at_exit, **variables}
        )

    def check(self, requests: int) -> None:
        """As many requests, each over a connection of its own, were told by spans and metrics, and made."""
        of = {"server.port": self.server.port, "server.address": "127.0.0.1", "url.scheme": "http"}
        told = self._receiver.by_process("urllib3.pool.opened_connections", **of)
        samples = self._receiver.by_process("urllib3.connection.setup.duration", **of)
        assert sum(sum(each.values()) for each in told.values()) == requests
        assert sum(sum(each.values()) for each in samples.values()) == requests
        assert len([span for span in self._receiver.spans if span.name.startswith(SETUP)]) == requests
        assert self.server.books.accepted == requests


@pytest.fixture
def told(server: Server, receiver: Receiver) -> Told:
    return Told(server, receiver)


@pytest.mark.parametrize("who", ["install", "flask"])
def test_threads_that_make_a_processs_first_requests_together_lose_nothing(told: Told, who: str) -> None:
    begin = {"install": "pool_telemetry.install(export=True)", "flask": FLASK}[who]
    program = """
        import requests
        together = threading.Barrier(16)

        def ask():
            together.wait()
            requests.get(url + "/close")

        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        """
    told.by(begin + "\n" + textwrap.dedent(program))
    told.check(16)


@pytest.mark.parametrize("before", ["export=True", ""])
def test_a_session_that_lives_through_uninstall_and_install_is_told_on(
    told: Told, before: str, receiver: Receiver
) -> None:
    program = """
        import urllib3
        http = urllib3.PoolManager()
        pool_telemetry.install({before})
        http.request("GET", url + "/close")
        pool_telemetry.uninstall()
        pool_telemetry.install(export=True)
        for _ in range(3):
            http.request("GET", url + "/close")
        """
    told.by(program.format(before=before))
    of = {"server.port": told.server.port, "server.address": "127.0.0.1", "url.scheme": "http"}
    assert receiver.metrics("urllib3.pool.opened_connections", **of) == {"": 4}
    setups = [span for span in receiver.spans if span.name.startswith(SETUP)]
    assert len(setups) == (4 if before else 3)


def test_what_is_asked_for_after_the_main_thread_has_ended_is_told_unless_python_lets_no_exporter_begin(
    told: Told, receiver: Receiver
) -> None:
    program = """
        import logging, requests
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        pool_telemetry.install(export=True)

        def ask():
            threading.main_thread().join()
            requests.get(url + "/close")

        threading.Thread(target=ask).start()
        """
    said = told.by(program)
    if sys.version_info[:2] == (3, 12):  # which starts no thread by then, and the SDK's exporters have some
        for what in "spans", "metrics":
            assert said.count(f"no {what} are exported from this process: can't create new thread") == 1
        assert told.server.books.responses == 1
        assert not receiver.exports
    else:
        assert not said
        told.check(1)


def test_what_the_application_asks_for_at_exit_is_told(told: Told) -> None:
    program = """
        import requests
        pool_telemetry.install(export=True)
        atexit.register(lambda: requests.get(url + "/close"))
        requests.get(url + "/close")
        """
    told.by(program)
    told.check(2)


@programs.needs_fork
@pytest.mark.parametrize("end", ["os._exit(0)", ""])
def test_what_is_flushed_is_told_once_however_the_process_then_ends(end: str, told: Told) -> None:
    program = """
        import requests
        pool_telemetry.flush()  # nothing is installed, and then nothing is seen so far
        pool_telemetry.install(export=True)
        pool_telemetry.flush()
        if os.fork() == 0:
            for _ in range(2):
                requests.get(url + "/close")
                pool_telemetry.flush()
            {end}
        else:
            os.wait()
        """
    told.by(program.format(end=end or "pass"))
    told.check(2)


@programs.needs_fork
def test_a_child_flushes_what_is_its_own(told: Told) -> None:
    program = """
        import requests
        pool_telemetry.install(export=True)
        requests.get(url + "/close")
        for ask in False, True:
            if os.fork() == 0:
                if ask:
                    requests.get(url + "/close")
                pool_telemetry.flush()
                os._exit(0)
            os.wait()
        """
    told.by(program)
    told.check(2)


def test_an_exporter_that_cannot_flush_is_one_warning_and_the_others_have_sent(
    told: Told, tmp_path: Path, receiver: Receiver
) -> None:
    (tmp_path / "broken.py").write_text(
        textwrap.dedent(
            """
            from opentelemetry.sdk.metrics.export import ConsoleMetricExporter

            class Broken(ConsoleMetricExporter):
                def export(self, *_, **__):
                    raise OSError("no")

                def force_flush(self, *_, **__):
                    raise OSError("broken")
            """
        )
    )
    a_distribution(tmp_path, "broken", "1", opentelemetry_metrics_exporter="broken = broken:Broken")
    program = """
        import logging, requests
        logging.basicConfig(stream=sys.stdout, format="%(name)s %(message)s")
        pool_telemetry.install(export=True)
        requests.get(url + "/close")
        pool_telemetry.flush()
        print(flush=True)
        os._exit(0)
        """
    said = told.by(program, tmp_path, OTEL_METRICS_EXPORTER="broken")
    assert said.count("pool_telemetry what is left has not been sent: ") == 1
    assert "force_flush" in said
    assert [span.name.startswith(SETUP) for span in receiver.spans].count(True) == 1


def test_flushing_gives_up_where_nobody_listens(told: Told) -> None:
    program = """
        import requests
        pool_telemetry.install(export=True)
        requests.get(url + "/close")
        pool_telemetry.flush()
        print("on", flush=True)
        os._exit(0)
        """
    nobody = f"http://127.0.0.1:{free_port()}"
    said = told.by(program, OTEL_EXPORTER_OTLP_ENDPOINT=nobody, OTEL_EXPORTER_OTLP_TIMEOUT="1")
    assert said == "on\n"


def test_an_exception_of_a_signal_handler_in_the_middle_of_it_reaches_the_application(told: Told) -> None:
    program = """
        import requests
        from pool_telemetry import _export

        class Deadline(Exception):
            pass

        def over(*_):
            raise Deadline

        def slow():
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            time.sleep(5)

        signal.signal(signal.SIGALRM, over)
        pool_telemetry.install(export=True)
        original, _export.tracer_provider = _export.tracer_provider, slow
        try:
            requests.get(url + "/close")
        except Deadline:
            print("over")
        _export.tracer_provider = original
        requests.get(url + "/close")
        """
    assert told.by(program) == "over\n"
    told.check(1)


def test_what_exporters_take_to_be_made_is_no_wait_for_a_connection(told: Told, receiver: Receiver) -> None:
    program = """
        import urllib3
        from pool_telemetry import _export

        def slow():
            time.sleep(1)
            return original()

        pool_telemetry.install(export=True)
        original, _export.tracer_provider = _export.tracer_provider, slow
        with urllib3.PoolManager(block=True) as http:
            http.request("GET", url + "/close")
        (upstream,) = pool_telemetry.snapshot().upstreams
        print(upstream.wait_seconds.count, upstream.wait_seconds.maximum)
        """
    assert told.by(program) == "1 0.0\n"
    told.check(1)
    assert not [span for span in receiver.spans if span.name.startswith("HTTP wait_for_connection")]


DETECTOR = """
import requests
from opentelemetry.sdk.resources import Resource, ResourceDetector

class Asking(ResourceDetector):
    def detect(self):
        requests.get("{url}/close")
        return Resource({{"asked": "yes"}})
"""


@pytest.mark.parametrize("who", ["install", "late", "worker"])
def test_a_resource_detector_that_makes_a_request_waits_for_nobody(
    told: Told, who: str, tmp_path: Path, receiver: Receiver
) -> None:
    (tmp_path / "asking.py").write_text(DETECTOR.format(url=told.server.url))
    a_distribution(tmp_path, "asking", "1", opentelemetry_resource_detector="asking = asking:Asking")
    begin = {
        "install": "import requests\npool_telemetry.install(export=True)",
        "late": f"{FLASK}\nimport requests",
        "worker": "import requests, pool_telemetry.gunicorn\npool_telemetry.gunicorn.post_worker_init(None)",
    }[who]
    program = begin + "\nfor _ in range(2): requests.get(url + '/close')"
    told.by(program, tmp_path, OTEL_EXPERIMENTAL_RESOURCE_DETECTORS="asking,otel")
    told_of = [span for span in receiver.spans if span.name.startswith(SETUP)]
    assert len(told_of) >= 2  # the detector's own comes before anything is watched, or with it
    assert {span.resource["asked"] for span in told_of} == {"yes"}


@programs.needs_fork
@pytest.mark.parametrize("who", ["install", "flask", "hook"])
def test_a_child_that_is_forked_while_another_thread_installs_goes_on(told: Told, who: str) -> None:
    begin = {
        "install": "first = lambda: (pool_telemetry.install(export=True), ask())",
        "flask": f"{FLASK}\nfirst = lambda: ask()",
        "hook": "first = lambda: ask()",
    }[who]
    program = """
        import urllib3

        def ask():
            with urllib3.PoolManager() as http:
                http.request("GET", url + "/close")

        thread = threading.Thread(target=first)
        thread.start()
        children = []
        for _ in range(20):
            time.sleep(0.02)
            pid = os.fork()
            if pid == 0:
                ask()
                os._exit(0)
            children.append(pid)
        thread.join()
        deadline = time.monotonic() + 30
        while children and time.monotonic() < deadline:
            for child in list(children):
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    assert status == 0
                    children.remove(child)
            time.sleep(0.01)
        for child in children:
            os.kill(child, signal.SIGKILL)
        print(len(children), "hang")
        """
    path = [Path(HOOK)] if who == "hook" else []
    begin = begin + "\n" + textwrap.dedent(program)
    assert told.by(begin, *path, POOL_TELEMETRY_EXPORT="1") == "0 hang\n"


def test_below_the_hook_an_applications_settings_come_first_also_where_urllib3_comes_late(
    told: Told, receiver: Receiver
) -> None:
    program = """
        import flask
        from pool_telemetry.flask import PoolTelemetry
        PoolTelemetry(flask.Flask("shop"), spans="off", export=True)
        import requests
        requests.get(url + "/close")
        """
    told.by(program, Path(HOOK))
    assert not receiver.spans
    assert receiver.metrics("urllib3.pool.opened_connections")


def test_a_given_identity_is_completed_in_children_of_multiprocessing(
    told: Told, tmp_path: Path, receiver: Receiver
) -> None:
    (tmp_path / "work.py").write_text(
        textwrap.dedent(
            """
            import atexit, sys

            def ask(url):
                import pool_telemetry, requests
                pool_telemetry.install(export=True)
                requests.get(url + "/close")
                atexit._run_exitfuncs()  # multiprocessing leaves without them where it forks
            """
        )
    )
    program = """
        import multiprocessing, work
        if __name__ == "__main__":
            for method in ("spawn", "forkserver"):
                child = multiprocessing.get_context(method).Process(target=work.ask, args=(url,))
                child.start()
                child.join()
                assert child.exitcode == 0
        """
    # Of -c the children would import nothing; and forkserver's server forks what imported the library, or does not.
    told.by(program, tmp_path, OTEL_RESOURCE_ATTRIBUTES="service.instance.id=host-7")
    identities = {span.resource["service.instance.id"] for span in receiver.spans}
    assert identities == {f"host-7-{span.resource['process.pid']}" for span in receiver.spans}
    assert len(identities) == 2


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_what_children_of_multiprocessing_do_is_told_when_they_end(told: Told, tmp_path: Path, method: str) -> None:
    (tmp_path / "work.py").write_text(
        textwrap.dedent(
            """
            def ask(url):
                import pool_telemetry, requests
                pool_telemetry.install(export=True)
                requests.get(url + "/close")
            """
        )
    )
    program = f"""
        import multiprocessing, work
        from concurrent.futures import ProcessPoolExecutor
        if __name__ == "__main__":
            work.ask(url)
            context = multiprocessing.get_context({method!r})
            if {method!r} == "forkserver":
                context.set_forkserver_preload(["work", "requests", "pool_telemetry._export"])
            child = context.Process(target=work.ask, args=(url,))
            child.start()
            child.join()
            with context.Pool(2) as pool:
                pool.map(work.ask, [url] * 4, chunksize=1)
                pool.close()
                pool.join()
            with ProcessPoolExecutor(1, context) as executor:
                list(executor.map(work.ask, [url] * 3))
        """
    told.by(program, tmp_path)
    told.check(1 + 1 + 4 + 3)


@programs.needs_fork
def test_forks_in_the_midst_of_exports_leave_each_process_its_own(told: Told, receiver: Receiver) -> None:
    """The parent's SDK collects and sends all the time, in threads of its own, while others lose connections."""
    program = """
        import faulthandler, urllib3
        faulthandler.enable()
        pool_telemetry.install(export=True, metrics="all")
        done = threading.Event()

        def load():
            while not done.is_set():
                with urllib3.PoolManager() as http:
                    for _ in range(3):
                        http.request("GET", url + "/lost")

        def ask():
            with urllib3.PoolManager() as http:
                http.request("GET", url + "/lost")
                http.request("GET", url + "/lost")

        def flush():
            for (process, _), provider in pool_telemetry._export._made.items():
                if process == os.getpid():
                    provider.force_flush()

        ask()
        flush()  # imports what a first export imports: those locks are Python's own
        threads = [threading.Thread(target=load) for _ in range(2)]
        for thread in threads: thread.start()
        children = []
        for _ in range(12):
            time.sleep(0.02)
            pid = os.fork()
            if pid == 0:
                ask()
                flush()  # the SDK gives its last collection no longer than an interval
                atexit._run_exitfuncs()
                os._exit(0)
            children.append(pid)
        done.set()
        for thread in threads: thread.join()
        deadline = time.monotonic() + 40
        while children and time.monotonic() < deadline:
            for child in list(children):
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    assert status == 0
                    children.remove(child)
            time.sleep(0.01)
        for child in children:
            os.kill(child, signal.SIGABRT)  # faulthandler shows where it hangs
            os.waitpid(child, 0)
        flush()
        sys.exit(1 if children else 0)
        """
    often = {"OTEL_METRIC_EXPORT_INTERVAL": "5", "OTEL_BSP_SCHEDULE_DELAY": "5", "OTEL_BSP_MAX_QUEUE_SIZE": "100000"}
    told.by(program, **often)
    of = {"server.port": told.server.port, "server.address": "127.0.0.1", "url.scheme": "http"}
    told_of = receiver.by_process("urllib3.pool.opened_connections", **of)
    opened = {pid: sum(each.values()) for pid, each in told_of.items()}
    drops = receiver.by_process("urllib3.pool.dropped_connections", **of)
    assert len(opened) == 13
    assert sum(opened.values()) == told.server.books.accepted
    assert sum(sum(each.values()) for each in drops.values()) == told.server.books.ended["lost_fin"]
    assert sorted(opened.values())[:12] == [2] * 12
    spans = Counter(span.resource["process.pid"] for span in receiver.spans if span.name.startswith(SETUP))
    assert spans == opened
