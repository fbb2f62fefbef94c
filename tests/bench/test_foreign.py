import subprocess
import sys
import time

import psutil
import pytest

from preble_plugin.bench.foreign import ForeignLoad

SPIN = "import time\nend = time.process_time() + 1.0\nwhile time.process_time() < end: pass"


def test_another_program_counts_and_what_is_ours_does_not() -> None:
    spinning = subprocess.Popen([sys.executable, "-c", SPIN])
    child = psutil.Process(spinning.pid)
    used = 0.0

    def ours() -> float:
        nonlocal used
        if spinning.poll() is None:
            times = child.cpu_times()
            used = times.user + times.system
        return used

    counting, not_counting = ForeignLoad(ours), ForeignLoad(lambda: 0.0)
    began = time.monotonic()
    while ours() < 0.8:
        assert spinning.poll() is None
    elapsed = time.monotonic() - began
    difference = (not_counting.cores() - counting.cores()) * elapsed
    spinning.wait(timeout=30)
    assert difference == pytest.approx(0.8, abs=0.25)
