"""A terminal or a pipe that is gone: what is written to it goes nowhere, and the run goes on unseen."""

import os
import select

_STDOUT, _STDERR = 1, 2


def go_on_unseen() -> None:
    """Before stdout and stderr are written to: let those that nobody reads any more lead nowhere.

    After `train RUN.yaml 2>&1 | tee log` and Ctrl-C, which ends tee first, or where the terminal was closed, a write
    would raise, and its error take the place of the run's own end. A full disk still raises.
    """
    for stream in (_STDOUT, _STDERR):
        watched = select.poll()
        watched.register(stream, 0)  # whoever is gone is always told of
        if watched.poll(0):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream)
            os.close(nowhere)
