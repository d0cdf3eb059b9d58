"""What `sirl gate` leaves for others: JUnit XML for CI systems, Markdown for pull requests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from sirl.gate.rules import WORDS, Finding

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(run: str, findings: Sequence[Finding]) -> str:
    """JUnit XML with one test case for each rule, `run` as the name of the suite."""
    failed = sum(not finding.passed for finding in findings)
    counts = {"tests": str(len(findings)), "failures": str(failed), "errors": "0"}
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": _xml(run), **counts})
    for finding in findings:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "sirl.gate", "name": _xml(str(finding.rule))})
        if finding.passed:
            ElementTree.SubElement(case, "system-out").text = _xml(finding.reason)
        else:
            ElementTree.SubElement(case, "failure", {"message": _xml(finding.reason)})
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _xml(text: str) -> str:
    return NOT_XML.sub("\ufffd", text)


def markdown(run: str, findings: Sequence[Finding]) -> str:
    """A heading with the outcome and a table with a row for each rule."""
    failed = sum(not finding.passed for finding in findings)
    outcome = f"{failed} of {len(findings)} rules failed" if failed else f"all {len(findings)} rules passed"
    lines = [f"### sirl gate: {_cell(run)}: {outcome}", "", "| | rule | measured |", "| --- | --- | --- |"]
    for finding in findings:
        rule = f"{finding.rule.metric} {WORDS[finding.rule.bound]} {finding.rule.limit:g}"
        lines.append(f"| {'pass' if finding.passed else '**FAIL**'} | {_cell(rule)} | {_cell(finding.reason)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text that is shown as it is: no markup, no link, one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#!@&])", r"\\\1", " ".join(text.split()))
