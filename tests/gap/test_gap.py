"""The entropy gap on synthetic responses whose answer is known, and through a scripted engine."""

from __future__ import annotations

import io
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from scipy.stats import ttest_1samp

from sirl.errors import UserError
from sirl.gap import GapConfig, GapSample, PromptClass, analyse_gap, gap_svg, render_gap_table, sample_gap
from sirl.gap.view import explain_told_apart
from sirl.generation.base import SamplingParams
from sirl.judges.refusal import RefusalJudge
from sirl.records import Completion, Conversation, Prompt

CONFIG = GapConfig(n_bootstrap=400)


def sample(
    prompt: int,
    refused: bool,
    entropies: Sequence[float],
    kind: PromptClass = "harmful",
    category: str | None = None,
) -> GapSample:
    label = "full_refusal" if refused else "full_compliance"
    return GapSample(f"p{prompt}", "Do it", kind, category, "text", label, refused, tuple(entropies))


def responses(
    refused_mean: float,
    answered_mean: float,
    prompts: int = 40,
    kind: PromptClass = "harmful",
    spread: float = 0.05,
    length: int = 20,
) -> list[GapSample]:
    """Four responses to each prompt, the first two refused, with noise of `spread` in their mean."""
    rng = random.Random(0)
    out = []
    for prompt in range(prompts):
        for i in range(4):
            mean = (refused_mean if i < 2 else answered_mean) + rng.gauss(0, spread)
            out.append(sample(prompt, i < 2, [max(0.0, mean)] * length, kind, f"c{prompt % 2}"))
    return out


def test_known_gap_is_present() -> None:
    result = analyse_gap(responses(0.3, 0.7), CONFIG)
    assert result.verdict == "present"
    assert result.compared == "harmful"
    overall = result.overall
    assert (overall.n_refused, overall.n_answered) == (80, 80)
    assert overall.difference == pytest.approx(0.4, abs=0.02)
    assert overall.low is not None
    assert overall.high is not None
    assert 0 < overall.low < 0.4 < overall.high + 0.02
    assert overall.auroc == pytest.approx(1.0)
    assert overall.u == pytest.approx(80 * 80)
    assert overall.p is not None
    assert overall.p < 1e-6
    assert overall.cohens_d == pytest.approx(0.4 / 0.05, rel=0.2)
    assert result.within_prompt.mixed == 40
    assert result.within_prompt.difference == pytest.approx(0.4, abs=0.02)
    assert result.within_prompt.positive == 1.0
    assert result.explanation.startswith("There is an instinct to train")
    assert result.basis == "within"
    assert "within the 40 prompts that got both" in result.explanation


def test_reversed_and_absent() -> None:
    assert analyse_gap(responses(0.7, 0.3), CONFIG).verdict == "reversed"
    assert analyse_gap(responses(0.5, 0.5), CONFIG).verdict == "absent"


@pytest.mark.parametrize(("refused", "answered"), [(9, 30), (30, 9), (30, 0), (0, 30), (0, 0)])
def test_too_few(refused: int, answered: int) -> None:
    rows = [sample(i, True, [0.1, 0.2]) for i in range(refused)]
    rows += [sample(i, False, [0.9, 1.0]) for i in range(answered)]
    result = analyse_gap(rows, CONFIG)
    assert result.verdict == "too few"
    assert "Too few" in result.explanation
    json.dumps(result.to_dict(), allow_nan=False)
    assert analyse_gap(rows + rows, replace(CONFIG, min_per_class=1)).overall.n_refused == 2 * refused


def test_ten_of_each_are_enough() -> None:
    rows = [sample(i, True, [0.1 + i / 100]) for i in range(10)] + [
        sample(i, False, [0.9 + i / 100]) for i in range(10)
    ]
    assert analyse_gap(rows, CONFIG).verdict == "present"


def test_one_prompt_is_too_few_however_many_responses() -> None:
    """All answers come from two prompts: resampling prompts says nothing about others."""
    rows = [sample(i, True, [0.1 + i / 1000]) for i in range(40)] + [sample(i % 2, False, [0.9]) for i in range(40)]
    assert analyse_gap(rows, CONFIG).verdict == "too few"


def test_interval_is_over_prompts_not_responses() -> None:
    """Each prompt has its own entropy, and its 96 responses repeat it: Mann-Whitney is fooled, the interval is not."""
    levels = {True: (0.2, 0.3, 0.4, 0.5, 0.6, 0.7), False: (0.25, 0.36, 0.47, 0.58, 0.69, 0.8)}
    rows = []
    for refused, means in levels.items():
        for prompt, mean in enumerate(means):
            rows += [sample(prompt + 10 * refused, refused, [mean + i / 9999]) for i in range(96)]
    result = analyse_gap(rows, CONFIG)
    assert result.overall.p is not None
    assert result.overall.low is not None
    assert result.overall.p < 0.001
    assert result.overall.low < 0
    assert result.verdict == "absent"
    assert result.within_prompt.mixed == 0
    assert result.within_prompt.difference is None


def test_gap_between_prompts_that_is_reversed_within_them_is_said() -> None:
    """Simpson: easy prompts are refused at 0.2, hard ones mostly answered at 0.8; within a prompt answers are lower."""
    rng = random.Random(1)
    rows = []
    for prompt in range(40):
        easy = prompt < 20
        base = 0.3 if easy else 0.9
        for i in range(8):
            refused = (i < 7) == easy
            rows.append(sample(prompt, refused, [base + (0.0 if refused else -0.1) + rng.gauss(0, 0.01)]))
    result = analyse_gap(rows, CONFIG)
    assert result.overall.low is not None
    assert result.overall.low > 0
    assert (result.verdict, result.basis) == ("reversed", "within"), "training sees nothing else"
    assert result.within_prompt.difference == pytest.approx(-0.1, abs=0.02)
    assert "a difference of the prompts, not of the responses" in result.explanation


def test_benign_answers_alone_make_no_gap_of_an_unlabeled_mixture() -> None:
    """Harmful prompts are refused at 0.3, benign ones answered at 0.9, and hardly any gets both."""
    rng = random.Random(3)
    rows = [
        sample(prompt, prompt % 2 == 0, [(0.3 if prompt % 2 == 0 else 0.9) + rng.gauss(0, 0.05)], "unlabeled")
        for prompt in range(60)
        for _ in range(4)
    ]
    result = analyse_gap(rows, CONFIG)
    assert result.overall.low is not None
    assert result.overall.low > 0.5
    assert (result.verdict, result.basis) == ("too few", "between")
    assert "only 0 of 60 prompts got both kinds" in result.explanation
    mirrored = [replace(row, entropies=(1.2 - row.entropies[0],)) for row in rows]
    assert analyse_gap(mirrored, CONFIG).verdict == "reversed", "which warns before training, as ever"
    both = [sample(60 + i % 12, i < 24, [0.5 + rng.gauss(0, 0.02)], "unlabeled") for i in range(48)]
    assert analyse_gap([*rows, *both], CONFIG).verdict == "absent", "within prompts there is none"


def test_harmful_prompts_that_get_one_kind_each_are_compared_between_them() -> None:
    rows = [sample(i, i % 2 == 0, [0.3 if i % 2 == 0 else 0.9 + j / 100]) for i in range(40) for j in range(4)]
    result = analyse_gap(rows, CONFIG)
    assert (result.verdict, result.basis) == ("present", "between")
    assert "rests on the difference between prompts: only 0 got both" in result.explanation


def test_interval_within_prompts_is_students() -> None:
    rng = random.Random(4)
    gaps = [rng.gauss(0.1, 0.3) for _ in range(12)]
    rows = [sample(i, True, [1.0]) for i in range(12)] + [sample(i, False, [1.0 + gap]) for i, gap in enumerate(gaps)]
    within = analyse_gap(rows, CONFIG).within_prompt
    low, high = ttest_1samp(gaps, 0.0).confidence_interval(0.95)
    assert (within.low, within.high) == (pytest.approx(low), pytest.approx(high))


def test_length_as_a_confounder() -> None:
    """Entropy is 0.01 x length and nothing else, and answers are longer: the gap goes away at equal length."""
    rng = random.Random(2)
    rows = []
    for prompt in range(40):
        for i in range(4):
            length = rng.randint(10, 30) + (0 if i < 2 else 12)
            rows.append(sample(prompt, i < 2, [0.01 * length] * length))
    result = analyse_gap(rows, CONFIG)
    assert result.verdict == "present"
    assert result.length.spearman == pytest.approx(1.0)
    assert result.length.adjusted_difference == pytest.approx(0.0, abs=1e-9)
    assert result.length.mean_refused == pytest.approx(20, abs=1.5)
    assert result.length.mean_answered == pytest.approx(32, abs=1.5)


def test_gap_that_is_not_length_stays() -> None:
    result = analyse_gap(responses(0.3, 0.7), CONFIG)
    assert result.length.adjusted_difference == pytest.approx(0.4, abs=0.02)
    assert result.length.adjusted_low is not None
    assert result.length.adjusted_low > 0.3
    assert result.length.spearman is None or math.isnan(result.length.spearman)  # all of one length
    assert result.to_dict()["length"]["spearman"] is None


def test_first_tokens_by_hand() -> None:
    """Mean of the first two tokens only: 0.1 against 0.5, whatever comes after."""
    config = replace(CONFIG, prefix_tokens=2, min_per_class=1)
    rows = [sample(i, True, [0.0, 0.2, 5.0]) for i in range(4)] + [sample(i, False, [0.4, 0.6, 0.0]) for i in range(4)]
    result = analyse_gap(rows, config)
    assert result.prefix.mean_refused == pytest.approx(0.1)
    assert result.prefix.mean_answered == pytest.approx(0.5)
    assert result.overall.mean_refused == pytest.approx(5.2 / 3)


def test_by_position_by_hand() -> None:
    rows = [sample(0, True, [0.1, 0.3]), sample(1, True, [0.3]), sample(0, False, [1.0, 2.0, 3.0])]
    positions = analyse_gap(rows, CONFIG).by_position
    assert positions["refused"] == {"mean": [pytest.approx(0.2), pytest.approx(0.3)], "n": [2, 1]}
    assert positions["answered"] == {"mean": [1.0, 2.0, 3.0], "n": [1, 1, 1]}


def test_histogram_counts_every_response_once() -> None:
    result = analyse_gap(responses(0.3, 0.7), CONFIG)
    histogram = result.histogram
    assert len(histogram["edges"]) == len(histogram["refused"]) + 1 == len(histogram["answered"]) + 1
    assert (sum(histogram["refused"]), sum(histogram["answered"])) == (80, 80)


def test_benign_prompts_are_apart_and_never_decide() -> None:
    rows = responses(0.3, 0.7) + responses(0.9, 0.1, kind="benign")
    result = analyse_gap(rows, CONFIG)
    assert result.verdict == "present"
    assert result.overall.n_refused == 80
    assert set(result.by_kind) == {"harmful", "benign"}
    assert result.by_kind["benign"].difference == pytest.approx(-0.8, abs=0.05)
    assert set(result.by_category) == {"c0", "c1"}
    assert result.by_category["c0"].n_refused == 40
    assert analyse_gap(responses(0.3, 0.7, kind="benign"), CONFIG).verdict == "too few"


def test_own_refusals_tell_harmful_from_benign_prompts_by_hand() -> None:
    refusing = {"harmful": [4, 4, 2, 1], "benign": [0, 1, 0, 2]}  # of four responses to each prompt
    rows = [
        sample(prompt, i < n, [0.5], kind)
        for kind, counts in refusing.items()
        for prompt, n in enumerate(counts)
        for i in range(4)
    ]
    told = analyse_gap(rows, CONFIG).told_apart
    assert told is not None
    assert (told.harmful, told.benign) == (4, 4)
    assert (told.harmful_refused, told.benign_refused) == (11 / 16, 3 / 16)
    assert told.auroc == (4 + 4 + 3.5 + 2.5) / 16  # pairs won, ties half
    assert told.low < told.auroc < told.high
    words = " ".join(explain_told_apart(told).split())
    assert "AUROC 0.88" in words
    assert "69% of the harmful and 19% of the benign" in words
    assert analyse_gap([row for row in rows if row.kind == "harmful"], CONFIG).told_apart is None
    few = [row for row in rows if row.kind == "harmful" or row.prompt_id in ("p0", "p1")]
    assert analyse_gap(few, CONFIG).told_apart is None


def test_unlabeled_prompts_are_compared_where_none_is_harmful() -> None:
    result = analyse_gap(responses(0.3, 0.7, kind="unlabeled") + responses(0.5, 0.5, kind="benign"), CONFIG)
    assert (result.compared, result.verdict) == ("unlabeled", "present")


def test_what_does_not_count_is_counted_apart() -> None:
    base = responses(0.3, 0.7)
    odd = replace(base[0], refused=None, entropies=())
    rows = [
        *base,
        replace(odd, finish_reason="error", error="out of memory", label="unscored"),
        replace(odd, label="unscored"),
        replace(odd, label="full_refusal"),
        replace(base[2], label="partial_refusal"),
    ]
    result = analyse_gap(rows, CONFIG)
    counts = result.counts
    assert (counts["error"], counts["unscored"], counts["no_entropies"], counts["partial_refusal"]) == (1, 1, 1, 1)
    assert counts["samples"] == len(base) + 4
    assert counts["prompts"] == 40
    assert result.overall.n_refused == 80  # the odd ones are in no class
    assert result.overall.n_answered == 81  # a partial refusal gave something: not safe


def test_result_is_json_and_deterministic() -> None:
    rows = responses(0.3, 0.7)
    first, again = analyse_gap(rows, CONFIG).to_dict(), analyse_gap(rows, CONFIG).to_dict()
    text = json.dumps(first, allow_nan=False)
    assert text == json.dumps(again, allow_nan=False)
    assert json.loads(text)["verdict"] == "present"
    assert "10 responses" in first["rule"]


def test_sample_rows_round_trip() -> None:
    for row in (sample(0, True, [0.5, 1.0], "benign", "c"), sample(1, False, [])):
        written = json.loads(json.dumps(row.to_row()))
        assert GapSample.from_row(written) == row
    assert sample(0, True, [0.5, 1.0]).to_row()["mean_entropy"] == 0.75
    assert sample(0, True, [0.5, 1.0]).to_row()["length"] == 2
    assert sample(0, True, []).to_row()["mean_entropy"] is None


@pytest.mark.parametrize(
    "bad",
    [{"k": 0}, {"max_new_tokens": 0}, {"temperature": 0.0}, {"level": 95.0}, {"prefix_tokens": 0}, {"n_bootstrap": 0}],
)
def test_config_names_what_is_wrong(bad: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(bad))):
        GapConfig(**bad)  # type: ignore[arg-type]


class ScriptedEngine:
    """Refuses what mentions harm on even draws with low entropy, answers the rest with high entropy."""

    name = "scripted"

    def __init__(self) -> None:
        self.params: SamplingParams | None = None
        self.conversations: list[Conversation] = []

    def generate(
        self,
        conversations: Sequence[Conversation],
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        self.params, self.conversations = params, list(conversations)
        out = []
        for number, conversation in enumerate(conversations):
            group = []
            for i in range(params.n):
                noise = (number * 7 + i * 3) % 5 / 100
                if "crash" in conversation[-1]["content"]:
                    group.append(Completion("", finish_reason="error", error="boom"))
                elif "silent" in conversation[-1]["content"]:
                    group.append(Completion("", (2,), ("</s>",), (0.4,)))
                elif "blind" in conversation[-1]["content"]:
                    group.append(Completion("Sure."))
                elif "harm" in conversation[-1]["content"] and i % 2 == 0:
                    group.append(Completion("I can't help with that.", (1, 2), ("a", "b"), (0.1 + noise, 0.2)))
                else:
                    group.append(Completion("Sure, it is easy.", (1, 2), ("a", "b"), (0.8 + noise, 0.9)))
            out.append(group)
            if progress:
                progress(params.n)
        return out


def prompts() -> list[tuple[PromptClass, Prompt]]:
    rows: list[tuple[PromptClass, Prompt]] = [("harmful", Prompt(f"h{i}", f"harm {i}", "c")) for i in range(10)]
    rows += [("benign", Prompt(f"b{i}", f"hello {i}")) for i in range(3)]
    return [*rows, *[("harmful", Prompt(name, name)) for name in ("crash", "silent", "blind")]]


def test_a_model_that_answers_nothing_stops() -> None:
    everything: list[tuple[PromptClass, Prompt]] = [
        ("harmful", Prompt("a", "crash")),
        ("benign", Prompt("b", "crash too")),
    ]
    with pytest.raises(UserError, match=r"none of 6 requests was answered; the reason: boom"):
        sample_gap(ScriptedEngine(), RefusalJudge(), everything, GapConfig(k=3))


def test_sample_gap_end_to_end() -> None:
    engine, seen = ScriptedEngine(), []
    config = GapConfig(k=4, max_new_tokens=9, temperature=0.7, seed=5, n_bootstrap=200)
    rows = sample_gap(engine, RefusalJudge(), prompts(), config, seen.append)
    assert engine.params == SamplingParams(max_new_tokens=9, temperature=0.7, n=4, seed=5)
    assert engine.conversations[0] == ({"role": "user", "content": "harm 0"},)
    assert sum(seen) == len(rows) == 16 * 4
    assert [r.prompt_id for r in rows[:5]] == ["h0", "h0", "h0", "h0", "h1"]
    assert [r.refused for r in rows[:4]] == [True, False, True, False]
    assert rows[0].entropies == (0.1, 0.2)
    by_id = {r.prompt_id: r for r in rows}
    assert (by_id["crash"].refused, by_id["crash"].label, by_id["crash"].error) == (None, "unscored", "boom")
    assert (by_id["silent"].refused, by_id["silent"].label) == (None, "empty")
    assert (by_id["blind"].refused, by_id["blind"].label) == (None, "full_compliance")
    result = analyse_gap(rows, config)
    assert result.verdict == "present"
    assert [result.counts[key] for key in ("error", "empty", "unscored", "no_entropies")] == [4, 4, 0, 4]
    assert result.by_kind["benign"].n_answered == 12


def test_sample_gap_refuses_bad_input() -> None:
    with pytest.raises(UserError, match="no prompts"):
        sample_gap(ScriptedEngine(), RefusalJudge(), [], CONFIG)
    with pytest.raises(ValueError, match="kinds"):
        sample_gap(ScriptedEngine(), RefusalJudge(), [("evil", Prompt("a", "b"))], CONFIG)  # type: ignore[list-item]

    class Short(ScriptedEngine):
        def generate(self, *args: object, **kwargs: object) -> list[list[Completion]]:
            return [[Completion("x")]]

    with pytest.raises(ValueError, match="must return 4"):
        sample_gap(Short(), RefusalJudge(), prompts()[:1], CONFIG)

    class Broken(ScriptedEngine):
        def generate(self, *args: object, **kwargs: object) -> list[list[Completion]]:
            return [[Completion("x", (1,), ("x",), (float("nan"),))] * 4]

    with pytest.raises(ValueError, match="not finite"):
        sample_gap(Broken(), RefusalJudge(), prompts()[:1], CONFIG)


HOSTILE = "<b>[bold]x[/]"


@pytest.mark.parametrize(
    "rows", [[], responses(0.3, 0.7), [sample(0, True, [0.0])], [sample(0, False, [0.3], category=HOSTILE)]]
)
def test_table_and_chart_of_anything(rows: list[GapSample]) -> None:
    from rich.console import Console

    result = analyse_gap(rows, CONFIG)
    out = io.StringIO()
    Console(file=out, width=80).print(render_gap_table(result))
    assert all(len(line) <= 80 for line in out.getvalue().splitlines())
    assert result.verdict in out.getvalue()
    if rows and rows[0].category == HOSTILE:
        assert "[bold]x[/]" in out.getvalue()
    root = ElementTree.fromstring(gap_svg(result))
    assert root.tag.endswith("svg")
    assert "nan" not in ElementTree.tostring(root, encoding="unicode")


def test_chart_has_both_classes_and_their_means() -> None:
    svg = gap_svg(analyse_gap(responses(0.3, 0.7), CONFIG))
    root = ElementTree.fromstring(svg)
    paths = [e.get("class") for e in root.iter() if e.tag.endswith("path")]
    assert paths == ["refused", "answered"]
    assert "refused: mean 0.30" in svg
    assert "prefers-color-scheme:dark" in svg
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")
