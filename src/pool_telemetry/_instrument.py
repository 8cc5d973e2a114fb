"""``install()`` and ``uninstall()``: puts the parts together."""

from __future__ import annotations

import atexit
import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TextIO

from ._at_end import with_interrupt_kept
from ._install_lock import hold, let_go, load, run_alone
from ._settings import Settings
from ._version import __version__
from ._wanted import Wanted, resolve

if TYPE_CHECKING:
    from typing import NoReturn as Never  # which has this name from Python 3.11 on

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from ._hooks import Hooks
    from ._ledger import Ledger
    from ._metrics import MetricsEmitter
    from ._snapshot import Snapshot
    from ._stand_ins import StandIns

_ledger: Ledger | None = None
_wanted: Wanted | None = None  # in force, or to be put in force by the first pool
_hooks: Hooks | None = None
_emitter: MetricsEmitter | None = None
_stand_ins: StandIns | None = None
_before_exit: Snapshot | None = None
# Called in each process before its first pool is entered, by those who tell of it at its end.
_tellers: list[Callable[[], object]] = []


def install(
    *,
    spans: str | None = None,
    metrics: str | None = None,
    max_upstreams: int | None = None,
    excluded_hosts: Sequence[str] | str | None = None,
    wait_threshold: float | None = None,
    peer_address: bool | None = None,
    export: bool | None = None,
    report_at_exit: bool | None = None,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    **unknown: Never,
) -> None:
    """Watch urllib3's connection pools in this process, and tell OpenTelemetry.

    Call it once at start-up, before or after the providers are set, from any thread. While installed a second call
    changes nothing: ``uninstall()`` first to change settings. It starts no thread, timer or signal handler; only the
    SDK that ``export`` sets up has threads.

    Args:
        spans: ``"off"``, ``"notable"`` (default: drops, set-ups and long waits) or ``"all"`` (each checkout too).
        metrics: ``"off"``, ``"core"`` (default) or ``"all"``.
        max_upstreams: upstreams with figures of their own, 100 by default; the rest share ``_OTHER``.
        excluded_hosts: shell-style patterns of hosts to leave alone, a list or one string with commas.
        wait_threshold: seconds, 0.01 by default; a shorter wait for a connection makes no span.
        peer_address: add ``network.peer.address`` to connection-level metrics, ``False`` by default.
        export: build SDK providers from the ``OTEL_*`` variables where the application has set none,
            ``False`` by default.
        report_at_exit: print ``report()`` when the process ends, ``False`` by default; in the environment
            ``POOL_TELEMETRY_REPORT``.
        tracer_provider: instead of the global one.
        meter_provider: instead of the global one.

    All but the providers may be given as environment variables ``POOL_TELEMETRY_…`` as well; arguments come first.

    Raises:
        TypeError: an unknown setting, or a value of the wrong type.
        ValueError: a value that is not allowed.
        UnsupportedUrllib3Error: a urllib3 whose pool is not known, urllib3-future for one.
        MissingExporterError: ``export`` is on, and the package of the exporter is not installed.
    """
    wanted = resolve(
        {
            "spans": spans,
            "metrics": metrics,
            "max_upstreams": max_upstreams,
            "excluded_hosts": excluded_hosts,
            "wait_threshold": wait_threshold,
            "peer_address": peer_address,
            "export": export,
            "report_at_exit": report_at_exit,
            "tracer_provider": tracer_provider,
            "meter_provider": meter_provider,
            **unknown,
        }
    )
    put_in(wanted)


def uninstall() -> None:
    """Put urllib3 back as it was, and fall silent; what has been counted so far goes on at the next ``install()``."""
    run_alone(_uninstall, is_patient=True)


def _uninstall() -> None:
    global _wanted, _hooks, _emitter, _stand_ins
    _wanted = None
    if _hooks is None or _ledger is None:
        return
    _hooks.take_out()
    _ledger.detach()
    if _emitter is not None:
        _emitter.stop()
    _hooks = _emitter = _stand_ins = None


def snapshot() -> Snapshot:
    """What the connection pools of this process have done since the first ``install()``, and what they hold now.

    Plain frozen data. It needs no OpenTelemetry SDK, and looks at each open socket as a collection of metrics does. A
    forked child begins anew.

    Returns:
        without upstreams if nothing was installed so far, or no pool was seen.
    """
    ledger = _ledger
    if ledger is not None:  # and not before install(), for it imports what gevent has to patch
        load("_viewing")  # which the ledger imports where it looks
    from ._snapshot import SCHEMA, Snapshot

    return Snapshot(
        schema=SCHEMA,
        version=__version__,
        urllib3_version=str(getattr(sys.modules.get("urllib3"), "__version__", "")),
        python_version=".".join(map(str, sys.version_info[:3])),
        process=os.getpid(),
        taken_at=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        watched_seconds=0.0 if ledger is None else ledger.watched_seconds(),
        is_installed=_hooks is not None,
        upstreams=() if ledger is None else tuple(ledger.view()),
    )


def report(file: TextIO | None = None) -> None:
    """Print what the connection pools of this process have done, what is wrong, and what to do about it.

    Args:
        file: where to, ``sys.stderr`` if ``None``; coloured on a terminal, if rich is installed (extra ``cli``).
    """
    _show(snapshot(), sys.stderr if file is None else file)


def _show(seen: Snapshot, file: TextIO) -> None:
    try:
        hold()  # a child that is forked in the midst of an import could never end it
        from ._diagnosis import diagnose
        from ._page import likes_colour
        from ._report import show

        likes_colour(file)  # which imports rich, if it is there
    finally:
        let_go()
    show(seen, diagnose(seen), file)


def _report_at_exit(process: int) -> None:
    # Not in a forked child, whose parent has asked for it. And of nothing, nothing.
    if os.getpid() == process and not _tellers:
        with_interrupt_kept(lambda: _report_last(sys.stderr))


def _report_last(file: TextIO) -> None:
    seen = last_snapshot()
    if seen is not None and seen.upstreams:
        _show(seen, file)


def last_snapshot() -> Snapshot | None:
    """A snapshot for the last word of this process; ``None`` in a signal handler on top of this thread's own booking.

    That from before Python has closed the pools at its exit, unless more has happened since: what they held when the
    program ended is what is to be told.
    """
    if _ledger is not None and _ledger.is_busy_here():
        return None
    seen, before = snapshot(), _before_exit
    if before is None or before.process != seen.process or _activity(before) != _activity(seen):
        return seen
    return before


def _activity(seen: Snapshot) -> list[object]:
    """All that grows with what a program does, and not with the closing of its pools."""
    return [
        (each.name, each.checkouts, each.drops, each.opened_connections, each.adopted_connections, each.pools_created)
        for each in seen.upstreams
    ]


def _look_before_exit() -> None:
    global _before_exit
    _before_exit = None if _ledger is None or _ledger.is_busy_here() else snapshot()


def leave_report_to(meet: Callable[[], object]) -> None:
    """Leave the report at the exit to others, who are to be called in each process before its first pool is entered."""
    _tellers.append(meet)


def wanted() -> Wanted | None:
    """What is in force, or going to be with the first pool."""
    return _wanted


def put_in_later(wanted: Wanted) -> Callable[[], None]:
    """Gives what puts this in force, unless ``uninstall()`` or another has come before."""
    global _wanted
    _wanted = wanted
    return lambda: put_in(wanted) if _wanted is wanted else None


def put_in(wanted: Wanted) -> None:
    """Put it in force, if nothing is."""

    def put() -> None:
        global _wanted
        try:
            if _hooks is None:
                _install(wanted.settings, wanted.tracer_provider, wanted.meter_provider)
                _wanted = wanted
        except BaseException:
            _wanted = None
            raise

    run_alone(put)


def rehearse(arguments: Mapping[str, Any]) -> None:
    """Raise what ``install()`` would raise, and change nothing."""
    wanted = resolve(arguments)
    import urllib3

    from ._support import check_supported

    check_supported(urllib3)
    if wanted.settings.export:
        from ._stand_ins import check_exporters

        check_exporters(wanted.settings, wanted.tracer_provider, wanted.meter_provider)


def export() -> None:
    """Export from now on as the ``OTEL_*`` variables say, where the application has set no provider."""
    if _stand_ins is not None:
        _stand_ins.is_wanted = True
        _provide_stand_ins()


def flush() -> None:
    """Send what ``export`` has not sent yet; returns when that is done, or exporters have given up.

    At the end of a process that does not end as Python does: by ``os._exit()``, or by a signal that a server sends to
    itself when it has shut down. Whatever else is there, an application's own providers for one, is left alone.
    """
    if _ledger is not None:  # something was installed, and that has imported this
        from ._stand_ins import flush_exporters

        flush_exporters()


def _install(settings: Settings, tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None) -> None:
    global _ledger, _hooks, _emitter, _stand_ins
    # Not at the top: gevent has to patch before urllib3 and ssl are imported, and may do so after us.
    from time import monotonic_ns

    import urllib3

    from ._support import check_supported

    check_supported(urllib3)
    from . import _urllib3
    from ._context import current_use, packed
    from ._hooks import Hooks
    from ._ledger import Ledger
    from ._metrics import MetricsEmitter
    from ._spans import SpanObserver
    from ._stand_ins import StandIns, check_exporters

    if settings.export:
        check_exporters(settings, tracer_provider, meter_provider)
    if _ledger is None:
        _ledger = Ledger(_urllib3.pooled, _urllib3.is_closed, monotonic_ns, packed)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_start_afresh_in_child
            )
    _ledger.max_upstreams = settings.max_upstreams
    _ledger.by_peer = settings.peer_address
    emitter = MetricsEmitter(settings, _ledger) if settings.metrics != "off" else None
    observer = SpanObserver(settings, tracer_provider) if settings.spans != "off" else None
    stand_ins = StandIns(settings, observer, emitter, tracer_provider, meter_provider)
    hooks = Hooks(
        _ledger,
        settings,
        current_use,
        observer,
        flush=functools.partial(emitter.flush, can_wait=True) if emitter else _ledger.drain,
        on_fault=emitter.fall_silent if emitter else lambda: None,
        meet_process=_meet_process,
    )
    try:
        hooks.put_in()
        if emitter is not None:
            emitter.start(meter_provider)
    except BaseException:
        hooks.take_out()
        _ledger.detach()
        raise
    _hooks, _emitter, _stand_ins = hooks, emitter, stand_ins
    atexit.unregister(_report_at_exit)
    if settings.report_at_exit:
        atexit.register(_report_at_exit, os.getpid())
    if _ledger.pools():  # taken up again: they have been seen for the first time already
        stand_ins.provide()


def _before_fork() -> None:
    if _emitter is not None:
        _emitter.before_fork()


def _after_fork_in_parent() -> None:
    if _emitter is not None:
        _emitter.after_fork_in_parent()


def _start_afresh_in_child() -> None:
    if _ledger is not None:
        _ledger.check_process()  # a thread that the SDK has started anew may be here already
    if _hooks is not None:
        _hooks.forget_thread()
    if _emitter is not None:
        _emitter.after_fork_in_child()
    if _stand_ins is not None:
        _stand_ins.withdraw()


def _meet_process() -> None:
    for meet in _tellers:
        meet()
    if _tellers or (_wanted is not None and _wanted.settings.report_at_exit):
        # urllib3 has its pools closed at the exit, by weakref.finalize. That is registered with the first pool, which
        # is there by now: what is registered after it has its turn before it.
        atexit.unregister(_look_before_exit)
        atexit.register(_look_before_exit)
    _provide_stand_ins()


def _provide_stand_ins() -> None:
    run_alone(lambda: None if _stand_ins is None else _stand_ins.provide())
