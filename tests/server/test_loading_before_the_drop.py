"""What every process of the server needs is loaded before rights are dropped: the user that the server becomes need
not be able to read Python's own files, which may lie in somebody's home.
"""

import subprocess
import sys

PROGRAM = """
import asyncio, sys
import mailserver.server.appliance
from mailserver.server.loop import new_loop
before = set(sys.modules)
with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(asyncio.to_thread(int))
print(*sorted(set(sys.modules) - before))
"""


def test_loops_and_threads() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
