#!/usr/bin/env python3
"""Counts test cases from Bazel's build event files; the last line printed is `N passed, N failed`.

usage: test_summary.py EVENTS.json ...

A case is a GoogleTest case, or a whole target where its log has no cases. A target that did not build, crashed or timed out adds a
failed one. Exits 1 if anything failed or nothing passed.
"""

import json
import sys
import urllib.parse
import xml.etree.ElementTree as ElementTree


def count_cases(path):
    """Returns (passed, names of the failed, skipped) of a test.xml, or None if it can't be read."""
    try:
        cases = ElementTree.parse(path).getroot().iter("testcase")
    except (OSError, ElementTree.ParseError):
        return None
    passed, failed, skipped = 0, [], 0
    for case in cases:
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(".".join(filter(None, (case.get("classname"), case.get("name")))))
        elif case.find("skipped") is not None or case.get("status") == "notrun" or case.get("result") == "skipped":
            skipped += case.get("status") != "notrun"
        else:
            passed += 1
    return passed, failed, skipped


def summarise(path):
    """Prints what failed in one build event file and returns (passed, failed, skipped)."""
    step = path.rsplit("/", 1)[-1].removesuffix(".json")
    logs, statuses, broken = {}, {}, set()
    finished_ok = False
    with open(path, encoding="utf-8") as events:
        for line in events:
            event = json.loads(line)
            kind = event.get("id", {})
            if "testResult" in kind:
                for output in event.get("testResult", {}).get("testActionOutput", []):
                    if output.get("name") == "test.xml":
                        logs.setdefault(kind["testResult"]["label"], {})[kind["testResult"].get("run", 1)] = urllib.parse.unquote(
                            output["uri"].removeprefix("file://"))
            elif "testSummary" in kind:
                statuses[kind["testSummary"]["label"]] = event.get("testSummary", {}).get("overallStatus", "NO_STATUS")
            elif "targetCompleted" in kind:
                if not event.get("completed", {}).get("success"):
                    broken.add(kind["targetCompleted"]["label"])
            elif "configuredLabel" in kind or "unconfiguredLabel" in kind:
                if "aborted" in event:
                    broken.add((kind.get("configuredLabel") or kind["unconfiguredLabel"])["label"])
            elif "buildFinished" in kind:
                # 3: built, some tests failed; 4: built, no tests found.
                finished_ok = event.get("finished", {}).get("exitCode", {}).get("code", 0) in (0, 3, 4)

    passed = failed = skipped = 0
    for label, status in sorted(statuses.items()):
        if label in broken:
            continue
        counted = [count_cases(log) for log in logs.get(label, {}).values()]
        cases = [one for one in counted if one is not None]
        case_failures = [name for one in cases for name in one[1]]
        passed += sum(one[0] for one in cases)
        skipped += sum(one[2] for one in cases)
        if status in ("PASSED", "FLAKY"):
            passed += not cases
        elif case_failures:
            failed += len(case_failures)
            for name in case_failures:
                print(f"FAILED {step} {label} {name}")
        else:
            failed += 1
            print(f"FAILED {step} {label} ({status.lower()})")
    for label in sorted(broken):
        failed += 1
        print(f"FAILED {step} {label} (did not build)")
    if not finished_ok and not failed:
        failed += 1
        print(f"FAILED {step}: the build did not finish")
    return passed, failed, skipped


def main(paths):
    totals = [sum(column) for column in zip(*(summarise(path) for path in paths))] or [0, 0, 0]
    passed, failed, skipped = totals
    if skipped:
        print(f"{skipped} skipped")
    if not passed:
        print("no test was executed")
    print(f"{passed} passed, {failed} failed")
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
