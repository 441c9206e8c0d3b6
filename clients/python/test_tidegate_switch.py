"""The rules of tidegate_switch.py: `python3 -m unittest`. Time is real here, in tenths of seconds."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import tidegate_switch as ts

WAIT_S = 15


class Rules(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.assertEqual(ts.init(self.folder), 0)

    def hook(self, name, epoch, writes, reads=0, rollout="orders-v2"):
        event = {"rollout": rollout, "epoch": epoch, "reads": reads, "writes": writes, "schema": 1}
        done = subprocess.run([sys.executable, ts.__file__, name, self.folder], input=json.dumps(event), text=True,
                              capture_output=True, check=False)
        return done.returncode, done.stdout

    def turned(self, *state, **more):
        self.assertEqual(self.hook("turn", *state, **more)[0], 0)

    def confirmed(self, *state, within_s=WAIT_S):
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            if self.hook("confirm", *state)[0] == 0:
                return True
            time.sleep(0.05)
        return False

    def switch(self, process="shop-1", **more):
        switch = ts.Switch(self.folder, process, **more)
        self.addCleanup(switch.close)
        return switch

    def test_without_a_word_everything_goes_to_legacy(self):
        switch = self.switch()
        with switch.write() as side:
            self.assertEqual(side, "legacy")
        with switch.read() as side:
            self.assertEqual(side, "legacy")

    def test_a_directory_that_nobody_made_is_refused_by_both_ends(self):
        with tempfile.TemporaryDirectory() as wrong:
            with self.assertRaises(FileNotFoundError):
                ts.Switch(wrong, "shop-1")
            self.folder = wrong
            self.assertEqual(self.hook("turn", 3, "held")[0], 1)
            self.assertEqual(os.listdir(wrong), ["switch.json.lock"])

    def test_a_write_under_way_keeps_its_process_from_following(self):
        switch = self.switch()
        with switch.write():
            self.turned(3, "held")
            self.assertFalse(self.confirmed(3, "held", within_s=0.5))
            code, said = self.hook("confirm", 3, "held")
            self.assertEqual((code, said.strip()), (1, "not at 3 yet: shop-1 goes by 0"))
        self.assertTrue(self.confirmed(3, "held"))
        with self.assertRaises(ts.Held):
            with switch.write(patience_s=0.2):
                self.fail("writes are held")
        self.turned(4, "held", 100)
        self.assertTrue(self.confirmed(4, "held", 100))
        with switch.read() as side:
            self.assertEqual(side, "next")
        threading.Timer(0.2, self.turned, [5, "next", 100]).start()
        with switch.write() as side:
            self.assertEqual(side, "next")

    def test_a_write_that_ended_with_an_error_counts_as_under_way_for_a_while(self):
        switch = self.switch(grace_s=4.0)
        with self.assertRaises(ValueError):
            with switch.write():
                raise ValueError
        self.turned(3, "held")
        self.assertFalse(self.confirmed(3, "held", within_s=0.3))
        self.assertTrue(self.confirmed(3, "held"))

    def test_a_read_under_way_keeps_its_process_from_following(self):
        switch = self.switch()
        with switch.read():
            self.turned(3, "held", 100)
            self.assertFalse(self.confirmed(3, "held", 100, within_s=0.4))
        self.assertTrue(self.confirmed(3, "held", 100))

    def test_one_that_is_started_again_is_silent_until_what_it_had_begun_has_landed(self):
        ts._put(os.path.join(self.folder, "follows", "shop-1.json"), {"rollout": "orders-v2", "epoch": 2, "pid": 1})
        self.turned(3, "held")
        self.switch(grace_s=4.0)
        self.assertFalse(self.confirmed(3, "held", within_s=0.5))
        self.assertTrue(self.confirmed(3, "held"))

    def test_one_that_was_taken_off_the_list_shows_up_again_and_begins_nothing_before_it_has_looked(self):
        switch = self.switch()
        with switch.write():
            os.unlink(os.path.join(self.folder, "follows", "shop-1.json"))
            self.turned(3, "held")
            time.sleep(4 * ts.POLL_S)
            self.assertEqual(self.hook("confirm", 3, "held")[0], 1)
        self.assertTrue(self.confirmed(3, "held"))

    def test_two_of_one_name_are_told_so_and_a_fork_too(self):
        first = self.switch()
        second = self.switch(grace_s=0.0)
        time.sleep(4 * ts.POLL_S)
        with self.assertRaises(ts.NotMine):
            with first.write():
                self.fail("the other one speaks for itself")
        with second.write():
            pass
        second._pid = 1
        with self.assertRaises(ts.NotMine):
            with second.read():
                self.fail("made before a fork")
        second._pid = os.getpid()

    def test_nothing_begins_once_it_is_closed(self):
        switch = ts.Switch(self.folder, "shop-1")
        switch.close()
        with self.assertRaises(ts.Ended):
            with switch.write():
                self.fail("it is closed")

    def test_what_is_late_on_its_way_is_not_turned_back_to(self):
        switch = self.switch()
        self.turned(7, "next", 100)
        self.assertTrue(self.confirmed(7, "next"))
        self.assertEqual(self.hook("turn", 6, "legacy")[0], 1)
        # Whoever put it there.
        ts._put(os.path.join(self.folder, "switch.json"), {"rollout": "orders-v2", "epoch": 5, "reads": 0, "writes": "legacy"})
        time.sleep(4 * ts.POLL_S)
        self.assertEqual(self.hook("confirm", 7, "next", 100)[0], 1)
        with switch.write() as side:
            self.assertEqual(side, "next")

    def test_a_process_is_seen_before_it_looks(self):
        looked = ts.Switch._look

        def stalled(switch):
            # As confirm sees it while the process is about to look for the first time.
            self.assertEqual(self.hook("confirm", 3, "held")[0], 1)
            looked(switch)

        self.turned(3, "held")
        ts.Switch._look = stalled
        try:
            switch = ts.Switch(self.folder, "shop-1")
        finally:
            ts.Switch._look = looked
        self.addCleanup(switch.close)
        self.assertTrue(self.confirmed(3, "held"))

    def test_who_has_ended_is_asked_no_more_and_who_died_is(self):
        switch = ts.Switch(self.folder, "shop-1")
        switch.close()
        self.turned(3, "held")
        self.assertTrue(self.confirmed(3, "held"))
        ts._put(os.path.join(self.folder, "follows", "shop-2.json"), {"rollout": "orders-v2", "epoch": 2, "pid": 1})
        self.assertFalse(self.confirmed(3, "held", within_s=0.3))


if __name__ == "__main__":
    unittest.main()
