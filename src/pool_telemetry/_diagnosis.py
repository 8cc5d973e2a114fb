"""Findings in words: what a snapshot's figures mean, and what to do. No clock, no I/O, nothing but the snapshot."""

from __future__ import annotations

from . import _findings_of_servers as of_servers
from . import _findings_of_use as of_use
from ._finding import Finding, Severity
from ._lifecycle import SHARED
from ._snapshot import Snapshot, UpstreamSnapshot

# What a finding already says is not said again, nor is the contrary advised.
_EXPLAINED_BY = {
    "waiting_for_connection": {"leaked_slots"},
    "unread_responses": {"leaked_slots"},
    "pool_per_request": {"server_closes_after_response"},
    "close_wait_parked": {"keepalive_shorter_than_gaps", "pool_too_small"},
}


def diagnose(snapshot: Snapshot) -> list[Finding]:
    """What is wrong with the pools' connections: the most severe first, then what costs most.

    Args:
        snapshot: what was seen.

    Returns:
        nothing for a healthy program, nor where too little was seen to tell.
    """
    found = [finding for upstream in snapshot.upstreams for finding in _diagnose_upstream(upstream, snapshot)]
    return sorted(found, key=_rank)


def _rank(finding: Finding) -> tuple[int, float, float, str, str]:
    severity, evidence = list(Severity).index(finding.severity), finding.evidence
    return severity, -evidence.get("seconds_lost", 0), -evidence["affected"], finding.upstream, finding.name


def _diagnose_upstream(upstream: UpstreamSnapshot, snapshot: Snapshot) -> list[Finding]:
    # What is said of a server's limit or of a pool's size makes no sense of many servers taken together.
    checks = of_use.CHECKS if upstream.address in SHARED else (*of_use.CHECKS, *of_servers.CHECKS)
    found = [finding for check in checks if (finding := check(upstream, snapshot)) is not None]
    names = {finding.name for finding in found}
    return [finding for finding in found if not names & _EXPLAINED_BY.get(finding.name, set())]
