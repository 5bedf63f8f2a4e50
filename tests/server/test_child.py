"""Child processes: never there without their parent."""

from __future__ import annotations

import os
import select
import subprocess
import sys

PROGRAM = """
import os, sys, time
from mailserver import maillog
from mailserver.server import child

said, begin = int(sys.argv[1]), os.fork

def fork():  # a child that has its first turn when its parent is dead
    parent = os.getpid()
    pid = begin()
    if pid == 0:
        while os.getppid() == parent:
            time.sleep(0.001)
        os.write(said, b"alone ")
    return pid

os.fork = fork
log = maillog.open_log(None)
child.fork(lambda say: os.write(said, b"at work"), log, set(), "worker-failed")
os._exit(0)  # as by kill -9: nobody is told
"""


def test_a_child_whose_parent_died_before_its_first_turn_ends() -> None:
    hears, said = os.pipe()
    with os.fdopen(hears, "rb", buffering=0) as pipe:
        program = subprocess.Popen([sys.executable, "-c", PROGRAM, str(said)], pass_fds=[said])
        os.close(said)
        program.wait()
        heard = b""
        while select.select([pipe], [], [], 30)[0] and (data := pipe.read(100)):
            heard += data
    assert heard == b"alone "
