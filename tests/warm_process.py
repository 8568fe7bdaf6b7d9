"""Scripts in processes of their own that start at once: copies of one process that has imported what takes seconds.

For tests that need a process, to kill it or to have several, and in which a fresh interpreter is not the point. As a
script, this file is the process that is copied.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing.context
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
# Of a copy that ends with an exception, as of an interpreter.
FAILED = 1


class WarmProcess:
    """A running copy, with the part of subprocess.Popen that the tests use."""

    def __init__(self, warm: WarmProcesses, pid: int) -> None:
        self.pid, self.returncode, self._warm = pid, None, warm

    def poll(self) -> int | None:
        """The exit code, negative after a signal; None while the process runs."""
        if self.returncode is None:
            self.returncode = self._warm.ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        """The exit code at the end of the process.

        Raises:
            TimeoutExpired: it still runs after so many seconds.
        """
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.02)
        return self.returncode

    def kill(self) -> None:
        """Kill it as SIGKILL does."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class WarmProcesses:
    """The process that is copied, which starts with the first copy.

    Args:
        modules: what it has imported.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self.modules, self._server = modules, None

    def start(
        self,
        log: Path,
        script: Path,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        spawns_copies: bool = False,
    ) -> WarmProcess:
        """Run a script as `python script arguments` would, in the root of the repository.

        Args:
            log: a file to which its output is appended.
            environment: all of its variables; by default those of this process. What is read when torch is imported,
                as the number of threads is, stays that of this process.
            spawns_copies: what it starts with multiprocessing's "spawn" is a copy of it, not a fresh interpreter.
        """
        command = [str(script), *arguments]
        started = {"command": command, "log": str(log), "environment": dict(environment or os.environ)}
        return WarmProcess(self, self.ask({**started, "spawns_copies": spawns_copies}))

    def ask(self, question: dict[str, Any]) -> Any:
        """Let the process that is copied do something, and wait for its answer."""
        if self._server is None:
            command = [sys.executable, __file__, *self.modules]
            environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
            pipe = subprocess.PIPE
            self._server = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        self._server.stdin.write(json.dumps(question) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, f"the process with {', '.join(self.modules)} has ended"
        return json.loads(answer)

    def close(self) -> None:
        """End the process that is copied; it kills those of its copies that still run."""
        if self._server is not None:
            self._server.stdin.close()
            self._server.wait(timeout=60)
            self._server.stdout.close()


def torchrun_variables(processes: int) -> list[dict[str, str]]:
    """What torchrun sets in the environment of each of so many processes on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    own = [{"RANK": rank, "LOCAL_RANK": rank, **shared} for rank in range(processes)]
    return [{name: str(value) for name, value in variables.items()} for variables in own]


def serve(modules: Sequence[str]) -> None:
    """Import the modules, then do what the lines of the standard input ask for, until it ends."""
    import gc
    import importlib

    # Copies have an output of their own, and nothing that is printed may come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    gc.disable()
    for module in modules:
        importlib.import_module(module)
    # What is imported stays, so that no copy looks for garbage in it.
    gc.freeze()
    gc.enable()
    running: set[int] = set()
    for line in sys.stdin:
        question = json.loads(line)
        if "poll" in question:
            answer = _exit_code(question["poll"])
            running -= {question["poll"]} if answer is not None else set()
        else:
            answer = os.fork()
            if answer == 0:
                answers.close()
                _become(**question)
            running.add(answer)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def _exit_code(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _become(command: list[str], log: str, environment: dict[str, str], spawns_copies: bool) -> None:
    """In a copy: run the script and end the process."""
    code = FAILED
    try:
        _redirect(log)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(REPOSITORY)
        if spawns_copies:
            multiprocessing.context._concrete_contexts["spawn"] = multiprocessing.get_context("fork")
        code = _run(command)
    finally:
        # As an interpreter ends, but for taking apart all of its modules.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect(log: str) -> None:
    nothing, output = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(output)


def _run(command: list[str]) -> int:
    import random
    import runpy
    import traceback

    import numpy as np

    # A fresh interpreter draws other numbers each time, and a script that forgets its seed has to be found out.
    random.seed()
    np.random.seed()
    sys.argv, sys.path[0] = command, str(Path(command[0]).parent)
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return FAILED
    except BaseException:
        traceback.print_exc()
        return FAILED
    return 0


if __name__ == "__main__":
    serve(sys.argv[1:])
