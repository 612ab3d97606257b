"""Reads the three reports of one suite strictly, and prints the verdicts that each has: KTAP, JUnit and JSON lines alternate.

Usage: read_reports.py KTAP JUNIT JSON. Ends with an exception at whatever the formats' descriptions do not allow:
Documentation/dev-tools/ktap.rst of Linux (version 1), and of JUnit what the schemas of Ant, Surefire and Jenkins have in common.
"""

import json
import re
import sys
import xml.etree.ElementTree as xml

RESULT = re.compile(r"(ok|not ok) ([1-9][0-9]*) ([^#]*[^# ])(?: # (SKIP|TODO|XFAIL|TIMEOUT|ERROR)(?: (.*))?)?")


class Ktap:
    def __init__(self, text):
        assert text.endswith("\n") and "\r" not in text
        self.lines = text.split("\n")[:-1]
        assert all(line.isprintable() for line in self.lines), "control characters"
        self.at = 0

    def line(self, depth):
        """The next line, which must be at this depth."""
        line = self.lines[self.at]
        assert line.startswith("  " * depth) and line[2 * depth] != " ", (depth, line)
        self.at += 1
        return line[2 * depth :]

    def comments(self, depth):
        """Skips diagnostics; returns the next other line."""
        subtest = None
        while (line := self.line(depth)).startswith("# "):
            if line.startswith("# Subtest: "):
                subtest = line.removeprefix("# Subtest: ")
        return subtest, line

    def document(self, depth):
        """Version, plan, and as many results as are planned: (ok, name, directive, subtests)."""
        assert self.line(depth) == "KTAP version 1"
        name, plan = self.comments(depth)
        assert re.fullmatch(r"1\.\.[0-9]+", plan), plan
        tests = [self.test(depth, number) for number in range(1, int(plan[3:]) + 1)]
        return name, tests

    def test(self, depth, number):
        name, subtests = None, []
        if self.lines[self.at].startswith("  " * (depth + 1) + "KTAP"):
            name, subtests = self.document(depth + 1)
        match = RESULT.fullmatch(self.comments(depth)[1])
        assert match and int(match[2]) == number, self.lines[self.at - 1]
        ok = match[1] == "ok"
        assert name in (None, match[3]), "the subtest is another's"
        assert ok <= all(test[0] for test in subtests), "passed, but a subtest has not"
        return ok, match[3], match[4], subtests


def ktap(text):
    reader = Ktap(text)
    _, scenarios = reader.document(0)
    assert reader.at == len(reader.lines), "something follows"
    kinds = {(True, None): "passed", (False, None): "failed", (False, "TIMEOUT"): "failed", (False, "ERROR"): "error"}
    kinds[True, "SKIP"] = "skipped"
    for scenario in scenarios:
        if not scenario[3]:
            yield scenario[1], kinds[scenario[0], scenario[2]]
        for case in scenario[3]:
            yield case[1], kinds[case[0], case[2]]


def attributes(node, needed, known=""):
    needed, known = set(needed.split()), set(known.split())
    assert needed <= set(node.attrib) <= needed | known, (node.tag, node.attrib)


def in_order(node, tags):
    """The children have these tags, in this order."""
    places = [tags.index(child.tag) for child in node]
    assert places == sorted(places), [child.tag for child in node]


def junit(text):
    root = xml.fromstring(text)
    assert root.tag == "testsuites"
    counts = "tests failures errors"
    attributes(root, counts, "name skipped time")
    totals = dict.fromkeys(counts.split(), 0)
    for suite in root:
        assert suite.tag == "testsuite"
        attributes(suite, "name " + counts, "skipped time")
        in_order(suite, ["properties", "testcase", "system-out", "system-err"])
        for node in suite.iterfind("properties/property"):
            attributes(node, "name value")
        cases = suite.findall("testcase")
        found = {"tests": len(cases), "failures": len(suite.findall("testcase/failure"))}
        found["errors"] = len(suite.findall("testcase/error"))
        for count, value in found.items():
            assert int(suite.get(count)) == value, (suite.get("name"), count)
            totals[count] += value
        for case in cases:
            attributes(case, "name classname", "time assertions")
            in_order(case, ["skipped", "error", "failure", "system-out", "system-err"])
            float(case.get("time", "0"))
            problems = [child for child in case if not child.tag.startswith("system")]
            assert len(problems) <= 1
            kind = problems[0].tag if problems else "passed"
            if kind in ("failure", "error"):
                attributes(problems[0], "type message")
            name = case.get("name") if case.get("name") != "scenario" else case.get("classname")
            yield name, {"failure": "failed"}.get(kind, kind)
    assert all(int(root.get(count)) == value for count, value in totals.items()), totals


def as_json(text):
    def once(pairs):
        assert len(dict(pairs)) == len(pairs), "a member twice"
        return dict(pairs)

    report = json.loads(text, object_pairs_hook=once)
    assert report["version"] == 1
    kinds = {"timed-out": "failed", "unavailable": "skipped", "not-run": "skipped"}
    for scenario in report["scenarios"]:
        if "error" in scenario:
            yield scenario["name"], "error"
        for case in scenario["cases"]:
            yield case["id"], kinds.get(case["verdict"], case["verdict"])


texts = [open(file, encoding="utf-8", newline="").read() for file in sys.argv[1:4]]
for rows in zip(ktap(texts[0]), junit(texts[1]), as_json(texts[2]), strict=True):
    for name, verdict in rows:
        print(name, verdict)
