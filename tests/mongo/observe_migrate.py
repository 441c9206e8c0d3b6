"""A migration by hand: a tool of its own that knows nothing of tidegate. It copies shop.orders to shop.orders_v2, follows legacy's
changes, and ends when its standard input does. A word on standard input is a command: `pause` and `follow`."""

import sys
import threading

from bson.decimal128 import Decimal128
from pymongo import MongoClient, ReplaceOne

uri, database = sys.argv[1], sys.argv[2]
client = MongoClient(uri, readConcernLevel="majority", w="majority")
legacy, copy = client[database]["orders"], client[database]["orders_v2"]
running, following = threading.Event(), threading.Event()
running.set()
following.set()


def carried(order):
    order = dict(order)
    order["total"] = Decimal128(order["total"])
    order["schema_version"] = 2
    return order


def carry(key):
    order = legacy.find_one({"_id": key})
    if order is None:
        copy.delete_one({"_id": key})
    else:
        copy.replace_one({"_id": key}, carried(order), upsert=True)


def listen():
    for line in sys.stdin:
        if line.strip() == "pause":
            following.clear()
        elif line.strip() == "follow":
            following.set()
    running.clear()
    following.set()


threading.Thread(target=listen, daemon=True).start()
with legacy.watch(max_await_time_ms=200) as changes:
    # The first look fixes where the stream begins: before anything is copied.
    change = changes.try_next()
    batch = []
    for order in legacy.find():
        batch.append(ReplaceOne({"_id": order["_id"]}, carried(order), upsert=True))
        if len(batch) == 1000:
            copy.bulk_write(batch, ordered=False)
            batch = []
    if batch:
        copy.bulk_write(batch, ordered=False)
    copy.create_index([("status", 1)])
    print("copied", flush=True)
    while running.is_set():
        following.wait()
        if change is not None and "documentKey" in change:
            carry(change["documentKey"]["_id"])
        change = changes.try_next()
print("ended", flush=True)
