"""SIGTERM to an actor's process: it is asked to go, and will be killed in a while.

A node that is taken back is another matter: Ray drains it, and the driver asks Ray (`fleet.calls.draining_nodes`).
"""

import faulthandler
import os
import signal
from contextlib import suppress


class TerminationNotice:
    """Notes SIGTERM, at which Ray's own handler would end the process.

    A handler written in Python can be set in the main thread only, which is Ray's; that of faulthandler, in C, in any.
    It writes a traceback, here into a pipe: all that matters is that something was written.
    """

    def __init__(self) -> None:
        """Listen from now on."""
        self._notes, written = os.pipe()
        for end in (self._notes, written):
            os.set_blocking(end, False)
        faulthandler.register(signal.SIGTERM, file=written, all_threads=False, chain=False)
        self._given = False

    @property
    def given(self) -> bool:
        """The signal came."""
        with suppress(BlockingIOError):  # nothing was written
            self._given |= bool(os.read(self._notes, 1))
        return self._given
