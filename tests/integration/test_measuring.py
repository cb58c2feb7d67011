"""What the programs that measure share: their workers."""

import subprocess
import sys

import psutil
import pytest
from own_processes import HANGING

pytestmark = pytest.mark.integration

PROGRAM = """
import os, time
from simulations.measuring import workers

if __name__ == "__main__":
    with workers(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(600)
"""


def test_workers_end_with_a_program_that_is_killed(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        worker = psutil.Process(int(run.stdout.readline()))
        run.kill()
    _, alive = psutil.wait_procs([worker], timeout=HANGING)
    for process in alive:
        process.kill()
    assert alive == []
