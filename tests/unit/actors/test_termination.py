"""SIGTERM to an actor's process, whose constructor runs beside the main thread."""

import os
import signal
import subprocess
import sys

PROGRAM = """
import sys, threading
from rl_empathy.actors.termination import TerminationNotice

notices = []
beside = threading.Thread(target=lambda: notices.append(TerminationNotice()))
beside.start()
beside.join()
print(notices[0].given, flush=True)
sys.stdin.readline()
print(notices[0].given, notices[0].given, flush=True)
"""


def test_a_process_that_gets_sigterm_many_times_works_on_and_knows_of_it():
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "False\n"
        for _ in range(1000):
            os.kill(process.pid, signal.SIGTERM)
        assert process.communicate("go on\n", timeout=60)[0] == "True True\n"
        assert process.returncode == 0
