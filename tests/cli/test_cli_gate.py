"""`sirl gate`: rules on the cautious end of the interval, exit codes, and files for CI."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from report_runs import adaptive_rows, attack_rows, benign_rows, manifest, wrapped_rows, write_run
from sirl.gate.metrics import METRICS
from sirl.report import summarise_run


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 12 goals with searches, benign prompts as they are and in templates."""
    attacks = attack_rows(12, {"aim": (0.3, 0.95), "dan": (0.5, 0.9)}) + adaptive_rows(12, {"pair": (0.8, 0.5)})
    folder = tmp_path_factory.mktemp("gate") / "run"
    return write_run(
        folder, attacks=attacks, benign=benign_rows(20), wrapped=wrapped_rows(), gap=None, gap_samples=None
    )


def test_the_cautious_end_decides(sirl: Any, small: Path) -> None:
    rate = summarise_run(small)["attack"]["rates"]["greedy"]["after"]["overall"]
    between = (rate["low"] + rate["rate"]) / 2
    below = rate["low"] - 0.01
    assert sirl("gate", small, "--min", f"dsr={below}").code == 0
    failed = sirl("gate", small, "--min", f"dsr={between}", "--json")
    assert failed.code == 1
    assert failed.json["rules"][0]["value"] > between > failed.json["rules"][0]["low"]
    assert sirl("gate", small, "--max", f"dsr={(rate['rate'] + rate['high']) / 2}").code == 1
    assert sirl("gate", small, "--max", f"dsr={rate['high']}").code == 0


def test_one_line_a_rule(sirl: Any, small: Path) -> None:
    result = sirl("gate", small, "--min", "dsr=0.1", "worst_case_dsr=1", "--max", "benign_refusal_rise=0.9")
    lines = result.out.splitlines()
    assert result.code == 1
    assert [line[:4] for line in lines] == ["pass", "FAIL", "pass"]
    assert "worst_case_dsr at least 1: " in lines[1]
    assert lines[1].endswith("decided by its low end")
    assert lines[2].endswith("decided by its high end")


def test_rules_may_be_separated_by_commas(sirl: Any, small: Path) -> None:
    blanks, commas = (
        sirl("gate", small, "--min", *words, "--max", "benign_refusal_rise=0.9")
        for words in (("dsr=0.1", "worst_case_dsr=1"), ("dsr=0.1,worst_case_dsr=1",))
    )
    assert blanks.out == commas.out
    decimal = sirl("gate", small, "--min", "dsr=0,9")
    assert decimal.code == 2
    assert "--min 9: expected METRIC=LIMIT, such as --min dsr=0.9" in decimal.err
    assert sirl("gate", small, "--min", "", "--max", "empty=1").code == 2


def test_every_metric_of_a_full_run_is_read(sirl: Any, small: Path) -> None:
    bounds = [f"{name}=-1" for name in METRICS if not METRICS[name].price]
    read = {row["metric"]: row for row in sirl("gate", small, "--min", *bounds, "dsr:pair=0", "--json").json["rules"]}
    unread = {name for name, row in read.items() if row["value"] is None}
    assert unread == {"harm_dsr", "rechecked_dsr"}  # no judge of harm, no recheck in this run
    assert all(row["low"] <= row["value"] <= row["high"] for row in read.values() if row["value"] is not None)
    assert read["dsr_static"]["value"] == read["dsr"]["value"] != read["dsr_reoptimised"]["value"]
    assert read["weakest_dsr"]["value"] <= read["dsr:pair"]["value"]
    assert read["adversarial_benign"]["value"] == pytest.approx((0.9 + 0.5 + 0.0) / 3)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("adversarial_benign=0.3", "not measured: no benign prompts were asked in the attacks' wrappings"),
        ("benign_refusal=0.3", "not measured: no benign prompts were asked"),
        (
            "dsr_rise=0.3",
            "not measured: no attack of this kind was run and judged, or needs the model before and after",
        ),
        ("dsr:gcg=0.3", "not measured: gcg was not run and judged"),
        ("perplexity_rise=0.3", "not measured: drift was not measured"),
    ],
)
def test_what_was_not_measured_fails(sirl: Any, tmp_path: Path, rule: str, reason: str) -> None:
    rows = [row for row in attack_rows(3, {"aim": (0.3, 0.9)}) if row[0].phase == "before"]
    nothing = dict.fromkeys(("benign", "metrics", "gap", "gap_samples"))
    folder = write_run(tmp_path / "run", attacks=rows, **nothing)
    result = sirl("gate", folder, "--max", rule)
    assert result.code == 1
    assert f"FAIL  {rule.split('=')[0]} at most 0.3: {reason}" in result.out
    assert sirl("gate", folder, "--min", "dsr=0").code == 0  # the only model that was attacked


def test_rules_of_a_file(sirl: Any, small: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("min: {dsr: 0.1}\nmax:\n  dprime: 99\n")
    found = sirl("gate", small, "--rules", rules, "--max", "empty=1", "--json").json["rules"]
    assert [(row["metric"], row["bound"]) for row in found] == [("dsr", "min"), ("dprime", "max"), ("empty", "max")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("min: 3", "min: expected lines such as `dsr: 0.9`"),
        ("least: {dsr: 1}", "expected `min:` and `max:`"),
        ("", "expected `min:` and `max:`"),
        ("min: {dsr: 1, dsr: 0}", "'dsr' given twice"),
        ("min: {dsr: true}", "min dsr=True: expected a number"),
        ('min: {"dsr:a\\nb": 1}', "unknown metric 'dsr:a\\nb'"),
        ("max: {nothing: 1}", "max: unknown metric 'nothing'; there are dsr, "),
    ],
)
def test_a_file_that_is_no_rules(sirl: Any, small: Path, tmp_path: Path, text: str, message: str) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(text)
    error = sirl("gate", small, "--rules", rules).error
    assert f"--rules {rules}" in error
    assert message in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no rule to check"),
        (("--min", "dsr"), "--min dsr: expected METRIC=LIMIT"),
        (("--min", "dsr=90"), "a share, from -1 to 1; write 90% as 0.9"),
        (("--min", "dsr=nan"), "expected a number"),
        (("--max", "drs=0.1"), "unknown metric 'drs'; there are dsr, dsr_rise, "),
        (("--min", "ability_fall=0"), "a price, of which only the high end is known; use --max"),
        (("--min", "dsr=0", "--min", "dsr=0.5"), "--min dsr: given twice"),
        (("--min", "dsr=0", "--junit", "/dev/null/x.xml"), "--junit"),
        (("--min", "dsr=0", "--junit", "."), "--junit: . is a folder; give a file"),
        (("--min", "dsr=0", "--markdown", "/"), "--markdown: / is a folder; give a file"),
        (("--rules", "nowhere.yaml"), "--rules nowhere.yaml: cannot be read"),
    ],
)
def test_bad_input_is_one_line(sirl: Any, small: Path, words: tuple[str, ...], message: str) -> None:
    assert message in sirl("gate", small, *words).error


def test_no_run(sirl: Any) -> None:
    assert "RUN_DIR: give the folder" in sirl("gate", "--min", "dsr=0").error
    assert "no such run folder" in sirl("gate", "nowhere", "--min", "dsr=0").error


def test_a_run_that_is_not_finished_is_no_evidence(sirl: Any, tmp_path: Path) -> None:
    half = manifest()
    half["stages"]["attack_after"]["status"] = "interrupted"
    rows = attack_rows(3, {"aim": (0.3, 0.9)})
    folder = write_run(
        tmp_path / "run", attacks=rows, benign=None, metrics=None, gap=None, gap_samples=None, manifest=half
    )
    assert "unfinished: attack_after" in sirl("gate", folder, "--min", "dsr=0").error


def test_junit_and_markdown(sirl: Any, small: Path, tmp_path: Path) -> None:
    xml, page = tmp_path / "gate.xml", tmp_path / "gate.md"
    flags = ("--min", "dsr=0.1", "worst_case_dsr=1", "--junit", xml, "--markdown", page)
    assert sirl("gate", small, *flags).code == 1
    suite = ElementTree.parse(xml).getroot().find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [len(case.findall("failure")) for case in suite.findall("testcase")] == [0, 1]
    assert "1 of 2 rules failed" in page.read_text()
    assert "| **FAIL** | worst\\_case\\_dsr at least 1 |" in page.read_text()


def test_hostile_names_stay_text() -> None:
    from sirl.gate.output import junit, markdown
    from sirl.gate.rules import Finding, Rule

    found = [Finding(Rule("dsr:<img>|#", "min", 0.5), False, None, "<script>\x00[a](b)")]
    run = "</testsuite>\x01&"
    case = ElementTree.fromstring(junit(run, found).encode()).find("testsuite/testcase")
    assert case is not None
    assert case.get("name") == "dsr:<img>|# at least 0.5"
    shown = markdown(run, found)
    assert "\\<script\\>" in shown
    assert "\\[a\\](b)" in shown
    assert all(line.startswith(("### ", "| ")) or not line for line in shown.splitlines())


def test_the_list_of_metrics(sirl: Any) -> None:
    names = [row["name"] for row in sirl("gate", "--list", "--json").json]
    assert names == [*METRICS, "dsr:ATTACK"]


def test_the_page_names_every_metric() -> None:
    page = (Path(__file__).parents[2] / "docs" / "gate.md").read_text(encoding="utf-8")
    table = page.partition("## Metrics")[2].partition("## ")[0]
    rows = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| `")]
    named: set[str] = set()
    for row in rows:
        names = re.findall(r"`(\w+(?::ATTACK)?)`", row)
        rise = "_rise" in names and "each with" in row
        named |= {name for name in names if name != "_rise"}
        named |= {f"{name}_rise" for name in names if rise and name != "_rise"}
    assert named == {*METRICS, "dsr:ATTACK"}


def test_the_workflow_of_the_page(sirl: Any, model_folder: Any, goals: str, tmp_path: Path) -> None:
    """Its four commands, on tiny models: a checkpoint is gated without a training run."""
    base, checkpoint, out = model_folder("llama"), model_folder("qwen2"), tmp_path / "gate"
    attack = ("--goals", goals, "--attacks", "direct,aim", "--max_new_tokens", 4, "--output_dir", out)
    for phase, model in (("before", base), ("after", checkpoint)):
        assert sirl("attack", "--model_name_or_path", model, "--phase", phase, *attack).code == 0
    benign = tmp_path / "benign.jsonl"
    benign.write_text("".join(f'{{"prompt": "How do I bake loaf {i}?"}}\n' for i in range(3)))
    pair = ("--model_name_or_path", checkpoint, "--reference", base)
    assert sirl("eval", *pair, "--overrefusal", benign, "--output_dir", out).code == 0
    rules = ("--min", "dsr=0", "dsr_rise=-1", "--max", "benign_refusal_rise=1", "adversarial_benign=1")
    found = sirl("gate", out, *rules, "--json")
    assert [row["passed"] for row in found.json["rules"]] == [True, True, True, True], (
        "what `sirl attack` asks in wrappings is enough"
    )
    assert found.code == 0
