"""Our engine as lm-evaluation-harness's model, against plain transformers on tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="needs the extra `eval` (lm-evaluation-harness)")

from test_eval_benchmarks import ROWS, write

from sirl.errors import UserError
from sirl.evals import harness
from sirl.evals.benchmarks import Benchmark, resolve
from sirl.evals.harness import EngineLM, run_benchmark
from sirl.generation.base import SamplingParams
from sirl.generation.local import LocalEngine
from sirl.records import user_turn
from tiny_models import PROMPTS, tiny_model


def asked(*arguments: Any) -> Any:
    return SimpleNamespace(args=arguments)


def ignore(done: int, total: int) -> None:
    assert 0 <= done <= total


@pytest.fixture(params=["llama", "gpt2"])
def lm(request: pytest.FixtureRequest, tokenizer: Any) -> EngineLM:
    return EngineLM(LocalEngine(tiny_model(request.param), tokenizer, name="tiny"), ignore)


def plain(lm: EngineLM, prompt: list[int], target: list[int]) -> tuple[float, bool]:
    """Log-likelihood by one forward pass without cache or padding, and whether it is the greedy continuation."""
    with torch.no_grad():
        logits = lm.engine.model(torch.tensor([[*prompt, *target]])).logits[0, len(prompt) - 1 : -1]
    logprobs = logits.double().log_softmax(-1)
    wanted = torch.tensor(target)
    return float(logprobs.gather(-1, wanted[:, None]).sum()), bool((logits.argmax(-1) == wanted).all())


def test_loglikelihood(lm: EngineLM) -> None:
    contexts = [lm.apply_chat_template([{"role": "user", "content": text}]) for text in PROMPTS]
    pairs = [(context, target) for context in contexts for target in ("A", "B", "the bread of the sea")]
    got = lm.loglikelihood([asked(*pair) for pair in pairs])
    for (context, target), (score, greedy) in zip(pairs, got, strict=True):
        whole, first = lm.tok_encode(context + target), lm.tok_encode(context)
        expected, is_greedy = plain(lm, first, whole[len(first) :])
        assert score == pytest.approx(expected, abs=1e-3)
        assert greedy == is_greedy


def test_the_greedy_continuation_is_told(lm: EngineLM) -> None:
    prompt = lm.tok_encode(lm.apply_chat_template([{"role": "user", "content": PROMPTS[1]}]))
    ((rollout,),) = lm.engine.rollout([prompt], SamplingParams(max_new_tokens=6))
    pairs = [(("", ""), prompt, rollout.token_ids), (("", ""), prompt, [*rollout.token_ids[:-1], 5])]
    assert [greedy for _, greedy in lm._loglikelihood_tokens(pairs)] == [True, False]


def test_no_context_and_no_continuation(lm: EngineLM) -> None:
    ((score, _),) = lm.loglikelihood([asked("", "the sea")])
    assert score == pytest.approx(plain(lm, [lm.eot_token_id], lm.tok_encode("the sea"))[0], abs=1e-3)
    assert lm._loglikelihood_tokens([(("a", ""), [5], [])]) == [(0.0, True)]


def test_long_contexts_lose_their_beginning(lm: EngineLM) -> None:
    lm.max_length = 16
    context, target = list(range(5, 45)), [7, 8]
    ((score, _),) = lm._loglikelihood_tokens([(("", ""), context, target)])
    assert score == pytest.approx(plain(lm, context[-15:], target)[0], abs=1e-3)


def test_many_continuations_are_scored_in_slices(lm: EngineLM, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(("", ""), [5, 6], list(range(7, 7 + n))) for n in (3, 1, 9, 2, 4)]
    whole = lm._loglikelihood_tokens(pairs)
    monkeypatch.setattr(harness, "TARGET_TOKENS", 6)
    assert [s for s, _ in lm._loglikelihood_tokens(pairs)] == pytest.approx([s for s, _ in whole], abs=1e-3)


def test_rolling_windows(lm: EngineLM) -> None:
    text = " ".join(PROMPTS[:2])
    ids = lm.tok_encode(text)
    (score,) = lm.loglikelihood_rolling([asked(text)])
    assert score == pytest.approx(plain(lm, [lm.eot_token_id], ids)[0], abs=1e-3)
    lm.max_length = 8
    (score,) = lm.loglikelihood_rolling([asked(text)])
    expected = plain(lm, [lm.eot_token_id, *ids[:7]][:1], ids[:8])[0]  # the first window
    for start in range(8, len(ids), 8):  # each next one with as much context as fits
        end = min(start + 8, len(ids))
        seen = max(0, end - 8 - 1)
        expected += plain(lm, ids[seen:start], ids[start:end])[0]
    assert score == pytest.approx(expected, abs=1e-3)


def generate(lm: EngineLM, until: Any, most: int = 24, **more: Any) -> list[str]:
    contexts = [lm.apply_chat_template([{"role": "user", "content": text}]) for text in PROMPTS]
    return lm.generate_until([asked(c, {"until": until, "max_gen_toks": most, **more}) for c in contexts])


@pytest.fixture
def endless(tokenizer: Any) -> EngineLM:
    """A model that never ends its turn by itself."""
    return EngineLM(LocalEngine(tiny_model("llama", eos_bias=-9.0), tokenizer), ignore)


def test_answers_are_the_engines(lm: EngineLM) -> None:
    texts = [group[0].text for group in lm.engine.generate([user_turn(t) for t in PROMPTS], SamplingParams(24))]
    assert generate(lm, []) == texts
    assert generate(lm, None) == texts


def test_stop_strings(endless: EngineLM) -> None:
    whole = generate(endless, [], most=200)
    stop = whole[0][20:22]
    assert stop
    got = generate(endless, [stop, "never said by anybody"], most=200)
    assert got == [text.split(stop)[0] for text in whole]
    assert generate(endless, stop, most=200) == got  # one may come as a string
    assert any(len(a) < len(b) for a, b in zip(got, whole, strict=True))


def test_stopped_answers_are_decoded_no_further(endless: EngineLM, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = generate(endless, [], most=200)
    asked_for: list[tuple[int, int]] = []
    rollout = endless.engine.rollout

    def counting(prompts: Any, params: SamplingParams, *rest: Any) -> Any:
        asked_for.append((len(prompts), params.max_new_tokens))
        return rollout(prompts, params, *rest)

    monkeypatch.setattr(endless.engine, "rollout", counting)
    stops = [text[:3] for text in whole]
    assert generate(endless, stops, most=200) == [""] * len(whole)
    assert asked_for == [(len(PROMPTS), 64)]
    asked_for.clear()
    assert generate(endless, ["never said by anybody"], most=200) == whole
    assert asked_for == [(len(PROMPTS), n) for n in (64, 64, 72)]


def test_samples_are_refused(lm: EngineLM) -> None:
    assert generate(lm, [], do_sample=False, temperature=0.5) == generate(lm, [])
    with pytest.raises(UserError, match="the task samples its answers"):
        generate(lm, [], do_sample=True)


def test_a_prefilled_turn_is_gone_on_from(lm: EngineLM) -> None:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Sure"}]
    assert lm.apply_chat_template(chat, add_generation_prompt=False).endswith("Sure")


@pytest.mark.parametrize("name", ROWS)
def test_our_definitions_run(name: str, tmp_path: Path, endless: EngineLM) -> None:
    lm = endless
    path = write(tmp_path, name)
    path.write_text(path.read_text() * 3)
    (benchmark,) = resolve(f"{name}={path}", None, allow_code_execution=True)
    rows = run_benchmark(benchmark, lm, limit=2)
    assert len(rows) == 2
    assert [row["id"] for row in rows] == [f"sirl_{name}/{i}/{ROWS[name].get('id', i + 1)}" for i in range(2)]
    assert rows[0]["chance"] == {"arc": pytest.approx(1 / 3), "chat": None}.get(name, 0.01)
    assert rows[0]["prompt"] == (ROWS[name].get("prompt") or ROWS[name]["question"])
    figures = rows[0]["figures"]
    expected = {"arc": {"acc"}, "mbpp": {"pass@1"}, "gsm8k": {"exact_match"}}
    assert set(figures) >= expected.get(name, set())
    assert all(value >= 0 for value in figures.values())
    if name == "arc":
        scores = lm.engine.target_logprobs(
            [user_turn(f"{ROWS[name]['prompt']}\n\nAnswer with the letter of the right option alone.")] * 3, "ABC"
        )
        assert figures["acc"] == float(max(range(3), key=scores.__getitem__) == 0)
    else:
        assert rows[0]["response"]


def test_definitions_are_the_harnesss_own_form(tmp_path: Path, endless: EngineLM) -> None:
    """A definition of the user's, found by its path, with a function in a file beside it."""
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"q": q, "a": "yes"}) + "\n" for q in PROMPTS[:3]))
    (tmp_path / "mine.py").write_text("def score(doc, results):\n    return {'said': float(len(results[0]) > 0)}\n")
    task = tmp_path / "mine.yaml"
    task.write_text(
        f"task: sirl_user_task\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {data}\n"
        'test_split: test\noutput_type: generate_until\ndoc_to_text: "{{q}}"\ndoc_to_target: "{{a}}"\n'
        "generation_kwargs:\n  until: []\n  max_gen_toks: 4\n"
        "process_results: !function mine.score\nmetric_list:\n  - metric: said\n    aggregation: mean\n"
        "    higher_is_better: true\n"
    )
    (benchmark,) = resolve(f"file:{task}", None, allow_code_execution=False)
    assert [row["figures"] for row in run_benchmark(benchmark, endless)] == [{"said": 1.0}] * 3


def test_unknown_task(endless: EngineLM) -> None:
    with pytest.raises(UserError, match="--tasks no_such_task: lm-evaluation-harness cannot run it"):
        run_benchmark(Benchmark("no_such_task"), endless)
