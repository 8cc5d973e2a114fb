"""What processes know of their pools, in the form in which Prometheus should have it."""

from __future__ import annotations

from collections import defaultdict

from pool_telemetry import Snapshot
from pool_telemetry._snapshot import Durations, UpstreamSnapshot
from prometheus import promql
from tests.integrations.scraping import JOB, Sample, Vector, key_of


class Figures:
    """The series of these processes, without buckets, and without what grows old while one looks.

    Args:
        snapshots: by the instance.
    """

    def __init__(self, snapshots: dict[str, Snapshot]) -> None:
        self.samples: dict[str, list[Sample]] = defaultdict(list)
        for instance, snapshot in snapshots.items():
            for upstream in snapshot.upstreams:
                of = {
                    "job": JOB,
                    "instance": instance,
                    "server_address": upstream.address,
                    "server_port": str(upstream.port),
                    "url_scheme": upstream.scheme,
                }
                self._add_totals(upstream, of)
                self._add_levels(upstream, of)
                self._add_durations(upstream, of)

    def _add(self, name: str, of: dict[str, str], value: float, **labels: str) -> None:
        self.samples[name].append(Sample({**of, **labels}, value))

    def _add_totals(self, upstream: UpstreamSnapshot, of: dict[str, str]) -> None:
        for outcome, count in upstream.checkouts.items():
            self._add("urllib3_pool_checkouts_total", of, count, **{promql.OUTCOME: outcome})
        for reason, phases in upstream.drops.items():
            for phase, count in phases.items():
                labels = {promql.DROP: reason, promql.PHASE: phase}
                self._add("urllib3_pool_dropped_connections_total", of, count, **labels)
        for reason, count in upstream.closed_connections.items():
            self._add("urllib3_pool_closed_connections_total", of, count, **{promql.CLOSE: reason})
        self._add("urllib3_pool_opened_connections_total", of, upstream.opened_connections)
        self._add("urllib3_pool_leaked_connections_total", of, upstream.leaked_connections)
        self._add("urllib3_pool_creations_total", of, upstream.pools_created)
        self._add("urllib3_pool_use_time_seconds_total", of, upstream.use_seconds)

    def _add_levels(self, upstream: UpstreamSnapshot, of: dict[str, str]) -> None:
        for connection in upstream.connections:
            version = {"network_protocol_version": connection.protocol_version}
            self._add("http_client_open_connections", of, 1, **{promql.STATE: connection.state}, **version)
            states = {promql.STATE: connection.state, promql.TCP_STATE: str(connection.tcp_state)}
            self._add("urllib3_pool_socket_count", of, 1, **states)
        for pool in upstream.pools:
            self._add("urllib3_pool_size", of, pool.maximum, urllib3_pool_block=str(pool.is_blocking).lower())
            self._add("urllib3_pool_count", of, 1)
        self._add("urllib3_pool_pending_requests", of, upstream.pending_requests)
        self._add("urllib3_pool_active_peak", of, upstream.active_peak)

    def _add_durations(self, upstream: UpstreamSnapshot, of: dict[str, str]) -> None:
        def add(name: str, durations: Durations | None, **labels: str) -> None:
            if durations is not None:
                self._add(f"{name}_sum", of, durations.total, **labels)
                self._add(f"{name}_count", of, durations.count, **labels)

        for outcome, each in upstream.idle_seconds.items():
            add(promql.IDLE, each, **{promql.OUTCOME: outcome})
        add(promql.REMOTE_CLOSE, upstream.remote_close_seconds)
        for cause, each in upstream.setup_seconds.items():
            add(promql.SETUP, each, **{promql.CAUSE: cause})
        for error, each in upstream.failed_setup_seconds.items():
            add(promql.SETUP, each, error_type=error, **{promql.CAUSE: "new"})
        add(promql.WAIT, upstream.wait_seconds)
        add(promql.WAIT, upstream.failed_wait_seconds, error_type="urllib3.exceptions.EmptyPoolError")
        if not upstream.failed_setup_seconds:  # the snapshot does not tell failed phases apart
            for phase, each in upstream.setup_phase_seconds.items():
                add("urllib3_connection_setup_phase_duration_seconds", each, urllib3_connection_setup_phase=phase)
        add("urllib3_connection_close_wait_duration_seconds", upstream.close_wait_seconds)
        add("http_client_connection_duration_seconds", upstream.connection_seconds, network_protocol_version="1.1")
        add("urllib3_connection_requests", upstream.requests_per_connection)

    def by(self, name: str, by: str, **where: str | tuple[str, ...]) -> Vector:
        """Sums of a metric, by some of its labels, over the series whose labels have one of these values."""
        sums: Vector = defaultdict(float)
        for labels, value in self.samples.get(name, []):
            if all(labels.get(key, "") in wanted for key, wanted in where.items()):
                sums[key_of(labels, by)] += value
        return sums
