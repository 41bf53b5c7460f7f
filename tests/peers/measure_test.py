"""measure.py: how turns become ratios."""

import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import measure  # noqa: E402


class MeasureTest(unittest.TestCase):
    def setUp(self):
        self.last = ""

    def turn(self, name, seconds):
        """One that is quicker where it finds its own data in the caches."""

        def run():
            warm, self.last = self.last == name, name
            return 0.8 * seconds if warm else seconds

        return run

    def test_nobody_has_warm_caches(self):
        for others in (["a"], ["a", "b"], ["a", "b", "c"]):
            compared = measure.compare(self.turn("ours", 1.0), {name: self.turn(name, 1.0) for name in others}, 5)
            self.assertEqual(compared.ours_s, 1.0)
            self.assertEqual(compared.same, 1.0)
            for side in compared.peers.values():
                self.assertEqual(side.ratios, [1.0] * 5)

    def test_ratios_are_of_the_same_round(self):
        pace = iter(range(1, 1000))

        def drifting(seconds):
            return lambda: seconds * next(pace)

        compared = measure.compare(drifting(2.0), {"a": drifting(4.0)}, 9)
        for ratio in compared.peers["a"].ratios:
            self.assertAlmostEqual(ratio, 2.0)  # A machine that slows down evenly slows both.
        self.assertGreater(compared.same, 1.0)

    def test_texts_are_of_the_whole_file(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "texts.txt")
            path.write_text("\n".join(["first"] * 500 + ["second"] * 500), encoding="utf-8")
            self.assertEqual(set(measure.mixed_texts(path)[:50]), {"first", "second"})


if __name__ == "__main__":
    unittest.main()
