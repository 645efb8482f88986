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
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="host watch", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Ends the watch when every process is at its end."""
        self._ended.set()
        if self._me == 0:
            self._client.key_value_set(_LAST_WORD, "")
        self._thread.join()
        self._leave().join(self._patience)

    def fail(self, error: BaseException) -> None:
        """Tells the others that this process ends by `error`, which then is their end too."""
        if _of_the_network(error):  # because another has died: the watch will say which one
            self._thread.join(self._patience)
        self._ended.set()
        status = 2 if isinstance(error, UserError) else 1
        reason = str(error) if status == 2 else f"{type(error).__name__}: {error}"
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # another was first
            self._client.key_value_set(_LAST_WORD, f"{status} {self._names[self._me]}: {reason}")
        last_look = self._leave()
        self._thread.join()
        last_look.join(self._patience)
        if self._me != 0:
            jax.distributed.shutdown()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                word = self._client.blocking_key_value_get(_LAST_WORD, round(1000 * _BEAT))
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    self._stop(TRY_AGAIN, f"{self._names[0]}, where all meet, is gone")
                elif (missing := self._missing()) and not self._ended.wait(_BEAT):
                    names = ", ".join(self._names[i] for i in missing)
                    self._stop(TRY_AGAIN, f"{names} gave no sign of life and is taken for lost")
            else:
                if word and not self._ended.is_set():
                    self._leave()
                    status, _, reason = word.partition(" ")
                    self._stop(int(status), f"stopped, because another process failed: {reason}")
                return

    def _leave(self) -> threading.Thread:
        """Notes that this process knows the end; process 0 waits until all do, or 5 s.

        The runtime lives in process 0: without it, those that have not left would abort. Returns
        the last look at the others, which must be over before Python's own end: a thread that
        comes back from C++ to an interpreter that is ending aborts the process.
        """
        # Others may be in `_missing` and wait for this process, which looks no more.
        last_look = threading.Thread(target=self._missing, name="last look", daemon=True)
        last_look.start()
        if self._me != 0:
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 is gone
                self._client.key_value_set(f"{_HEARD}{self._me}", "")
            return last_look
        deadline = time.monotonic() + 5 * _BEAT
        while time.monotonic() < deadline:
            if len(self._client.key_value_dir_get(_HEARD)) == len(self._names) - 1:
                break
            time.sleep(_BEAT / 20)
        time.sleep(_BEAT / 4)
        return last_look

    def _missing(self) -> list[int]:
        """The processes that have left or died; waits until all others have asked the same."""
        try:
            live = self._client.get_live_nodes(list(range(len(self._names))))
        except jax.errors.JaxRuntimeError:
            return []  # process 0 is gone, which the next look finds too
        return [i for i in range(len(self._names)) if i not in live]

    def _stop(self, status: int, reason: str) -> None:
        """Ends the process, unless it is ending anyway."""
        if self._ended.is_set():
            return
        again = "; to go on from the last checkpoint, run the same command on every host again"
        line = f"jaxseq: {reason}{again if status == TRY_AGAIN else ''}\n"
        os.write(sys.stderr.fileno(), line.encode())  # at once: without process 0, JAX aborts
        os._exit(status)  # the main thread may be waiting for those who are gone


def _of_the_network(error: BaseException) -> bool:
    """Whether it may be another process's death that shows here: collectives have failed."""
    if isinstance(error, UserError):
        return False
    return any(word in str(error) for word in ("Gloo", "NCCL", "UNAVAILABLE", "ABORTED"))
