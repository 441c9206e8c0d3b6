"""A write that reaches the server late, on a real one: python_late.py URI (test commands on)."""

import sys
import threading
import time
import unittest
import unittest.mock

from pymongo import MongoClient
from pymongo.errors import AutoReconnect, OperationFailure

import tidegate_route as tr

NAME = "tidegate-late"
LATE_S = 1.5
client = MongoClient(sys.argv[1], appname=NAME)


class Late(unittest.TestCase):
    def late_insert(self, write, _id):
        """Sends an insert that the server holds for a while before it begins, and loses the connection meanwhile."""
        client.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data={
            "failCommands": ["insert"], "appName": NAME, "blockConnection": True, "blockTimeMS": int(LATE_S * 1000)})
        answers = []

        def send():
            try:
                answers.append(write.collection.insert_one({"_id": _id}, session=write.session).inserted_id)
            except OperationFailure as e:
                answers.append(e.code)

        thread = threading.Thread(target=send)
        thread.start()
        time.sleep(0.3)
        return thread, answers

    def tearDown(self):
        client.admin.command("configureFailPoint", "failCommand", mode="off")

    def settles(self, next_client):
        with tr.RouteClient(client, "late", "late-1", "late.legacy", next_client=next_client) as route:
            with self.assertRaises(tr.OutcomeUnknown) as raised, route.write("settled") as write:
                thread, answers = self.late_insert(write, "settled")
                raise AutoReconnect("cut off")
            # The client does not wait for the lost write: that would say nothing.
            self.assertTrue(raised.exception.settled.wait(LATE_S - 0.5))
            self.assertIsNone(route.find_one("settled").document)
            thread.join()
            self.assertEqual(answers, [225], "TransactionTooOld")
            self.assertIsNone(route.find_one("settled").document, "it landed after it had been settled")

    def test_a_settled_write_does_not_land_any_more(self):
        self.settles(None)

    def test_nor_on_a_cluster_where_the_process_has_no_document(self):
        fence = tr.RouteClient._fence

        def elsewhere(route, permit):
            permit.side = tr.NEXT
            return fence(route, permit)

        with unittest.mock.patch.object(tr.RouteClient, "_fence", elsewhere):
            self.settles(MongoClient(sys.argv[1]))

    def test_one_that_was_not_settled_would_have(self):
        with client.start_session() as session:
            write = tr.Permit(tr.LEGACY, client.late.legacy, session, 0, tr.Place.of("open"))
            thread, answers = self.late_insert(write, "open")
            self.assertIsNone(client.late.legacy.find_one({"_id": "open"}), "it was not late")
            thread.join()
        self.assertEqual(answers, ["open"])
        self.assertIsNotNone(client.late.legacy.find_one({"_id": "open"}))
        client.drop_database("late")


unittest.main(argv=sys.argv[:1])
