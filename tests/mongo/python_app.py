"""A small application that follows the route with clients/python/tidegate_route.py, and notes all it was told.

    python_app.py URI PLAN DATABASE PROCESS LOG seed            makes the orders
    python_app.py URI PLAN DATABASE PROCESS LOG run             until SIGTERM

With SWITCH=FOLDER in its environment it goes by clients/python/tidegate_switch.py instead.

The log has one JSON line for each write that is tried, acknowledged or not made, and each read. CLOCK_MONOTONIC is the same for all
processes of a machine, so that whoever reads the logs of all of them knows what had been acknowledged before a read began
(tests/mongo/python.rs). Nothing in here judges what it was told, but for a write that misses what it had acknowledged.
"""

import json
import os
import random
import signal
import sys
import threading
import time
from contextlib import contextmanager

from bson import ObjectId
from bson.decimal128 import Decimal128
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

import tidegate_route as tr
from tidegate_switch import Held, Switch

URI, PLAN, DATABASE, PROCESS, LOG, WHAT = sys.argv[1:]
ORDERS, LANES, PROCESSES = 120, 2, 2
ME = int(PROCESS.rsplit("-", 1)[1]) - 1
GOING = threading.Event()
log_file = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def note(what, order, rev, **more):
    line = {"what": what, "n": order, "rev": rev, "at": time.monotonic(), **more}
    os.write(log_file, (json.dumps(line) + "\n").encode())


def id_of(n):
    """Several types on purpose."""
    return (f"order {n}", n, float(n), ObjectId(f"{n:024x}"), {"shop": "harbour", "n": n})[n % 5]


def order(side, n, rev):
    """Order `n` at a revision, in the shape of a side."""
    cents = (n * 7919 + rev * 104729) % 1_000_000
    total, name = f"{cents // 100}.{cents % 100:02}", f"Customer {n}"
    if side == tr.LEGACY:
        return {"_id": id_of(n), "customer": {"name": name, "city": "Kobe"}, "total": total, "n": n, "rev": rev}
    return {"_id": id_of(n), "customer": {"city": "Kobe"}, "total": Decimal128(total), "n": n, "rev": rev, "customer_name": name,
            "schema_version": 2}


def same(legacy, next_):
    """What a shadow read takes for the same order."""
    def plain(document):
        return document["n"], document["rev"], str(document["total"]), document.get("customer_name") or document["customer"]["name"]
    return plain(legacy) == plain(next_)


class ThroughSwitch:
    """A switch, used as the route is."""

    class Answer:
        def __init__(self, **fields):
            self.__dict__.update(fields)

    def __init__(self, client, folder):
        orders = client.get_database(DATABASE, read_concern=ReadConcern("majority"), write_concern=WriteConcern("majority"))
        self.sides = {"legacy": orders["orders"], "next": orders["orders_v2"]}
        self.switch = Switch(folder, PROCESS)

    def start(self):
        return self

    @contextmanager
    def write(self, _key, patience_s):
        try:
            with self.switch.write(patience_s) as side:
                yield self.Answer(side=side, epoch=0, collection=self.sides[side], session=None)
        except Held:
            raise tr.NoPermit("held") from None

    def find_one(self, key, _owner=False):
        with self.switch.read() as side:
            return self.Answer(side=side, owner=side, document=self.sides[side].find_one({"_id": key}))

    def count(self, **_):
        pass

    def stop(self):
        self.switch.close()
        return True


class Lane:
    """Writes orders of its own, one after another: each order has one writer."""

    def __init__(self, route, lane):
        self.route, self.draw = route, random.Random(f"{PROCESS} {lane}")
        self.stride = PROCESSES * LANES
        self.first = ME * LANES + lane
        self.revs = {}
        # Numbers that no process of before has used.
        self.fresh = self.first + self.stride * (10_000 + int(time.time()) % 100_000 * 1_000)

    def take_up(self):
        """Finds out what there is: a process of before may have left it at any revision."""
        for n in range(self.first, ORDERS, self.stride):
            found = read(self.route, n, owner=True)
            if found is not None:
                self.revs[n] = found["rev"]

    def run(self):
        while not GOING.is_set():
            time.sleep(self.draw.uniform(0.005, 0.025))
            try:
                if self.draw.random() < 0.5:
                    read(self.route, self.draw.randrange(ORDERS))
                else:
                    self.write()
            except PyMongoError:
                continue

    def write(self):
        choice = self.draw.random()
        if choice < 0.08 or not self.revs:
            n, before, gone = self.fresh, 0, False
            self.fresh += self.stride
        else:
            n = self.draw.choice(list(self.revs))
            before, gone = self.revs[n], choice > 0.97 and n >= ORDERS
        rev = before + 1
        try:
            with self.route.write(id_of(n), 15.0) as permit:
                note("try", n, rev, gone=gone, side=permit.side, epoch=permit.epoch)
                there = {"_id": id_of(n), "rev": before}
                if before == 0:
                    matched = bool(permit.collection.insert_one(order(permit.side, n, rev), session=permit.session).inserted_id)
                elif gone:
                    matched = permit.collection.delete_one(there, session=permit.session).deleted_count == 1
                else:
                    matched = permit.collection.replace_one(there, order(permit.side, n, rev), session=permit.session).matched_count == 1
        except tr.NoPermit:
            return
        except tr.OutcomeUnknown as e:
            if not e.settled.wait(60):
                note("unsettled", n, rev)
                GOING.set()
                return
            found = read(self.route, n, owner=True, patience_s=30)
            matched = found is None if gone else found is not None and found["rev"] == rev
            if not matched:
                note("not made", n, rev)
                if before == 0:
                    self.revs.pop(n, None)
                return
        if not matched:
            note("lost", n, rev, side=permit.side, epoch=permit.epoch)
            self.route.count(lost=1)
            self.revs.pop(n, None)
            return
        note("acknowledged", n, rev, gone=gone, side=permit.side)
        if gone:
            del self.revs[n]
        else:
            self.revs[n] = rev


def read(route, n, owner=False, patience_s=0.0):
    """Reads an order and notes what was found, when it began, and whether the side that answered owned it."""
    began = time.monotonic()
    while True:
        try:
            found = route.find_one(id_of(n), owner)
            break
        except PyMongoError:
            if time.monotonic() - began > patience_s:
                raise
            time.sleep(0.1)
            began, patience_s = time.monotonic(), patience_s - (time.monotonic() - began)
    document = found.document
    note("read", n, document["rev"] if document else None, began=began, side=found.side, owned=found.side == found.owner)
    return document


def main():
    client = MongoClient(URI)
    legacy = f"{DATABASE}.orders"
    if WHAT == "seed":
        client[DATABASE]["orders"].insert_many(order(tr.LEGACY, n, 1) for n in range(ORDERS))
        return
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: GOING.set())
    if os.environ.get("SWITCH"):
        route = ThroughSwitch(client, os.environ["SWITCH"])
    else:
        route = tr.RouteClient(client, PLAN, PROCESS, legacy, same=same, oracle=True, write_limit_s=1.5)
    route = route.start()
    lanes = [Lane(route, lane) for lane in range(LANES)]
    for lane in lanes:
        lane.take_up()
    threads = [threading.Thread(target=lane.run) for lane in lanes]
    for thread in threads:
        thread.start()
    print("goes by the switch" if os.environ.get("SWITCH") else "follows the route", file=sys.stderr, flush=True)
    GOING.wait()
    for thread in threads:
        thread.join()
    sys.exit(0 if route.stop() else 1)


main()
