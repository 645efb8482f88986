"""Notices that another process is gone, and ends this one with a line that says so."""

import contextlib
import os
import sys
import threading
import time
from typing import Any

import jax

from jaxseq.errors import UserError

TRY_AGAIN = 75
"""The exit status where the mend is to run the same command again (EX_TEMPFAIL of sysexits.h)."""

_LAST_WORD = "jaxseq/end"
"""Where the first process that ends leaves its exit status and the reason; "" is a good end."""

_HEARD = "jaxseq/heard/"
"""Where each process notes that it has read that."""

_GOODBYE = "jaxseq/goodbye"
"""What process 0 sets when all have: from then on processes disconnect."""

_BEAT = 1.0
"""Seconds between two looks."""


class HostWatch:
    """A thread that looks after the other processes, while the main one may be waiting for them.

    Without it a process whose partner has died waits in a collective operation for ever (TPU), or
    fails with an error of the network that does not say which host is gone (CPU, GPU).
    """

    def __init__(self, client: Any, names: list[str], process_id: int, heartbeat_timeout: float):
        """Begins to look after the processes `names`, of which `process_id` is this one.

        `client` is that of JAX's distributed runtime, in which processes may leave
        ("recoverable"); it needs `heartbeat_timeout` seconds to tell that one is dead.
        """
        self._client = client
        self._names = names
        self._me = process_id
        self._patience = heartbeat_timeout + 10 * _BEAT
        self._ending = threading.Lock()  # held by the thread that ends this process
        self._thread = threading.Thread(target=self._run, name="host watch", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Disconnects this process, when every process is at its end."""
        self._begin_to_end()
        if self._me == 0:
            self._client.key_value_set(_LAST_WORD, "")
        self._leave()

    def fail(self, error: BaseException) -> None:
        """Tells the others that this process ends by `error`, which then is their end too."""
        if _of_the_network(error):  # because another has died: the watch will say which one
            self._thread.join(self._patience)
        self._begin_to_end()
        status = 2 if isinstance(error, UserError) else 1
        reason = str(error) if status == 2 else f"{type(error).__name__}: {error}"
        name = self._names[self._me]
        self._say(f"{status} stopped, because another process failed: {name}: {reason}")
        self._leave()

    def _begin_to_end(self) -> None:
        if not self._ending.acquire(blocking=False):
            self._thread.join()  # where the watch ends this process

    def _run(self) -> None:
        word = self._last_word()
        if not word or not self._ending.acquire(blocking=False):
            return
        status, _, reason = word.partition(" ")
        again = "; to go on from the last checkpoint, run the same command on every host again"
        line = f"jaxseq: {reason}{again if int(status) == TRY_AGAIN else ''}\n"
        os.write(sys.stderr.fileno(), line.encode())  # at once: without process 0, JAX aborts
        self._leave()
        os._exit(int(status))  # the main thread may be waiting for those who are gone

    def _last_word(self) -> str:
        """Why all end, as soon as somebody has said it; "" also where this process ends first."""
        while not self._ending.locked():
            try:
                return self._client.blocking_key_value_get(_LAST_WORD, round(1000 * _BEAT))
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    return f"{TRY_AGAIN} {self._names[0]}, where all meet, is gone"
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # which the next look finds too
                live = self._live()
                if lost := [name for i, name in enumerate(self._names) if i not in live]:
                    names = ", ".join(lost)
                    self._say(f"{TRY_AGAIN} {names} gave no sign of life and is taken for lost")
        return ""

    def _say(self, word: str) -> None:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # another was first
            self._client.key_value_set(_LAST_WORD, word)

    def _leave(self) -> None:
        """Disconnects when all know why, process 0 as the last one.

        The runtime lives in process 0: without it, those that have not disconnected abort.
        """
        # Others may be in `_live` and wait for this process, which asks no more.
        last_look = threading.Thread(target=self._look_on, name="last look", daemon=True)
        last_look.start()
        try:
            if self._me == 0:
                self._wait_until_heard()
                self._client.key_value_set(_GOODBYE, "")
            else:
                self._client.key_value_set(f"{_HEARD}{self._me}", "")
                self._client.blocking_key_value_get(_GOODBYE, round(1000 * self._patience))
        except jax.errors.JaxRuntimeError:
            return  # process 0 is gone, and nothing is left to disconnect from
        # Both are over before Python's own end: a thread that comes back from C++ to an interpreter
        # that is ending aborts the process.
        last_look.join(self._patience)
        if threading.current_thread() is not self._thread:
            self._thread.join()
        jax.distributed.shutdown()

    def _wait_until_heard(self) -> None:
        """Returns when all others have read the last word, or after 5 s: some may be lost."""
        deadline = time.monotonic() + 5 * _BEAT
        while time.monotonic() < deadline:
            if len(self._client.key_value_dir_get(_HEARD)) == len(self._names) - 1:
                return
            time.sleep(_BEAT / 20)

    def _look_on(self) -> None:
        """Process 0 until no other is connected, the others once."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 is gone
            while len(self._live()) > 1 and self._me == 0:
                pass

    def _live(self) -> dict[int, int]:
        """The processes that are connected; waits until all of these have asked the same."""
        return self._client.get_live_nodes(list(range(len(self._names))))


def _of_the_network(error: BaseException) -> bool:
    """Whether it may be another process's death that shows here: collectives have failed."""
    if isinstance(error, UserError):
        return False
    return any(word in str(error) for word in ("Gloo", "NCCL", "UNAVAILABLE", "ABORTED"))
