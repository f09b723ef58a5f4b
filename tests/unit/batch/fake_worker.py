"""A worker whose answers are scripted: the text of the property file says what to do. Imports no torch.

`unsat`, `sat`, `unknown`: answer so. `sleep S`: then unsat. `nap S`: the same, but heeding a stop request.
`signal N`, `exit N`: die. `once FILE`: die by signal 9 the first time, when FILE does not exist yet.
`parent`: kill the parent, and die with it. `hog MB`: hold so much memory. `stderr TEXT`: write it and abort.
`fail TEXT`: an error that the worker survives. `env NAME`: unsat, for a reason that is the value of that variable.
"""

import os
import signal
import sys
import time
from pathlib import Path

from verinet.batch.solve import failure
from verinet.batch.worker import main


def solve(task, hooks):
    begin = time.monotonic()
    word, _, rest = Path(task.prop).read_text().strip().partition(" ")
    hooks.moved((0.0, 2.5, 3, 4))
    if word in ("signal", "parent"):
        os.kill(*((os.getpid(), int(rest)) if word == "signal" else (os.getppid(), signal.SIGKILL)))
        time.sleep(10)
    if word == "exit":
        os._exit(int(rest))
    if word == "stderr":
        sys.stderr.write(rest + "\n")
        sys.stderr.flush()
        os.abort()
    if word == "once" and not Path(rest).exists():
        Path(rest).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "hog":
        hog = [bytearray(os.urandom(1 << 20)) for _ in range(int(rest))]
        time.sleep(10 + len(hog))
    if word == "fail":
        return failure("ModelError", rest) | {"seconds": 0.0, "curve": []}
    if word in ("sleep", "nap"):
        while time.monotonic() - begin < float(rest):
            time.sleep(0.01)
            if word == "nap" and hooks.stop():
                return {"status": "unknown", "reason": "interrupted", "seconds": 0.0, "curve": []}
    status = word if word in ("sat", "unknown") else "unsat"
    reason = os.environ.get(rest) if word == "env" else "scripted"
    return {"status": status, "reason": reason, "gap": 0.0, "seconds": time.monotonic() - begin, "curve": []}


if __name__ == "__main__":
    main(solve)
