"""A switch that tidegate turns: for applications that do not follow the route (`[route] mode = "copy"` or `"flags"`).

One file for both ends. The application's processes and tidegate share a directory, made once by `tidegate_switch.py init DIRECTORY`:

    switch.json           what is to be; written by the hook `switch`
    follows/PROCESS.json  what that process goes by; written by the process, read by the hook `confirm`

In the plan:

    [route]
    mode = "copy"
    [hooks]
    switch = { command = ["python3", "tidegate_switch.py", "turn", "/srv/orders-switch"] }
    confirm = { command = ["python3", "tidegate_switch.py", "confirm", "/srv/orders-switch"] }

In the application:

    switch = Switch("/srv/orders-switch", process="shop-1")
    with switch.write() as side:        # "legacy" or "next"; waits while writes are held
        collections[side].replace_one(...)
    with switch.read() as side:
        collections[side].find_one(...)

A process shows up in `follows/` before it looks at the switch, and takes what it put there back only when it ends. It says that it
follows something new once nothing is under way that it began before. So what `confirm` has seen holds: nobody writes, or reads, where
they must not, however slow a process is. A process that died is named by `confirm` until it is started again under its name, or its
file is deleted by someone who knows that it is dead and that its last write has landed or never will.

Python 3.9 or newer on Unix, no other dependency. Where the directory is a network share, it must show a renamed file to everybody at
once, and keep locks between machines.
"""

import fcntl
import json
import os
import sys
import threading
import time
import uuid
from contextlib import contextmanager

SIDES = ("legacy", "next")
#: How often a process looks at the switch, seconds.
POLL_S = 0.05
#: How long a write that ended with an error counts as under way, and whatever a process that died may have begun. Longer than a write
#: can take until it has landed or never will (the driver's timeoutMS); much shorter than the plan's freeze_max.
GRACE_S = 10.0


class Held(Exception):
    """Writes were held for longer than the caller would wait. Nothing was written."""


def _put(path, value):
    """Replaces a file as a whole."""
    beside = f"{path}.{os.getpid()}.{threading.get_ident()}"
    with open(beside, "w", encoding="utf-8") as f:
        json.dump(value, f)
        f.flush()
        os.fsync(f.fileno())
    os.replace(beside, path)


def _get(path):
    try:
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    except FileNotFoundError:
        return None


class Ended(Exception):
    """The switch has been closed. Nothing was written or read."""


class NotMine(Exception):
    """The switch was made before a fork, or another process goes by this one's name. Nothing was written or read."""


class Switch:
    """What one process goes by. Names of processes that run at the same time differ; one that is started again keeps its name.

    Made in the process that uses it: after a fork (prefork servers), each worker makes one under a name of its own.
    """

    def __init__(self, folder, process, grace_s=GRACE_S):
        self._folder, self._process, self._grace_s = folder, process, grace_s
        self._path = os.path.join(folder, "follows", f"{process}.json")
        self._changed = threading.Condition()
        self._state = {"rollout": None, "epoch": -1, "reads": 0, "writes": None}
        #: What is under way, by the epoch under which it was begun.
        self._busy = {}
        self._closed = False
        self._told = None
        #: Tells this process from another one of its name.
        self._pid, self._token, self._foreign = os.getpid(), uuid.uuid4().hex, False
        self._over = threading.Event()
        if _get(os.path.join(folder, "switch.json")) is None:
            raise FileNotFoundError(f"{folder} has no switch.json: is it the right directory? `tidegate_switch.py init` makes one")
        # Whoever had this name and died may have a write on its way.
        self._silent_until = time.monotonic() + (grace_s if os.path.exists(self._path) else 0)
        # Seen by whoever asks from here on; only then is the switch looked at.
        self._show_up()
        self._look()
        self._thread = threading.Thread(target=self._run, name="tidegate switch", daemon=True)
        self._thread.start()

    def _show_up(self):
        self._told = {"rollout": None, "epoch": -1, "pid": self._pid, "token": self._token}
        _put(self._path, self._told)

    def _run(self):
        while not self._over.wait(POLL_S):
            try:
                self._look()
            except (OSError, ValueError, KeyError, TypeError):
                # What cannot be read now changes nothing: this process goes on as it is, and `confirm` says that it does.
                continue

    def _look(self):
        shown = _get(self._path)
        if shown is not None and shown.get("token") != self._token:
            # It speaks for itself and not for this one, which can do nothing any more.
            with self._changed:
                self._foreign = True
                self._changed.notify_all()
            return
        if shown is None:
            # Somebody took this process off the list. It begins nothing more before it has shown up and looked again.
            with self._changed:
                self._state = {**self._state, "writes": None}
            self._show_up()
        found = _get(os.path.join(self._folder, "switch.json"))
        if found is None:
            return
        found = {"rollout": found["rollout"], "epoch": int(found["epoch"]), "reads": int(found["reads"]), "writes": str(found["writes"])}
        with self._changed:
            # What is older than what is known was late on its way.
            if found["rollout"] != self._state["rollout"] or found["epoch"] >= self._state["epoch"]:
                if found != self._state:
                    self._state = found
                    self._changed.notify_all()
            mine = {"rollout": self._state["rollout"], "epoch": self._state["epoch"], "pid": self._pid, "token": self._token}
            ready = all(epoch == self._state["epoch"] for epoch in self._busy) and time.monotonic() >= self._silent_until
        if ready and mine != self._told:
            _put(self._path, mine)
            self._told = mine

    @contextmanager
    def write(self, patience_s=30.0):
        """The side that a write goes to. Held writes wait so long. What is read to decide the write is read inside, from the same side.

        When an error leaves the block, the write may still land: it counts as under way for `grace_s` more.
        """
        state = self._begin(lambda: self._state["writes"] in SIDES, patience_s)
        try:
            yield state["writes"]
        except BaseException:
            timer = threading.Timer(self._grace_s, self._done, [state["epoch"]])
            timer.daemon = True
            timer.start()
            raise
        self._done(state["epoch"])

    @contextmanager
    def read(self, patience_s=30.0):
        """The side that a read goes to. Reads go on while writes are held."""
        state = self._begin(lambda: self._state["writes"] is not None, patience_s)
        try:
            yield "next" if state["reads"] == 100 else "legacy"
        finally:
            self._done(state["epoch"])

    def _begin(self, may, patience_s):
        """What it is begun under, once it may be."""
        if os.getpid() != self._pid:
            raise NotMine("made before a fork: make the switch in the process that uses it")
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed or self._foreign or may(), patience_s):
                raise Held(f"held for {patience_s} s")
            if self._foreign:
                raise NotMine(f"another process goes by the name {self._process}")
            if self._closed:
                raise Ended("this process has left the switch")
            epoch = self._state["epoch"]
            self._busy[epoch] = self._busy.get(epoch, 0) + 1
            return self._state

    def _done(self, epoch):
        with self._changed:
            self._busy[epoch] -= 1
            if not self._busy[epoch]:
                del self._busy[epoch]

    def close(self):
        """Begins nothing more, ends once nothing is under way, and is asked about no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        while True:
            with self._changed:
                if not self._busy:
                    break
            time.sleep(POLL_S)
        self._over.set()
        self._thread.join()
        if not self._foreign:
            os.unlink(self._path)


def init(folder):
    """Makes the directory: everything on legacy, until the hook `switch` says more. What is there stays."""
    os.makedirs(os.path.join(folder, "follows"), exist_ok=True)
    path = os.path.join(folder, "switch.json")
    if _get(path) is None:
        _put(path, {"rollout": None, "epoch": 0, "reads": 0, "writes": "legacy"})
    return 0


def turn(folder):
    """The hook `switch`: writes down what is to be, unless something newer of the same rollout is there."""
    wanted = json.load(sys.stdin)
    path = os.path.join(folder, "switch.json")
    # Two runners may be at it: one that was taken over, and the one that took over.
    with open(f"{path}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        there = _get(path)
        if there is None:
            print(f"{folder} has no switch.json: is it the right directory? `tidegate_switch.py init` makes one")
            return 1
        if there["rollout"] == wanted["rollout"] and there["epoch"] > wanted["epoch"]:
            print(f"the switch is at {there['epoch']} already")
            return 1
        _put(path, {name: wanted[name] for name in ("rollout", "epoch", "reads", "writes")})
    return 0


def confirm(folder):
    """The hook `confirm`: every process that has shown up goes by what was told, or is named."""
    wanted = json.load(sys.stdin)
    at = (wanted["rollout"], wanted["epoch"])
    there = _get(os.path.join(folder, "switch.json"))
    if there is None or (there["rollout"], there["epoch"]) != at:
        print(f"the switch is at {there and there['epoch']}, not at {wanted['epoch']}")
        return 1
    late = []
    for name in sorted(os.listdir(os.path.join(folder, "follows"))):
        if not name.endswith(".json"):
            continue
        found = _get(os.path.join(folder, "follows", name))
        if found is not None and (found["rollout"], found["epoch"]) != at:
            late.append(f"{name[:-5]} goes by {found['epoch']}")
    if late:
        print(f"not at {wanted['epoch']} yet: {', '.join(late[:5])}")
        return 1
    return 0


if __name__ == "__main__":
    COMMANDS = {"init": init, "turn": turn, "confirm": confirm}
    if len(sys.argv) != 3 or sys.argv[1] not in COMMANDS:
        sys.exit("usage: tidegate_switch.py init|turn|confirm DIRECTORY; `turn` and `confirm` take an event on standard input")
    sys.exit(COMMANDS[sys.argv[1]](sys.argv[2]))
