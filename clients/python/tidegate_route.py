"""The application's side of a tidegate route, in one file: Python 3.9 or newer and PyMongo 4.3 or newer, nothing else.

    route = RouteClient(MongoClient(uri), plan="orders-v2", process="web-1", legacy="shop.orders")
    with route:                                   # acknowledges the route, and withdraws at the end
        with route.write(order_id) as write:      # waits while the bucket is frozen or there is no lease
            write.collection.replace_one({"_id": order_id}, order_in_the_shape_of(write.side), upsert=True, session=write.session)
        found = route.find_one(order_id)          # found.document is in the shape of found.side

One client a process, made after any fork; its methods may be called from all threads. docs/routing.md is the contract that this keeps,
and its test vectors are checked against this file. Nothing in here knows tidegate: the route document is all that both sides share.
"""

import hashlib
import logging
import os
import random
import secrets
import struct
import threading
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Callable, NamedTuple, Optional

import bson
import pymongo
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.decimal128 import Decimal128
from bson.errors import InvalidBSON
from bson.int64 import Int64
from bson.timestamp import Timestamp
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError, WriteConcernError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

LEGACY, NEXT = "legacy", "next"
BUCKETS = 1024

POLL_S = 0.25
"""How often a process acknowledges and reads the route."""
LOOK_S = 0.1
"""How often it looks, in between, whether the route has changed: writes are held while a process does not know of a freeze."""
BEFORE_ROUTE_S = 2.0
"""The lease while there is no route to say how long it lasts."""
ROUND_LIMIT_S = 5.0
"""An acknowledgement, or an attempt to settle a write, that takes longer is made again."""

log = logging.getLogger("tidegate_route")


class RouteError(Exception):
    """The route does not allow it, or cannot be used."""


class Unplaceable(RouteError, ValueError):
    """An `_id` that has no bucket."""


class NoPermit(RouteError):
    """A write that was not begun: no lease, a freeze that lasts, an earlier write of the key that is not settled, or the end."""


class OutcomeUnknown(RouteError):
    """The write may or may not have been made, and it is being found out. Once `settled` is set, what the owner has of the key is final."""

    def __init__(self, settled: threading.Event):
        super().__init__("the outcome of the write is not known yet")
        self.settled = settled


# --- The bucket of a document: everything follows from the bytes of its `_id` as they are sent.

_MIN, _MAX, _NULL, _STRING, _SYMBOL, _DOCUMENT, _ARRAY, _BINARY = 0xFF, 0x7F, 0x0A, 0x02, 0x0E, 0x03, 0x04, 0x05
_DOUBLE, _INT32, _INT64, _DECIMAL = 0x01, 0x10, 0x12, 0x13
_OBJECT_ID, _BOOL, _DATE, _TIMESTAMP, _CODE, _SCOPED = 0x07, 0x08, 0x09, 0x11, 0x0D, 0x0F
_CANONICAL = {
    _MIN: -1, _MAX: 127, _NULL: 5, _INT32: 10, _INT64: 10, _DOUBLE: 10, _DECIMAL: 10, _STRING: 15, _SYMBOL: 15, _DOCUMENT: 20,
    _ARRAY: 25, _BINARY: 30, _OBJECT_ID: 35, _BOOL: 40, _DATE: 45, _TIMESTAMP: 47, _CODE: 60, _SCOPED: 65,
}
_FIXED = {_DOUBLE: 8, _OBJECT_ID: 12, _BOOL: 1, _DATE: 8, _NULL: 0, _INT32: 4, _TIMESTAMP: 8, _INT64: 8, _DECIMAL: 16, _MIN: 0, _MAX: 0}
_NUMBERS = (_INT32, _INT64, _DOUBLE, _DECIMAL)


def _int32(data: bytes, at: int = 0) -> int:
    return struct.unpack_from("<i", data, at)[0]


def _elements(document: bytes):
    """The fields of a BSON document: type, name, the bytes of the value."""
    at = 4
    while document[at]:
        kind, name_ends = document[at], document.index(0, at + 1)
        name, at = document[at + 1:name_ends], name_ends + 1
        if kind in _FIXED:
            size = _FIXED[kind]
        elif kind in (_STRING, _SYMBOL, _CODE):
            size = 4 + _int32(document, at)
        elif kind in (_DOCUMENT, _ARRAY, _SCOPED):
            size = _int32(document, at)
        elif kind == _BINARY:
            size = 5 + _int32(document, at)
        else:
            raise Unplaceable(f"a value of BSON type {kind:#04x} cannot be part of an _id")
        yield kind, name, document[at:at + size]
        at += size


def _number(kind: int, value: bytes):
    """What a number is worth, as an int, a float or a Decimal, all of which compare exactly; None for NaN."""
    if kind == _DECIMAL:
        number = Decimal128.from_bid(value).to_decimal()
        return None if number.is_nan() else number
    number = struct.unpack({_INT32: "<i", _INT64: "<q", _DOUBLE: "<d"}[kind], value)[0]
    return number if number == number else None


def _whole(kind: int, value: bytes) -> int:
    number = _number(kind, value)
    if number is None:
        return 0
    if not -(2**63) < number < 2**63:
        raise Unplaceable(f"{number} is 2^63 or larger in magnitude")
    if kind == _DECIMAL and number != number.to_integral_value():
        raise Unplaceable(f"the decimal {number} is no whole number")
    return int(number)


def _hashed(kind: int, value: bytes, name: bytes = b"") -> bytes:
    """A value as the hash sees it; `name`, inside a document, with its NUL."""
    head = struct.pack("<i", _CANONICAL[kind]) + name
    if kind in _NUMBERS:
        return head + struct.pack("<q", _whole(kind, value))
    if kind == _SCOPED:
        scope = 8 + _int32(value, 4)
        return head + value[8:scope] + _hashed_fields(value[scope:])
    return head + (_hashed_fields(value) if kind in (_DOCUMENT, _ARRAY) else value)


def _hashed_fields(document: bytes) -> bytes:
    return b"".join(_hashed(kind, value, name + b"\0") for kind, name, value in _elements(document)) + bytes(4)


def _same(kind: int, value: bytes):
    """What makes two values equal to MongoDB, without a collation; for the values that a cohort may name."""
    if kind in _NUMBERS:
        return "number", _number(kind, value)
    return _CANONICAL[kind], value


class Place(NamedTuple):
    """Where the route finds a document: all of it follows from its `_id`."""

    kind: int
    value: bytes
    hash64: int
    bucket: int

    @staticmethod
    def of(_id: Any, codec_options: CodecOptions = CodecOptions()) -> "Place":
        ((kind, _, value),) = _elements(bson.encode({"_id": _id}, codec_options=codec_options))
        if kind == _ARRAY:
            raise Unplaceable("an array cannot be an _id")
        digest = hashlib.md5(bytes(4) + _hashed(kind, value), usedforsecurity=False).digest()
        hash64 = struct.unpack("<q", digest[:8])[0]
        return Place(kind, value, hash64, (hash64 + 2**63) >> 54)


def bucket(_id: Any, codec_options: CodecOptions = CodecOptions()) -> int:
    """The bucket of an `_id`, 0 to 1023."""
    return Place.of(_id, codec_options).bucket


# --- The route document.

_AHEAD = {LEGACY: 0, "buckets": 1, NEXT: 2}


class Cohort:
    """The documents whose `field`, inside `_id`, equals one of a few values."""

    def __init__(self, field_path: str, values: list):
        first, *self._path = field_path.encode().split(b".")
        if first != b"_id" or b"" in self._path or not values:
            raise RouteError(f"no cohort: {field_path} in {len(values)} values")
        encoded = _elements(bson.encode({str(i): v for i, v in enumerate(values)}))
        self._values = {_same(kind, value) for kind, _, value in encoded}

    def contains(self, place: Place) -> bool:
        kind, value = place.kind, place.value
        for name in self._path:
            if kind != _DOCUMENT:
                return False
            found = next(((k, v) for k, n, v in _elements(value) if n == name), None)
            if found is None:
                return False
            kind, value = found
        return kind not in (_DOCUMENT, _ARRAY, _NULL) and _same(kind, value) in self._values


@dataclass(frozen=True)
class Route:
    """What the route document says. A document that does not say all of it is no route: RouteError."""

    epoch: int
    lease_s: float
    shadow: int
    reads_next_below: int
    writes_next_below: int
    frozen: Optional[range]
    frozen_until_ms: int
    cohort: Optional[Cohort]
    cohort_reads: str
    cohort_writes: str
    names: dict
    stranded_below: int

    @staticmethod
    def of(document: dict) -> "Route":
        try:
            frozen, pilot = document.get("frozen"), document.get("pilot")
            reads, writes = document["reads_next_below"], document["writes_next_below"]
            goes = (pilot["reads"], pilot["writes"]) if pilot else ("buckets", "buckets")
            if not 0 <= writes <= reads <= BUCKETS or _AHEAD[goes[1]] > _AHEAD[goes[0]]:
                raise RouteError("more writes than reads are on next, or buckets that are none")
            return Route(
                epoch=int(document["epoch"]),
                lease_s=max(document["lease_ms"], 0) / 1000,
                shadow=int(document["shadow"]),
                reads_next_below=reads,
                writes_next_below=writes,
                frozen=range(frozen["from"], frozen["to"]) if frozen else None,
                frozen_until_ms=int(frozen["until"]) if frozen else 0,
                cohort=Cohort(pilot["field"], pilot["in"]) if pilot else None,
                cohort_reads=goes[0],
                cohort_writes=goes[1],
                names={LEGACY: document["legacy"], NEXT: document["next"]},
                stranded_below=document.get("stranded_below", 0),
            )
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as e:
            raise RouteError(f"the route document is not usable: {e!r}") from e

    def owner(self, place: Place) -> str:
        """The side whose document a write changes."""
        return self._side(place, self.cohort_writes, self.writes_next_below)

    def reader(self, place: Place) -> str:
        """The side that answers a read."""
        return self._side(place, self.cohort_reads, self.reads_next_below)

    def _side(self, place: Place, goes: str, below: int) -> str:
        if goes != "buckets" and self.cohort.contains(place):
            return goes
        return NEXT if place.bucket < below else LEGACY

    def is_frozen(self, place: Place) -> bool:
        return self.frozen is not None and place.bucket in self.frozen


# --- What a process reports with its acknowledgement: gates and triggers are judged by it.

class Report:
    """Latencies in short slices, of which the last few are repeated, and running totals."""

    KEEP = 16
    TOTALS = ("acknowledged", "lost", "stale_owner", "stale_copy", "shadow_compared", "shadow_different")

    def __init__(self, oracle: bool):
        self.oracle = oracle
        self.totals = Counter()
        self._latency, self._errors = {}, Counter()
        self._closed, self._closed_at, self._n = deque(maxlen=self.KEEP), float("-inf"), 0

    def latency(self, kind: str, side: str, seconds: float) -> None:
        us = min(int(seconds * 1e6), 2**31 - 1)
        drop = max(0, us.bit_length() - 6)          # two digits are enough, and keep a slice to a few dozen pairs
        us = (us >> drop << drop) + (1 << drop >> 1)
        self._latency.setdefault(f"{kind}_{side}", Counter())[us] += 1

    def error(self, kind: str, side: str) -> None:
        self._errors[f"{kind}_{side}"] += 1

    def document(self, now: float) -> dict:
        if (self._latency or self._errors) and now - self._closed_at >= 0.24:
            entry = {"n": Int64(self._n)}
            for name in {*self._latency, *self._errors}:
                pairs = self._latency.get(name, {}).items()
                entry[name] = {"us_count": [n for pair in pairs for n in pair], "errors": self._errors[name]}
            self._closed.append(entry)
            self._n, self._closed_at, self._latency, self._errors = self._n + 1, now, {}, Counter()
        return {"oracle": self.oracle, "totals": [Int64(self.totals[t]) for t in self.TOTALS], "slices": list(self._closed)}


# --- The process.

@dataclass(eq=False)
class Permit:
    """Permission to make one write, to one side: in `session`, through `collection`."""

    side: str
    collection: Any
    session: Any
    epoch: int
    place: Place
    settled: threading.Event = field(default_factory=threading.Event)


class Read(NamedTuple):
    """Where a read goes."""

    side: str
    collection: Any
    session: Any
    owner: str
    epoch: int


class Found(NamedTuple):
    """What a read found, in the shape of its side, and which side owned the document when it began."""

    side: str
    document: Optional[dict]
    owner: str


_MAJORITY = {
    "read_concern": ReadConcern("majority"),
    "write_concern": WriteConcern("majority", j=True),
    "read_preference": ReadPreference.PRIMARY,
}
# The server was interrupted, shut down or out of time: the write may have been made all the same.
_AMBIGUOUS = {6, 7, 50, 64, 89, 91, 189, 202, 262, 9001, 11600, 11601, 11602, 13436}


def _not_made(error: BaseException) -> bool:
    """True when the server has surely refused the write. When in doubt it has not."""
    if isinstance(error, PyMongoError) and error.has_error_label("NoWritesPerformed"):
        return True
    if not isinstance(error, OperationFailure) or isinstance(error, (BulkWriteError, WriteConcernError)):
        return False
    return error.code not in _AMBIGUOUS and not (error.details or {}).get("writeConcernError")


class RouteClient:
    """A process's view of the route.

    `client` reaches legacy's cluster, `next_client` next's where that is another one. `process` names this process, and no other one
    that runs; one that was started anew takes up its name. Until there is a route, everything goes to `legacy`. `same(legacy, next)`
    says whether two documents mean the same: without it no read is sent to both sides. `oracle` says that the process checks what it
    reads against what was acknowledged to it, and counts what is lost. A server gives a write up after `write_limit_s`: so long after
    a process died nothing of it is under way any more. All processes have the same.
    """

    def __init__(self, client: pymongo.MongoClient, plan: str, process: str, legacy: str,
                 next_client: Optional[pymongo.MongoClient] = None,
                 same: Optional[Callable[[dict, dict], bool]] = None, oracle: bool = False, write_limit_s: float = 10.0):
        self._clients = {LEGACY: client, NEXT: next_client or client}
        for each in self._clients.values():
            if not each.options.retry_writes:
                raise RouteError("retryWrites=true is needed: a write of unknown outcome is settled by its transaction number")
        self._plan, self._process, self._legacy, self._same = plan, process, legacy, same
        self._write_limit_s = write_limit_s
        self._ack_id = f"{plan}/{process}"
        # Dates as milliseconds: `until` is compared with a server's clock, and no date is out of range.
        control = client.get_database("tidegate", CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS), **_MAJORITY)
        self._control, self._routes, self._acks = control, control["routes"], control["route_acks"]
        self._pid = os.getpid()
        self._changed = threading.Condition()       # guards everything below
        self._route: Optional[Route] = None
        self._read = (None, None)                   # the document last read, and what it says
        self._followed = False                      # it is known whether there is a route
        self._lease_until = float("-inf")
        self._in_flight = Counter()                 # writes under way, by the epoch they were begun under
        self._unsettled = []                        # permits of unknown outcome: no other write of their keys begins
        self._settling: Optional[threading.Thread] = None
        self._seen = {}                             # what reads of each cluster must reflect: operation time, cluster time
        self._frozen_since = (None, 0.0)
        self._acked = 0
        self._beat = 0
        self._before_me = None                      # the epoch of a process that died under this name, and until when it counts
        self._stopping = False
        self._report = Report(oracle)
        self._shadows, self._shadow_room = ThreadPoolExecutor(1, "tidegate shadow reads"), threading.BoundedSemaphore(32)
        self._session = None                        # the loop's own: what it reads is causally after what it wrote
        self._thread = threading.Thread(target=self._run, name="tidegate route", daemon=True)

    # What an application calls.

    def start(self) -> "RouteClient":
        self._thread.start()
        return self

    def stop(self, timeout_s: float = 30.0) -> bool:
        """Waits for the writes under way and withdraws the acknowledgement. False when that took too long: the document then stays,
        rightly, and tidegate names the process."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._shadows.shutdown(wait=False, cancel_futures=True)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def __enter__(self) -> "RouteClient":
        return self.start()

    def __exit__(self, *_: Any) -> None:
        self.stop()

    @contextmanager
    def write(self, _id: Any, timeout_s: float = 10.0):
        """One write of one document, on the side that owns it. Reads that decide the write belong inside, through the same session.

        Raises NoPermit when it could not begin in time, and OutcomeUnknown when the answer was lost. Let errors of the driver pass:
        they tell this what became of the write."""
        began = time.monotonic()
        permit = self._permit(self._place(_id), timeout_s)
        try:
            with pymongo.timeout(self._write_limit_s):
                yield permit
        except BaseException as e:
            with self._changed:
                self._report.error("write", permit.side)
            if _not_made(e):
                self._release(permit)
                raise
            self._settle_later(permit)
            if isinstance(e, PyMongoError):
                raise OutcomeUnknown(permit.settled) from e
            raise
        self._saw(permit.side, permit.session)
        with self._changed:
            self._report.latency("write", permit.side, time.monotonic() - began)
            self._report.totals["acknowledged"] += 1
        self._release(permit)

    @contextmanager
    def read(self, _id: Any, owner: bool = False):
        """Where a read of this document goes; with `owner`, the side that owns it by the route that this process follows: it has all that
        this process was told. What decides a write is read inside `write`, where no owner can change."""
        place = self._place(_id)
        with self._changed:
            self._await_route()
            reader, owned_by, epoch = self._sides(place)
            side = owned_by if owner else reader
            collection = self._collection(side)
        with self._session_on(side) as session:
            yield Read(side, collection, session, owned_by, epoch)
            self._saw(side, session)

    def find_one(self, _id: Any, owner: bool = False) -> Found:
        """One document by its `_id`; a share of the reads is compared with the other side, in the background."""
        began = time.monotonic()
        with self.read(_id, owner) as read:
            try:
                document = read.collection.find_one({"_id": _id}, session=read.session)
            except PyMongoError:
                with self._changed:
                    self._report.error("read", read.side)
                raise
        with self._changed:
            self._report.latency("read", read.side, time.monotonic() - began)
            share = self._route.shadow if self._route and not self._stopping else 0
        if self._same and random.randrange(100) < share and self._shadow_room.acquire(blocking=False):
            try:
                self._shadows.submit(self._shadow, _id, read.side)
            except RuntimeError:                    # stopping
                self._shadow_room.release()
        return Found(read.side, document, read.owner)

    def whole_side(self) -> str:
        """Where operations go that name no `_id`: legacy until all writes are on next."""
        with self._changed:
            self._await_route()
            return NEXT if self._route and self._route.writes_next_below == BUCKETS else LEGACY

    def epoch(self) -> int:
        """The epoch that is followed; 0 before there is a route."""
        with self._changed:
            return self._route.epoch if self._route else 0

    def stranded_below(self) -> int:
        """Buckets below this were given back to legacy while next did not answer: expect older versions there."""
        with self._changed:
            return self._route.stranded_below if self._route else 0

    def count(self, **totals: int) -> None:
        """Adds to the totals that are reported: `lost`, `stale_owner` and `stale_copy` are for the process to find out."""
        with self._changed:
            self._report.totals.update(totals)

    # Permits.

    def _place(self, _id: Any) -> Place:
        if os.getpid() != self._pid:
            raise RouteError("a client does not survive a fork: make one in each process")
        return Place.of(_id, self._clients[LEGACY].codec_options)

    def _await_route(self) -> None:
        """Who has only just started does not know whether legacy is still the side to ask."""
        if not self._changed.wait_for(lambda: self._followed or self._stopping, ROUND_LIMIT_S):
            raise RouteError("the route could not be read yet")

    def _sides(self, place: Place):
        """Where it is read, who owns it, under which epoch."""
        route = self._route
        return (route.reader(place), route.owner(place), route.epoch) if route else (LEGACY, LEGACY, 0)

    def _collection(self, side: str):
        database, _, name = (self._route.names[side] if self._route else self._legacy).partition(".")
        return self._clients[side][database].get_collection(name, **_MAJORITY)

    def _why_not(self, place: Place) -> Optional[str]:
        if time.monotonic() >= self._lease_until:
            return "the lease on the route has run out"
        if self._route and self._route.is_frozen(place):
            return f"bucket {place.bucket} is frozen"
        if any(permit.place.hash64 == place.hash64 for permit in self._unsettled):
            return "the outcome of an earlier write of the key is not known"
        return None

    def _permit(self, place: Place, timeout_s: float) -> Permit:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                if self._stopping:
                    raise NoPermit("the client is stopping")
                why = self._why_not(place)
                if why is None:
                    break
                left = deadline - time.monotonic()
                if left <= 0:
                    self._report.error("write", self._sides(place)[1])
                    raise NoPermit(why)
                self._changed.wait(min(left, 0.05))
            _, side, epoch = self._sides(place)
            collection = self._collection(side)
            self._in_flight[epoch] += 1
        permit = Permit(side, collection, None, epoch, place)
        try:
            permit.session = self._session_on(side)
        except BaseException:
            self._release(permit)
            raise
        return permit

    def _release(self, permit: Permit) -> None:
        """The write's outcome is known: its epoch may be acknowledged."""
        if permit.session is not None:
            permit.session.end_session()
        with self._changed:
            self._in_flight[permit.epoch] -= 1
            if self._in_flight[permit.epoch] == 0:
                del self._in_flight[permit.epoch]
                # Only then can it be acknowledged earlier than it would be anyway, or the loop end.
                if self._stopping or (self._route and self._route.epoch > permit.epoch):
                    self._changed.notify_all()
        permit.settled.set()

    def _settle_later(self, permit: Permit) -> None:
        with self._changed:
            self._unsettled.append(permit)
            if self._settling is None:
                self._settling = threading.Thread(target=self._settle, name="tidegate settles", daemon=True)
                self._settling.start()

    def _settle(self) -> None:
        """Settles writes one after another, and goes when none is left."""
        while True:
            with self._changed:
                waiting = list(self._unsettled)
                if not waiting:
                    self._settling = None
                    return
            for permit in waiting:
                if self._fence(permit):
                    with self._changed:
                        self._unsettled.remove(permit)
                        self._changed.notify_all()
                    self._saw(permit.side, permit.session)
                    self._release(permit)
            time.sleep(POLL_S)

    def _fence(self, permit: Permit) -> bool:
        """One more write in the same session. A server carries out the writes of a session one by one, and refuses those with an older
        transaction number: once this is acknowledged, the lost one is there or never will be."""
        try:
            with pymongo.timeout(ROUND_LIMIT_S):
                if self._clients[permit.side] is self._clients[LEGACY]:
                    self._acks.update_one({"_id": self._ack_id}, {"$inc": {"settled": 1}}, session=permit.session)
                else:
                    # Another cluster, where this process has nothing of its own: a write that matches nothing.
                    permit.collection.update_one({"$nor": [{}]}, {"$set": {"settled": 1}}, session=permit.session)
            return True
        except PyMongoError as e:
            log.warning("a write on %s is not settled yet: %s", permit.side, e)
            # CommandNotSupportedOnView: the collection has been put away, and the primary has said so within the session.
            return isinstance(e, OperationFailure) and e.code == 166

    # Reads.

    def _session_on(self, side: str):
        """A session whose reads reflect whatever this process has been told by that cluster."""
        client = self._clients[side]
        session = client.start_session(causal_consistency=True)
        with self._changed:
            operation_time, cluster_time = self._seen.get(id(client), (None, None))
        if cluster_time is not None:
            session.advance_cluster_time(cluster_time)
        if operation_time is not None:
            session.advance_operation_time(operation_time)
        return session

    def _saw(self, side: str, session: Any) -> None:
        key, none = id(self._clients[side]), (Timestamp(0, 0), None)
        with self._changed:
            if session.operation_time and session.operation_time > self._seen.get(key, none)[0]:
                self._seen[key] = (session.operation_time, session.cluster_time)

    def _shadow(self, _id: Any, side: str) -> None:
        """Reads both sides and compares. Behind is not different: it is read again until it has caught up."""
        try:
            for _ in range(6):
                found = {}
                for each in (side, NEXT if side == LEGACY else LEGACY):
                    began = time.monotonic()
                    try:
                        with self._session_on(each) as session:
                            found[each] = self._collection(each).find_one({"_id": _id}, session=session)
                    except PyMongoError:
                        with self._changed:
                            self._report.error("read", each)
                        return
                    took = time.monotonic() - began
                legacy, next_ = found[LEGACY], found[NEXT]
                if (legacy is None and next_ is None) or (None not in (legacy, next_) and self._same(legacy, next_)):
                    with self._changed:
                        self._report.totals["shadow_compared"] += 1
                        self._report.latency("read", each, took)
                    return
                time.sleep(0.4)
            self.count(shadow_compared=1, shadow_different=1)
        except Exception:
            log.exception("a shadow read")
        finally:
            self._shadow_room.release()

    # The loop that acknowledges.

    def _run(self) -> None:
        self._session = self._clients[LEGACY].start_session(causal_consistency=True)
        while True:
            with self._changed:
                if self._stopping and not self._in_flight:
                    break
            acked = self._round()
            next_round = time.monotonic() + POLL_S
            while True:
                with self._changed:
                    if acked and self._can_ack_again():
                        break
                    look = min(time.monotonic() + LOOK_S, next_round)
                    woken = self._changed.wait(max(0.0, look - time.monotonic()))
                if woken or look == next_round:
                    break
                self._look()
        self._withdraw()

    def _can_ack_again(self) -> bool:
        """A newer epoch has been read than was acknowledged, and no write under way is older: a freeze waits for this process."""
        if self._route is None or self._route.epoch <= self._acked or self._before_me:
            return False
        return all(epoch >= self._route.epoch for epoch in self._in_flight)

    def _round(self) -> bool:
        """One acknowledgement and one read of the route, causally after it. A failure only costs the lease."""
        sent = time.monotonic()
        try:
            with pymongo.timeout(ROUND_LIMIT_S):
                if self._beat == 0:
                    self._take_up()
                ack = self._ack_document(sent)
                self._acks.replace_one({"_id": self._ack_id}, ack, upsert=True, session=self._session)
                route = self._read_route()
        except (PyMongoError, RouteError, InvalidBSON) as e:
            log.warning("the route is not acknowledged: %s", e)
            return False
        self._saw(LEGACY, self._session)
        with self._changed:
            self._followed = True
            if route is not None:
                self._acked = ack["epoch"]
                self._lease_until = sent + route.lease_s
                self._adopt(route)
            elif self._route is None:
                # Nobody has begun: the lease is on legacy, and the first freeze waits for this process.
                self._lease_until = sent + BEFORE_ROUTE_S
            self._changed.notify_all()
        if route is not None and route.frozen is not None:
            self._unfreeze(route)
        return True

    def _take_up(self) -> None:
        """A process that died under this name may have writes under way: until they have ended, no newer epoch is acknowledged than it
        did."""
        found = self._acks.find_one({"_id": self._ack_id}, session=self._session)
        if found is not None:
            self._before_me = (int(found.get("epoch", 0)), time.monotonic() + self._write_limit_s + 1.0)

    def _ack_document(self, now: float) -> dict:
        with self._changed:
            known = self._route.epoch if self._route else 0
            epoch = min([known, *self._in_flight])
            if self._before_me and now >= self._before_me[1]:
                self._before_me = None
            if self._before_me:
                epoch = min(epoch, self._before_me[0])
            self._beat += 1
            return {
                "_id": self._ack_id, "plan": self._plan, "process": self._process, "epoch": Int64(epoch),
                # Newer than what is acknowledged while an older write has an unknown outcome: none is begun under an older one.
                "follows": Int64(known),
                "beat": Int64(self._beat), "report": self._report.document(now),
            }

    def _read_route(self) -> Optional[Route]:
        document = self._routes.find_one({"_id": self._plan}, session=self._session)
        if document is None:
            return None
        if document != self._read[0]:
            self._read = (document, Route.of(document))
        return self._read[1]

    def _look(self) -> None:
        """Reads the route without acknowledging. What it finds can only be newer; the lease still runs from the last acknowledgement."""
        try:
            with pymongo.timeout(1.0):
                route = self._read_route()
        except (PyMongoError, RouteError, InvalidBSON):
            return
        # What is read under this route must see at least what its author had seen.
        self._saw(LEGACY, self._session)
        if route is not None:
            with self._changed:
                self._adopt(route)
                self._changed.notify_all()

    def _adopt(self, route: Route) -> None:
        if self._route is None or route.epoch > self._route.epoch:
            self._route = route
            self._frozen_since = (route.epoch, time.monotonic())

    def _unfreeze(self, route: Route) -> None:
        """Undoes a freeze whose time is over on the server's clock: ownership stays what it was, and one compare-and-set wins."""
        epoch, since = self._frozen_since
        if epoch != route.epoch or time.monotonic() - since <= 1.0:
            return
        try:
            with pymongo.timeout(ROUND_LIMIT_S):
                now = self._control.command("hello", codec_options=self._control.codec_options, session=self._session)["localTime"]
                if int(now) > route.frozen_until_ms:
                    undone = {"frozen": None, "epoch": Int64(route.epoch + 1), "nonce": Int64(secrets.randbits(63))}
                    expected = {"_id": self._plan, "epoch": Int64(route.epoch)}
                    self._routes.update_one(expected, {"$set": undone}, session=self._session)
        except PyMongoError as e:
            log.warning("an expired freeze is not undone: %s", e)       # whoever wins, the next round reads the outcome

    def _withdraw(self) -> None:
        with self._changed:
            self._lease_until = float("-inf")
        for _ in range(20):
            try:
                with pymongo.timeout(ROUND_LIMIT_S):
                    self._acks.delete_one({"_id": self._ack_id}, session=self._session)
                break
            except PyMongoError as e:
                log.warning("the acknowledgement is not withdrawn: %s", e)
                time.sleep(POLL_S)
        self._session.end_session()
