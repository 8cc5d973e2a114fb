"""Has the last word in a process of ``pool-telemetry run``, whether it ends by itself or by SIGTERM.

The start-up hook runs this, as it does _first_pool.py: it is written for any Python 3, and leaves no module behind that
Python has not imported already.
"""

import _signal  # type: ignore[import-not-found]  # built in, and so unknown to typeshed
import _thread
import os
import sys

TYPE_CHECKING = False  # typing is not imported yet
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import TextIO

    from ._plan import Plan

#: All that there is to say where no process had a pool.
NO_POOLS = "pool_telemetry has seen no connection pool in this program.\n"
_AGAIN_SECONDS = 0.02
# Those of threads, before gevent puts greenlets in their place. In Python 3.13.0 the child of another thread than the
# main one runs no handler, but in a call that a signal breaks off. Earlier ones lack that function.
_get_ident = _thread.get_ident
_get_main_ident = getattr(_thread, "_get_main_thread_ident", _get_ident)
# Seconds from the beginning of a report on, after which SIGTERM no longer waits for its end: nobody reads it, or the
# file for it is a pipe that nobody opens. Less than the ten after which Docker kills.
_PATIENCE = 5.0
# So often: for an import that a signal has interrupted, and for a reader of a stderr that does not block.
_MOST_FAILURES, _MOST_WAITS = 25, 100


class AtEnd:
    """Waits for the end of this process, and of those that it forks.

    Args:
        plan: of the run.
        tell: tells of this process, or of all; gives ``False`` if it has to wait, as this very thread is at the books.
        is_watched: whether this process may have had pools.
    """

    def __init__(self, plan: "Plan", tell: "Callable[[Plan], bool]", is_watched: "Callable[[], bool]") -> None:
        self._plan = plan
        self._tell = tell
        self._is_watched = is_watched
        #: Threads that are forking -> whether SIGTERM is held back for it, and whether the child will hear handlers.
        self._forking = {}  # type: dict[int, tuple[bool, bool]]
        #: SIGTERM, if it was held back for the last fork.
        self._held_back = set()  # type: set[int]
        self._begin()

    def _begin(self) -> None:
        self._is_telling = self._is_told = self._must_die = False
        self._began_at = 0.0
        self._failures = 0

    def wait(self) -> None:
        """Be called at the end: last of all, as this is registered first."""
        # An older one has not this package, and crashes at its end when atexit is gone from its modules.
        if sys.version_info < (3, 10):  # noqa: UP036 - the hook runs in any Python 3
            return
        is_new = "atexit" not in sys.modules
        import atexit

        if is_new:
            del sys.modules["atexit"]
        try:
            now = _signal.getsignal(_signal.SIGTERM)
            _signal.signal(_signal.SIGTERM, self._on_sigterm if now == _signal.SIG_DFL else now)
        except ValueError:
            return  # an interpreter within the program's, which ends apart
        except TypeError:  # a handler that is none of Python's
            pass
        if self._plan.is_of_program() and not os.path.isdir(self._plan.folder):  # a program may come back by exec
            self._make_folder()
        atexit.register(self._at_exit)
        if hasattr(os, "register_at_fork"):
            self._mind_forks()

    # Python forgets the signals that have come to a child before it knows that it is one. Without a handler it would
    # have died of that SIGTERM, and who has sent it waits for that: multiprocessing's Pool does, for ever.
    #
    # Other signals are heeded within these functions, and what their handlers raise ends the one that it comes upon,
    # without a word to the program; or they fork in their turn. So each stands for itself, and the last comes twice,
    # which also knows of threads that fork at the same time.

    def _mind_forks(self) -> None:
        # In C alone: where a function in Python begins, handlers have their turn, and what they start would inherit the
        # mask.
        bind = type(self.wait)  # type: Callable[..., Callable[..., object]]
        unblock = bind(bind(_signal.pthread_sigmask, _signal.SIG_UNBLOCK), self._held_back)
        os.register_at_fork(before=self._hold_back, after_in_parent=unblock, after_in_child=self._begin_in_child)
        for _ in range(2):
            os.register_at_fork(after_in_parent=self._let_through, after_in_child=self._let_through)

    def _hold_back(self) -> None:
        me = _get_ident()
        if me in self._forking:
            return
        self._held_back.clear()
        if _signal.getsignal(_signal.SIGTERM) != self._on_sigterm:
            return
        is_held_back = _signal.SIGTERM not in _signal.pthread_sigmask(_signal.SIG_BLOCK, [])
        self._forking[me] = is_held_back, _get_main_ident() == me
        if is_held_back:
            self._held_back.add(_signal.SIGTERM)
            _signal.pthread_sigmask(_signal.SIG_BLOCK, [_signal.SIGTERM])

    def _begin_in_child(self) -> None:
        self._begin()
        me = _get_ident()
        self._forking = {thread: how for thread, how in self._forking.items() if thread == me}
        if not self._forking:
            return
        is_held_back, is_heard = self._forking[me]
        is_to_die = is_held_back and _signal.SIGTERM in _signal.sigpending()  # and has nothing to tell yet
        if is_to_die or not is_heard:
            _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)

    def _let_through(self) -> None:
        me = _get_ident()
        is_held_back, _ = self._forking.get(me, (False, True))
        if is_held_back:
            _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGTERM])
        self._forking.pop(me, None)

    def _make_folder(self) -> None:
        try:
            os.mkdir(self._plan.folder, 0o700)
        except OSError:
            return  # then the others have no place to leave word, and the report says so

    def _at_exit(self) -> None:
        with_interrupt_kept(lambda: self._speak(is_last=True))
        if self._must_die:
            _die()

    def _on_sigterm(self, number: int, frame: object) -> None:
        import time

        if self._is_telling and time.monotonic() - self._began_at >= _PATIENCE:
            _die()
            return
        self._come_again(_PATIENCE + _AGAIN_SECONDS, lambda: self._is_telling)
        if self._is_telling:
            self._must_die = True  # when all is said
        elif self._speak(is_last=False):
            _die()
        else:
            # Not at once: the handler would run again before the code that it interrupts gets any further. That code
            # may be the program's last, and then Python asks for the last word anyway.
            self._must_die = True
            self._come_again(_AGAIN_SECONDS, lambda: True)

    def _speak(self, is_last: bool) -> bool:
        """Whether all is said that will ever be."""
        if self._is_told:
            return True
        import time

        self._began_at, self._is_telling = time.monotonic(), True
        try:
            if is_last and self._plan.is_of_program():
                _flush()  # not before a death by SIGTERM, with which Python loses what it holds
            self._is_told = self._has_nothing_to_tell() or self._tell(self._plan)
        except Exception as error:
            # A signal handler may run in the middle of an import that is needed here.
            self._failures += 1
            if is_last or self._failures >= _MOST_FAILURES:
                self._is_told = True
                text = "pool_telemetry has no report: " + repr(error) + "\n"
                write_to_stderr(text.encode("ascii", "backslashreplace"))
        finally:
            self._is_telling = False
        return self._is_told

    def _has_nothing_to_tell(self) -> bool:
        """Settle what needs no import: many programs have no pools."""
        if self._is_watched():
            return False
        if not self._plan.is_of_program():
            return True
        if self._plan.output is not None:
            return False
        try:
            os.rmdir(self._plan.folder)
        except OSError:  # others have left something in it
            return False
        write_to_stderr(NO_POOLS.encode())
        return True

    def _come_again(self, seconds: float, is_needed: "Callable[[], bool]") -> None:
        import time

        def again() -> None:
            time.sleep(seconds)
            if is_needed():
                os.kill(os.getpid(), _signal.SIGTERM)

        try:
            _thread.start_new_thread(again, ())
        except RuntimeError:  # Python 3.12 takes no new threads once it is ending
            self._come_again_by_alarm(seconds, is_needed)

    def _come_again_by_alarm(self, seconds: float, is_needed: "Callable[[], bool]") -> None:
        if not hasattr(_signal, "setitimer") or _signal.getsignal(_signal.SIGALRM) != _signal.SIG_DFL:
            return

        def again(number: int, frame: object) -> None:
            if is_needed():
                self._on_sigterm(number, frame)

        _signal.signal(_signal.SIGALRM, again)
        _signal.setitimer(_signal.ITIMER_REAL, seconds)


def with_interrupt_kept(act: "Callable[[], object]") -> None:
    """Do something at exit, after which Python still dies of SIGINT if it was going to.

    Any exec() of a text, such as an import of a dataclass, has it forget the interrupt (seen in 3.10 to 3.13).
    """
    is_interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt and _is_of_main(sys.last_traceback)
    act()
    if is_interrupted:
        try:
            exec("raise KeyboardInterrupt")
        except KeyboardInterrupt:
            return  # as if it had just been


def write_to_stderr(data: bytes) -> None:
    """Write it past all buffers; nothing where Python's stderr is closed or nobody reads it.

    A signal handler may run in the middle of a write, which a buffered file would not bear.
    """
    try:
        descriptor = sys.__stderr__.fileno()  # type: ignore[union-attr]  # without one it is an error like any other
        if _is_taken(descriptor):
            return
        waits = 0
        while data and waits < _MOST_WAITS:
            written = _write(descriptor, data)
            waits += not written
            data = data[written:]
    except Exception:
        return


def _is_taken(descriptor: int) -> bool:
    """Whether stderr was closed below Python, and its number is that of a file or socket of the program's by now.

    Those are not inherited (PEP 446). What is begun with is, and what dup2() has put in its place.
    """
    return os.name == "posix" and not os.get_inheritable(descriptor)


def _write(descriptor: int, data: bytes) -> int:
    import time

    try:
        return os.write(descriptor, data)
    except BlockingIOError:  # its reader is slow
        time.sleep(_AGAIN_SECONDS)
        return 0


def _is_of_main(traceback: "TracebackType | None") -> bool:
    # And not of a callback out of C, which ended there.
    return traceback is not None and traceback.tb_frame.f_back is None


def _flush() -> None:
    if sys.stdout is sys.__stdout__:
        _flush_file(sys.stdout)
    if sys.stderr is sys.__stderr__:
        _flush_file(sys.stderr)


def _flush_file(file: "TextIO | None") -> None:
    try:
        if file is not None:
            file.flush()
    except Exception:
        return  # Python tries again in a moment, and says what is wrong


def _die() -> None:
    _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
    os.kill(os.getpid(), _signal.SIGTERM)
