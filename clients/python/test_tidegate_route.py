"""The rules of docs/routing.md without a server: `python3 -m unittest`, with PyMongo to import.

Time is real here, in tenths of seconds; what a server makes of it is tried by tests/mongo/python.rs.
"""

import copy
import pathlib
import threading
import time
import types
import unittest
import unittest.mock

from bson import json_util
from bson.codec_options import CodecOptions
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from pymongo.errors import AutoReconnect, DuplicateKeyError, WTimeoutError

import tidegate_route as tr

CONTRACT = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "routing.md").read_text(encoding="utf-8")
CANONICAL = json_util.JSONOptions(json_mode=json_util.JSONMode.CANONICAL)


def rows(head):
    """The cells of the table of docs/routing.md that begins so."""
    lines = CONTRACT.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(head)) + 2
    for line in lines[first:]:
        if not line.startswith("|"):
            return
        yield [cell.strip().strip("`") for cell in line.strip("|").split("|")]


def value(text):
    return json_util.loads(text, json_options=CANONICAL)


class Vectors(unittest.TestCase):
    def test_the_documented_buckets_hold(self):
        found = 0
        for text, hash64, bucket in rows("| value of `_id` | hash64 |"):
            place = tr.Place.of(value(text))
            self.assertEqual((place.hash64, place.bucket), (int(hash64), int(bucket)), text)
            found += 1
        self.assertGreater(found, 40)

    def test_the_documented_cohorts_hold(self):
        answers = []
        for path, values, _id, within in rows("| field | in |"):
            cohort = tr.Cohort(path, value(values))
            self.assertEqual(cohort.contains(tr.Place.of(value(_id))), within == "yes", (path, values, _id))
            answers.append(within)
        self.assertGreater(len(answers), 15)
        self.assertEqual(set(answers), {"yes", "no"})

    def test_what_has_no_bucket_is_refused(self):
        for _id in (2.0**63, -(2.0**63), Int64(-(2**63)), float("inf"), Decimal128("1E+19"), Decimal128("1.5"), Decimal128("1E-6176"),
                    [1], {"a": Decimal128("0.5")}):
            with self.assertRaises(tr.Unplaceable, msg=repr(_id)):
                tr.bucket(_id)


def route(epoch=1, **more):
    """A route document as PyMongo reads it."""
    document = {
        "_id": "p", "epoch": Int64(epoch), "lease_ms": 2000, "shadow": 0, "reads_next_below": 0, "writes_next_below": 0, "frozen": None,
        "pilot": None, "legacy": "shop.orders", "next": "shop.orders.v2", "nonce": Int64(7),
    }
    return {**document, **more}


def frozen(until_ms, begin=0, end=tr.BUCKETS):
    return {"from": begin, "to": end, "until": DatetimeMS(until_ms)}


class Documents(unittest.TestCase):
    def test_a_cohort_goes_its_own_way_and_nobody_else_does(self):
        for reads in tr._AHEAD:
            for writes in tr._AHEAD:
                pilot = {"field": "_id.region", "in": ["eu"], "reads": reads, "writes": writes}
                document = route(reads_next_below=512, writes_next_below=256, pilot=pilot)
                if tr._AHEAD[writes] > tr._AHEAD[reads]:
                    with self.assertRaises(tr.RouteError):
                        tr.Route.of(document)
                    continue
                followed = tr.Route.of(document)
                for n in range(60):
                    for region in ("eu", "us"):
                        place = tr.Place.of({"region": region, "n": n})
                        for goes, below, found in ((reads, 512, followed.reader(place)), (writes, 256, followed.owner(place))):
                            by_bucket = tr.NEXT if place.bucket < below else tr.LEGACY
                            self.assertEqual(found, by_bucket if region == "us" or goes == "buckets" else goes)

    def test_what_is_not_understood_is_no_route(self):
        sideways = {"field": "_id", "in": ["a"], "reads": "sideways", "writes": "legacy"}
        outside = {"field": "region", "in": ["eu"], "reads": "next", "writes": "legacy"}
        for broken in ({"writes_next_below": 1}, {"reads_next_below": 1025}, {"frozen": {"from": 1}}, {"pilot": sideways},
                       {"pilot": outside}, {"lease_ms": None}):
            with self.assertRaises(tr.RouteError, msg=broken):
                tr.Route.of(route(**broken))
        without = route()
        del without["next"]
        with self.assertRaises(tr.RouteError):
            tr.Route.of(without)


class Session:
    """A driver's session that knows no time."""

    operation_time = cluster_time = None

    def __init__(self):
        self.ended = False

    def end_session(self):
        self.ended = True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end_session()


class Collection:
    """One collection in memory; `before` is called ahead of every write and may raise or wait."""

    def __init__(self):
        self.documents, self.before, self.lock = {}, lambda: None, threading.Lock()

    def find_one(self, query, session=None):
        with self.lock:
            return copy.copy(self.documents.get(query["_id"]))

    def replace_one(self, query, document, upsert, session):
        self.before()
        with self.lock:
            self.documents[query["_id"]] = document

    def update_one(self, query, change, session):
        self.before()
        with self.lock:
            found = self.documents.get(query["_id"])
            if found is not None and found.get("epoch") == query.get("epoch", found.get("epoch")):
                self.documents[query["_id"]] = {**found, **change.get("$set", {})}

    def delete_one(self, query, session):
        self.before()
        with self.lock:
            self.documents.pop(query["_id"], None)


class Cluster:
    """As much of a MongoClient as the route client uses."""

    options = types.SimpleNamespace(retry_writes=True)
    codec_options = CodecOptions()

    def __init__(self, document=None):
        self.routes, self.acks, self.data = Collection(), Collection(), Collection()
        self.now_ms = 0
        if document is not None:
            self.routes.documents["p"] = document

    def start_session(self, causal_consistency):
        assert causal_consistency
        return Session()

    def get_database(self, name, codec_options, **_):
        assert name == "tidegate"
        by_name = {"routes": self.routes, "route_acks": self.acks}
        control = types.SimpleNamespace(codec_options=codec_options, command=lambda *_, **__: {"localTime": DatetimeMS(self.now_ms)})
        return Indexed(control, by_name)

    def __getitem__(self, database):
        assert database == "shop"
        return types.SimpleNamespace(get_collection=lambda name, **_: self.data)

    def ack(self):
        return self.acks.documents.get("p/web-1")

    def route_is(self, **more):
        with self.routes.lock:
            self.routes.documents["p"] = {**self.routes.documents["p"], **more}


class Indexed:
    def __init__(self, control, by_name):
        self.codec_options, self.command, self._by_name = control.codec_options, control.command, by_name

    def __getitem__(self, name):
        return self._by_name[name]


def key_in(buckets):
    return next(n for n in range(100_000) if tr.bucket(n) in buckets)


class Process(unittest.TestCase):
    def setUp(self):
        for name, seconds in (("POLL_S", 0.05), ("LOOK_S", 0.02)):
            faster = unittest.mock.patch.object(tr, name, seconds)
            faster.start()
            self.addCleanup(faster.stop)

    def client(self, cluster, start=True, **more):
        client = tr.RouteClient(cluster, "p", "web-1", "shop.orders", **more)
        if start:
            client.start()
            self.addCleanup(client.stop, 1.0)
        return client

    def until(self, what, within_s=3.0):
        deadline = time.monotonic() + within_s
        while not what():
            self.assertLess(time.monotonic(), deadline, "it does not come about")
            time.sleep(0.005)

    def test_before_there_is_a_route_writes_go_to_legacy_under_epoch_0(self):
        cluster = Cluster()
        client = self.client(cluster)
        with client.write(1, 1.0) as write:
            self.assertEqual((write.side, write.epoch), (tr.LEGACY, 0))
        self.assertEqual((cluster.ack()["epoch"], cluster.ack()["follows"]), (0, 0))
        self.assertIsInstance(cluster.ack()["epoch"], Int64)

    def test_without_a_lease_nothing_is_written(self):
        cluster = Cluster(route())
        client = self.client(cluster, start=False)
        with self.assertRaisesRegex(tr.NoPermit, "lease"), client.write(1, 0.1):
            self.fail("a write began")

    def test_the_lease_runs_from_the_send(self):
        cluster = Cluster(route(lease_ms=100))
        # The answer takes longer than the lease: it has run out when it arrives.
        cluster.acks.before = lambda: time.sleep(0.2)
        client = self.client(cluster)
        self.until(lambda: client.epoch() == 1)
        with self.assertRaisesRegex(tr.NoPermit, "lease"), client.write(1, 0.5):
            self.fail("a write began")

    def test_a_frozen_bucket_waits_and_no_other(self):
        cluster = Cluster(route(frozen=frozen(10_000, 0, 512)))
        client = self.client(cluster)
        with client.write(key_in([512]), 1.0):
            pass
        for frozen_bucket in (0, 511):
            with self.assertRaisesRegex(tr.NoPermit, "frozen"), client.write(key_in([frozen_bucket]), 0.1):
                self.fail("a write began")
        cluster.route_is(epoch=Int64(2), frozen=None, reads_next_below=512, writes_next_below=512)
        with client.write(key_in(range(0, 512)), 1.0) as write:
            self.assertEqual((write.side, write.epoch), (tr.NEXT, 2))

    def test_an_epoch_is_acknowledged_once_no_older_write_is_under_way_and_then_at_once(self):
        cluster = Cluster(route())
        client = self.client(cluster)
        with client.write(1, 1.0):
            cluster.route_is(epoch=Int64(2))
            self.until(lambda: cluster.ack()["follows"] == 2)
            with unittest.mock.patch.object(tr, "POLL_S", 5.0):
                time.sleep(0.2)
                self.assertEqual(cluster.ack()["epoch"], 1)
        ended = time.monotonic()
        self.until(lambda: cluster.ack()["epoch"] == 2, 10.0)
        self.assertLess(time.monotonic() - ended, 1.0, "it waited for its turn")

    def test_a_newer_epoch_is_acknowledged_as_soon_as_it_is_seen(self):
        cluster = Cluster(route(lease_ms=60_000))
        with unittest.mock.patch.object(tr, "POLL_S", 30.0):
            self.client(cluster)
            self.until(lambda: cluster.ack() and cluster.ack()["epoch"] == 1)
            cluster.route_is(epoch=Int64(2))
            self.until(lambda: cluster.ack()["epoch"] == 2)

    def test_a_write_of_unknown_outcome_holds_the_epoch_and_its_key_until_it_is_settled(self):
        cluster = Cluster(route())
        client = self.client(cluster)
        silent = threading.Event()

        def lost():
            if threading.current_thread().name == "tidegate settles" and not silent.is_set():
                raise AutoReconnect("no answer")

        cluster.acks.before = lost
        with self.assertRaises(tr.OutcomeUnknown) as raised, client.write(1, 1.0):
            raise WTimeoutError("no majority")
        cluster.route_is(epoch=Int64(2))
        self.until(lambda: cluster.ack()["follows"] == 2)
        time.sleep(0.2)
        self.assertEqual(cluster.ack()["epoch"], 1)
        self.assertFalse(raised.exception.settled.is_set())
        with self.assertRaisesRegex(tr.NoPermit, "earlier write"), client.write(1.0, 0.1):
            self.fail("another write of the key began")
        with client.write(2, 1.0):
            pass
        silent.set()
        self.assertTrue(raised.exception.settled.wait(2.0))
        self.until(lambda: cluster.ack()["epoch"] == 2)
        with client.write(1, 1.0):
            pass

    def test_a_refused_write_is_no_longer_under_way(self):
        cluster = Cluster(route())
        client = self.client(cluster)
        with self.assertRaises(DuplicateKeyError), client.write(1, 1.0):
            raise DuplicateKeyError("taken", 11000, {"code": 11000})
        cluster.route_is(epoch=Int64(2))
        self.until(lambda: cluster.ack()["epoch"] == 2)

    def test_an_expired_freeze_is_undone_by_the_servers_clock_and_one_epoch_on(self):
        cluster = Cluster(route(5, frozen=frozen(1_000), reads_next_below=512, writes_next_below=256))
        self.client(cluster)
        time.sleep(1.3)
        self.assertEqual(cluster.routes.documents["p"]["epoch"], 5, "undone before its time")
        cluster.now_ms = 1_001
        self.until(lambda: cluster.routes.documents["p"]["epoch"] == 6)
        undone = cluster.routes.documents["p"]
        self.assertNotEqual(undone["nonce"], 7)
        self.assertEqual({**undone, "nonce": Int64(7)}, route(6, reads_next_below=512, writes_next_below=256))

    def test_the_end_waits_for_writes_under_way_and_withdraws(self):
        cluster = Cluster(route())
        client = self.client(cluster)
        with client.write(1, 1.0):
            self.assertFalse(client.stop(0.3), "it did not wait")
            self.assertIsNotNone(cluster.ack())
            with self.assertRaisesRegex(tr.NoPermit, "stopping"), client.write(2, 1.0):
                self.fail("a write began")
        self.assertTrue(client.stop(2.0))
        self.assertIsNone(cluster.ack())

    def test_who_takes_up_the_name_of_one_that_died_acknowledges_no_more_than_it_did_for_a_while(self):
        cluster = Cluster(route(9))
        cluster.acks.documents["p/web-1"] = {"_id": "p/web-1", "epoch": Int64(4), "follows": Int64(9), "beat": Int64(500)}
        client = self.client(cluster, write_limit_s=0.5)
        with client.write(1, 1.0):
            pass
        self.until(lambda: cluster.ack()["follows"] == 9)
        self.assertEqual(cluster.ack()["epoch"], 4)
        self.assertLess(cluster.ack()["beat"], 500, "a new beginning is told by the beat")
        self.until(lambda: cluster.ack()["epoch"] == 9)

    def test_a_route_that_is_not_understood_costs_the_lease(self):
        cluster = Cluster(route(lease_ms=500))
        client = self.client(cluster)
        with client.write(1, 1.0):
            pass
        cluster.route_is(epoch=Int64(2), pilot={"field": "_id", "in": ["a"], "reads": "sideways", "writes": "legacy"})
        with self.assertLogs("tidegate_route", "WARNING"):
            time.sleep(0.7)
        with self.assertRaisesRegex(tr.NoPermit, "lease"), client.write(1, 0.1):
            self.fail("a write began")

    def test_an_older_route_changes_nothing(self):
        cluster = Cluster(route(5, reads_next_below=1024, writes_next_below=1024))
        client = self.client(cluster)
        self.until(lambda: client.epoch() == 5)
        cluster.route_is(epoch=Int64(4), reads_next_below=0, writes_next_below=0)
        time.sleep(0.2)
        with client.write(1, 1.0) as write:
            self.assertEqual((write.side, write.epoch), (tr.NEXT, 5))

    def test_a_child_process_makes_a_client_of_its_own(self):
        client = self.client(Cluster(route()))
        with unittest.mock.patch("os.getpid", lambda: -1), self.assertRaisesRegex(tr.RouteError, "fork"):
            client.find_one(1)

    def test_reads_go_by_the_percentage_and_for_a_write_to_the_owner(self):
        client = self.client(Cluster(route(reads_next_below=512, writes_next_below=256)))
        self.until(lambda: client.epoch() == 1)
        for buckets, sides in ((range(0, 256), (tr.NEXT, tr.NEXT)), (range(256, 512), (tr.NEXT, tr.LEGACY)),
                               (range(512, 1024), (tr.LEGACY, tr.LEGACY))):
            with client.read(key_in(buckets)) as read, client.read(key_in(buckets), owner=True) as for_a_write:
                self.assertEqual((read.side, for_a_write.side), sides)
        self.assertEqual(client.whole_side(), tr.LEGACY)

    def test_who_has_just_started_reads_nothing_before_it_knows_the_route(self):
        cluster = Cluster(route(reads_next_below=1024, writes_next_below=1024))
        cluster.acks.before = lambda: time.sleep(0.3)
        client = self.client(cluster)
        self.assertEqual(client.find_one(1).side, tr.NEXT)
        self.assertEqual(client.whole_side(), tr.NEXT)

    def test_shadow_reads_are_compared_and_counted(self):
        answers = iter([False, True, True])
        asked = []
        cluster = Cluster(route(shadow=100))
        cluster.data.documents[1] = {"_id": 1}

        def same(legacy, next_):
            asked.append((legacy, next_))
            return next(answers)

        client = self.client(cluster, same=same)
        self.until(lambda: client.epoch() == 1)
        client.find_one(1)
        client.find_one(1)
        # Behind is not different: the first is read again.
        self.until(lambda: len(asked) == 3)
        self.until(lambda: cluster.ack()["report"]["totals"][4:] == [2, 0])

    def test_the_report_is_what_the_contract_describes(self):
        cluster = Cluster(route(writes_next_below=1024, reads_next_below=1024))
        client = self.client(cluster, oracle=True)
        with client.write(1, 1.0):
            pass
        with self.assertRaises(DuplicateKeyError), client.write(1, 1.0):
            raise DuplicateKeyError("taken", 11000, {"code": 11000})
        client.count(lost=2)
        self.until(lambda: cluster.ack()["report"]["totals"][:2] == [1, 2] and cluster.ack()["report"]["slices"])
        self.until(lambda: sum(s["write_next"]["errors"] for s in cluster.ack()["report"]["slices"]) == 1)
        report = cluster.ack()["report"]
        self.assertTrue(report["oracle"])
        self.assertTrue(all(isinstance(n, Int64) for n in [*report["totals"], report["slices"][0]["n"]]))
        pairs = report["slices"][0]["write_next"]["us_count"]
        self.assertEqual(sum(pairs[1::2]), 1)


if __name__ == "__main__":
    unittest.main()
