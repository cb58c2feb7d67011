"""A process that has loaded what client processes need, and forks one for each message.

    python -P resident.py LISTENING ALIVE IDLE-SECONDS MAIN MODULE,… [NEXT]

MAIN (``module:function``) is what a fork calls, with the words, streams, folder and environment of
the shim that waits for it; the modules are imported first. A fork may ask, by telling.py, for
something of its app to be held: the app is imported from the folder that the fork has imported it
from, and its entry called. A later fork finds these modules where it imports the same folder's; of
another folder, or of files that have changed, it imports them anew.

It never forks with more than one thread, and replaces itself by exec (NEXT is the pipe that tells
the new one what to hold) where it is asked for another app or another base, where nothing could be
held, or where packages were installed.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

RESIDENT = "POTARA_RESIDENT"
"""As in telling.py."""
THREAD_SECONDS = 1.0
"""How long threads that were told to end may take."""


def say(text: str) -> None:
    """Write a line to the log, which is the SuperNode's."""
    print(f"warm: {text}", file=sys.stderr, flush=True)


class HeldApp(MetaPathFinder):
    """An app's modules, for whoever imports them from where these come from.

    Parameters
    ----------
    folder : str
        The app's.
    entry : str
        ``module:function``.

    Raises
    ------
    ImportError
        They cannot be told from those of others.
    """

    def __init__(self, folder: str, entry: str) -> None:
        self.folder = folder
        self._names = {Path(name).stem for name in os.listdir(folder)}
        if taken := self._names & {name.partition(".")[0] for name in sys.modules}:
            raise ImportError(f"{folder} has modules that are imported already: {sorted(taken)}")
        self._code = state_of_files([folder], "*.py")
        self.files: list[str] = []
        """What its entry has read."""
        self._read = state_of_files([])
        sys.path.insert(0, folder)
        self.entry: Callable[[dict[str, Any]], str] = load(entry)
        self._modules: dict[str, ModuleType] = {}

    def load(self, request: dict[str, Any]) -> str:
        """Have the app load what is asked for; return in words what it holds."""
        self.files = request["files"]
        self._read = state_of_files(self.files)
        words: str = self.entry(request["values"])
        return words

    def is_current(self) -> bool:
        """Return whether code and files are those that were loaded."""
        return self._code == state_of_files([self.folder], "*.py") and self._read == state_of_files(
            self.files
        )

    def hide(self) -> None:
        """Take the modules away, in a fork, until they are imported from their folder."""
        self._modules = {
            name: module
            for name, module in sys.modules.items()
            if name.partition(".")[0] in self._names
        }
        for name in self._modules:
            del sys.modules[name]
        sys.path.remove(self.folder)
        sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Give all modules back where the first of them would be imported from their folder."""
        if fullname not in self._modules:
            return None
        modules, self._modules = self._modules, {}
        sys.meta_path.remove(self)
        found, held = PathFinder.find_spec(fullname, path), modules[fullname]
        known = held.__spec__
        if found is None or known is None or found.origin != known.origin:
            say(f"process {os.getpid()} imports another app than the one that is held")
            return None
        if not self.is_current():
            say(f"process {os.getpid()} loads all anew: files have changed")
            return None
        # All but the one that is asked for, which the import system would load again.
        sys.modules.update({name: modules[name] for name in modules.keys() - {fullname}})
        say(f"process {os.getpid()} has what process {os.getppid()} holds")
        return ModuleSpec(fullname, HeldModule(held), origin=found.origin)


class HeldModule(Loader):
    """Gives a module that is there already to the import system."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self._spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module."""
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """Leave it as it was imported."""
        module.__spec__ = self._spec


@dataclass
class Fork:
    """A client process, the shim that waits for it, and what it asks for."""

    pid: int
    shim: socket.socket
    asked: int
    said: bytearray = field(default_factory=bytearray)


class Resident:
    """Forks.

    Parameters
    ----------
    listening : socket
        Where shims ask.
    alive : int
        File descriptor of a pipe that is closed when the SuperNode ends.
    idle_seconds : float
        How long to wait for a message.
    main : function
        What a fork calls.
    """

    def __init__(
        self,
        listening: socket.socket,
        alive: int,
        idle_seconds: float,
        main: Callable[[], object],
    ) -> None:
        self.listening, self.alive = listening, alive
        self.idle_seconds = idle_seconds
        self.main = main
        self.forks: dict[int, Fork] = {}
        """By the file descriptor of the pipe by which it asks."""
        self.app: HeldApp | None = None
        self.asked: dict[str, Any] = {}
        """The last request."""
        self.successor: dict[str, Any] | None = None
        """What a process that takes this one's place should hold."""
        self.packages = state_of_packages()

    def serve(self) -> None:
        """Fork until nobody has asked for a while, or the SuperNode has ended."""
        last = time.monotonic()
        while True:
            if self.successor is not None and not self.forks:
                replace(self.successor)
            poll = select.poll()
            poll.register(self.alive, select.POLLHUP)
            poll.register(self.listening, select.POLLIN)
            shims = {fork.shim.fileno(): fork for fork in self.forks.values()}
            for shim in shims:
                poll.register(shim, 0)  # its end is reported, whatever is asked for
            for asked in self.forks:
                poll.register(asked, select.POLLIN)
            left = max(self.idle_seconds - (time.monotonic() - last), 0.0)
            ready = dict(poll.poll(None if self.forks else 1000 * left))
            if self.alive in ready:
                return
            if not ready and not self.forks:
                say(f"process {os.getpid()} ends after {self.idle_seconds:g} s without a message")
                return
            last = time.monotonic()
            for shim, fork in shims.items():
                if shim in ready:
                    os.kill(fork.pid, signal.SIGKILL)  # as its shim, in whose place it works
            for asked in [asked for asked in self.forks if asked in ready]:
                self.read(asked)
            if self.listening.fileno() in ready:
                self.accept()

    def accept(self) -> None:
        """Fork for a shim that waits."""
        try:
            shim, _ = self.listening.accept()
        except BlockingIOError:  # it has given up
            return
        if state_of_packages() != self.packages:
            refuse(shim, "packages were installed since the resident process was started")
            self.successor = self.successor or {}
            return
        if (threads := number_of_threads()) > 1:
            refuse(shim, f"the resident process has {threads} threads and cannot be forked")
            return
        asked, asks = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            os.close(asked)
            self.run_fork(shim, asks)
        os.close(asks)
        self.forks[asked] = Fork(pid, shim, asked)

    def read(self, asked: int) -> None:
        """Read what a fork asks for, and say how it ended when it has."""
        fork = self.forks[asked]
        if text := os.read(asked, 65536):
            fork.said += text
            return
        os.close(asked)
        del self.forks[asked]
        _, status = os.waitpid(fork.pid, 0)
        with suppress(OSError):  # nobody waits any more
            fork.shim.sendall(
                json.dumps({"status": os.waitstatus_to_exitcode(status)}).encode() + b"\n"
            )
        fork.shim.close()
        if status == 0 and fork.said:
            self.hold(json.loads(fork.said.splitlines()[-1]))

    def hold(self, request: dict[str, Any]) -> None:
        """Hold what is asked for, here or in a new process."""
        if self.app is not None:
            mine = (self.asked["app"], self.asked["base"])
            if mine != (request["app"], request["base"]) or not self.app.is_current():
                say(f"a new process takes the place of {os.getpid()}: another app, model or files")
                self.successor = request
                return
        if request == self.asked:
            return
        self.asked = request
        gc.unfreeze()
        try:
            if self.app is None:
                self.app = HeldApp(request["app"], request["entry"])
            held = self.app.load(request)
            if (threads := number_of_threads()) > 1:
                raise RuntimeError(f"loading it has left {threads} threads")
        except Exception as error:  # noqa: BLE001
            # Whatever an app raises: its messages load for themselves, and answer with the error.
            say(f"nothing is held ({type(error).__name__}: {error})")
            self.successor = {**request, "refused": True}
            return
        gc.collect()
        gc.freeze()  # what is never looked at is never copied
        say(f"process {os.getpid()} holds {held}")

    def run_fork(self, shim: socket.socket, asks: int) -> None:
        """Do the work of a shim and end; never returns."""
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self.listening.close()
            for fork in self.forks.values():
                fork.shim.close()
                os.close(fork.asked)
            status = self.work(shim, asks)
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    stream.flush()
            os._exit(status)

    def work(self, shim: socket.socket, asks: int) -> int:
        """Take over what the shim has inherited, call the main function, return its exit status."""
        _, streams, _, _ = socket.recv_fds(shim, 1, 3)
        lines = shim.makefile("rb")
        if not (line := lines.readline()):
            return 0
        request = json.loads(line)
        with suppress(OSError):
            shim.sendall(json.dumps({"pid": os.getpid()}).encode() + b"\n")
        if not lines.readline():  # the shim has given up
            return 0
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        os.environ[RESIDENT] = f"{os.getpid()}:{asks}"
        sys.argv[:] = ["flwr-clientapp", *request["words"]]
        if self.app is not None:
            self.app.hide()
        else:
            say(f"process {os.getpid()} has the libraries of process {os.getppid()}")
        return status_of(self.main)


def status_of(main: Callable[[], object]) -> int:
    """Call a main function as Python does; return the exit status."""
    try:
        main()
        status: object = 0
    except SystemExit as end:
        status = end.code
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        status = 1
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    if status is None:
        return 0
    if isinstance(status, int):
        return status
    print(status, file=sys.stderr)
    return 1


def refuse(shim: socket.socket, reason: str) -> None:
    """Send a shim away."""
    with shim, suppress(OSError):
        shim.sendall(json.dumps({"refused": reason}).encode() + b"\n")


def replace(request: dict[str, Any]) -> None:
    """Let a new process take this one's place, under the same number, and tell it what to hold."""
    reading, writing = os.pipe()
    os.write(writing, json.dumps(request).encode())
    os.close(writing)
    for number in (*map(int, sys.argv[1:3]), reading):
        os.set_inheritable(number, True)
    os.execv(sys.executable, [sys.executable, "-P", *sys.argv[:6], str(reading)])


def number_of_threads() -> int:
    """Return how many threads this process has, those of libraries too, once some have ended."""
    deadline = time.monotonic() + THREAD_SECONDS
    while (number := len(os.listdir("/proc/self/task"))) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    return number


def state_of_files(places: list[str], pattern: str = "*") -> dict[str, tuple[int, int]]:
    """Return size and time of files, and of those in folders; of what is not there nothing."""
    states = {
        str(file): file.stat()
        for place in map(Path, places)
        for file in (place.rglob(pattern) if place.is_dir() else [place])
        if file.is_file()
    }
    return {file: (state.st_size, state.st_mtime_ns) for file, state in states.items()}


def state_of_packages() -> list[int]:
    """Return when packages were last installed where this Python has them."""
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return [os.stat(folder).st_mtime_ns for folder in sorted(folders)]


def load(reference: str) -> Callable[..., Any]:
    """Return what ``module:function`` names."""
    module, _, name = reference.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def main(arguments: list[str]) -> None:
    """Import, and fork until the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the SuperNode, whose end is noticed
    listening, alive, idle_seconds, reference, modules, *successor = arguments
    for number in (int(listening), int(alive)):
        os.set_inheritable(number, False)
    request: dict[str, Any] = {}
    if successor:
        with open(int(successor[0])) as pipe:
            request = json.load(pipe)
    begin = time.perf_counter()
    for module in filter(None, modules.split(",")):
        try:
            importlib.import_module(module)
        except ImportError as error:
            say(f"{module} is not imported before the first message: {error}")
    function = load(reference)
    gc.collect()
    gc.freeze()
    resident = Resident(
        socket.socket(fileno=int(listening)), int(alive), float(idle_seconds), function
    )
    say(f"process {os.getpid()} has imported in {time.perf_counter() - begin:.1f} s")
    if request.pop("refused", False):
        resident.asked = request
    elif request:
        resident.hold(request)
    resident.serve()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # what it holds is not taken apart piece by piece


if __name__ == "__main__":
    main(sys.argv[1:])
