"""The story, scene by scene."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import requests

from misbehaving import Server

from .expect import DisagreementError, expect
from .kernel import SHOWN, kernel_sockets
from .screen import BOLD, GREEN, RED, spread
from .stage import BURST, HTTP_KEEPALIVE, HTTPS_KEEPALIVE, Stage
from .telemetry import DROPPED, PHASE, PREFIX, REASON


def burst(stage: Stage) -> None:
    stage.screen.scene("A burst")
    stage.screen.tell(
        """Six threads ask each server at the same moment. So the session opens six connections to each, and
        keeps them all for later: that is what a connection pool is for."""
    )
    ready = threading.Barrier(2 * BURST)

    def ask(server: Server) -> None:
        ready.wait(5)
        stage.request(server, "/slow/0.2")

    with ThreadPoolExecutor(2 * BURST) as threads:
        list(threads.map(ask, stage.servers * BURST))
    accepted = [server.books.accepted for server in stage.servers]
    stage.screen.result(f"{2 * BURST} requests answered over {sum(accepted)} new connections.")


def silence(stage: Stage) -> None:
    stage.screen.scene("Silence")
    stage.screen.tell(
        f"""Nothing is asked for a while. Like every server, these two hang up on idle connections: the HTTP one after
        {HTTP_KEEPALIVE} s, the HTTPS one after {HTTPS_KEEPALIVE} s. Each hang-up is a FIN, which the kernel
        acknowledges. Nobody tells urllib3: its pools still hold {2 * BURST} connections. A socket whose peer
        has hung up, and that nobody closes on this side, is in the state CLOSE_WAIT."""
    )
    for server in stage.servers:
        server.wait_for(lambda books: books.ended["fin"] >= BURST)
    show_sockets(stage)


def back_to_work(stage: Stage) -> None:
    stage.screen.scene("Back to work")
    stage.screen.tell(
        """Five requests to each server, one after the other. A pool hands out the connection that came back last. The
        first request finds that one dead and replaces it at the price of a new set-up; the other four reuse the new
        one. All succeed. But nobody gets down to the dead ones below, and they stay: file descriptors
        that are held for nothing, and a surprise for the next burst."""
    )
    for server in stage.servers:
        for _ in range(5):
            stage.request(server, "/ok")
    show_sockets(stage)


def reset(stage: Stage) -> None:
    stage.screen.scene("A reset")
    stage.screen.tell(
        """Not everybody says goodbye: a crashing server, a load balancer or a firewall sends an RST instead. The next
        request finds the connection dead, and replaces it as well. To the program it looks the same, but the culprit
        is another one, and the reason tells them apart."""
    )
    for server in stage.servers:
        stage.request(server, "/rst/0.1")
        server.wait_for(lambda books: books.ended["rst"] == 1)
        stage.request(server, "/ok")
    metrics = stage.telemetry.collect()
    http, https = (spread(metrics.by(DROPPED, server, REASON, PHASE)) for server in stage.servers)
    stage.screen.result(f"Dropped so far: HTTP {http}; HTTPS {https}.")


def lost_race(stage: Stage) -> None:
    stage.screen.scene("The lost race")
    stage.screen.tell(
        """Now the server hangs up while a request is on its way to it. The connection was alive when urllib3 looked,
        so no check can help. A GET is sent once more, for this session allows one retry:"""
    )
    for server in stage.servers:
        status = stage.request(server, "/lost").status_code
        stage.screen.result(f"GET {server.url}/lost: {status}, after a retry that nobody noticed", GREEN)
    stage.screen.tell(
        """A POST may have been carried out already, so urllib3 does not repeat it, and the error is yours. This is the
        famous 'Connection aborted', once by an RST and once by a FIN:"""
    )
    for server, path in ((stage.http, "/lost-rst"), (stage.https, "/lost")):
        stage.screen.result(f"POST {server.url}{path}: ConnectionError: {failing_post(stage, server, path)}", RED)


def failing_post(stage: Stage, server: Server, path: str) -> requests.ConnectionError:
    """The error that the caller gets to see."""
    try:
        stage.request(server, path, "POST", data=b"order=1")
    except requests.ConnectionError as error:
        return error
    raise DisagreementError(f"POST {server.url}{path} should have failed")


def leak(stage: Stage) -> None:
    stage.screen.scene("A leak")
    stage.screen.tell(
        """A response is asked for with stream=True, and forgotten before it was read or closed. Its connection never
        comes back to the pool. Here that costs a connection; with pool_block=True it costs a place in
        the pool for good, until one day every thread waits."""
    )
    for server in stage.servers:
        stage.request(server, "/big/100000", stream=True)
    gc.collect()  # CPython has noticed by now, other interpreters need to be asked
    metrics = stage.telemetry.collect()
    for server in stage.servers:
        leaked = metrics.total(PREFIX + "pool.leaked_connections", server)
        expect(f"{server.url}: leaked", leaked, "was forgotten here", 1)
        stage.screen.result(f"{server.url}: {leaked} leaked connection")


def the_end(stage: Stage) -> None:
    stage.screen.scene("The end")
    stage.screen.tell("The session is closed, and its pools with it: now the dead sockets are gone.")
    stage.session.close()
    show_sockets(stage)


def show_sockets(stage: Stage) -> None:
    """The kernel's count of sockets beside that of the metric; they have to agree."""
    screen, metrics = stage.screen, stage.telemetry.collect()
    told = {server: metrics.sockets(server) for server in stage.servers}
    seen = {server: kernel_sockets(server) for server in stage.servers}
    print()
    print(f"   {'':<24} {'the kernel counts':>24}   {'urllib3.pool.socket.count':>25}")
    print(f"   {'':<24} {'ESTABLISHED':>13} {'CLOSE_WAIT':>10}   {'established':>14} {'close_wait':>10}")
    for server in stage.servers:
        cells = [_cell(each, state) for each in (seen[server], told[server]) for state in SHOWN]
        for place, width in enumerate((13, 10, 14, 10)):
            is_dead = place % 2 and cells[place] not in ("0", "-")
            cells[place] = screen.paint(f"{cells[place]:>{width}}", *((RED, BOLD) if is_dead else ()))
        print(f"   {server.url:<24} {cells[0]} {cells[1]}   {cells[2]} {cells[3]}")
    if None in seen.values():
        screen.tell("(This system has no /proc/net/tcp: the kernel's columns are left out. TCP states need Linux.)")
    for server in stage.servers:
        count = seen[server]
        for state in SHOWN if count is not None else ():
            assert count is not None
            expect(f"{server.url}: sockets in {state}", told[server][state], "by the kernel", count[state])


def _cell(counts: Counter[str] | None, state: str) -> str:
    return "-" if counts is None or counts["unknown"] else str(counts[state])
