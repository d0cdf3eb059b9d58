"""The probe: what it is fitted on and read on, its AUC and interval, and what it cannot be asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sirl.chat.encoding import encode_chat
from sirl.errors import UserError
from sirl.evals.adversarial_benign import resolve_wrappings
from sirl.evals.probe import Probed, Reading, fit_ridge, labelled, last_states, probe_wrappings
from sirl.generation.local import LocalEngine
from sirl.records import Prompt, user_turn
from sirl.stats import auroc, auroc_interval
from tiny_models import tiny_model


def requests(kind: str, n: int, word: str) -> list[Prompt]:
    return [Prompt(f"{kind}{i}", f"{word} number {i}?", kind) for i in range(n)]


@pytest.fixture(scope="module")
def engine(tokenizer: Any) -> LocalEngine:
    return LocalEngine(tiny_model(), tokenizer)


def test_states_are_those_of_the_last_prompt_token_whatever_the_batch(engine: LocalEngine, tokenizer: Any) -> None:
    chats = [user_turn(text) for text in ("candle?", "How does a long question about an onion end?", "tomato soup?")]
    together = last_states(engine, chats)
    for chat, found in zip(chats, together, strict=True):
        with torch.no_grad():
            ids = torch.tensor([encode_chat(tokenizer, chat)])
            states = engine.model.base_model(input_ids=ids, output_hidden_states=True).hidden_states
        np.testing.assert_allclose(found[-1], states[-1][0, -1].float().numpy(), atol=1e-4)


def test_a_ridge_probe_tells_classes_that_differ_and_no_others() -> None:
    rng = np.random.default_rng(0)
    fit, new = (rng.normal(size=(2, 60, 200)) for _ in range(2))
    apart = np.zeros(200)
    apart[:3] = 1.5
    told = fit_ridge(fit[0] + apart, fit[1])
    assert auroc(told(new[0] + apart), told(new[1])) > 0.8
    blind = fit_ridge(fit[0], fit[1])
    found = auroc_interval(blind(new[0]), blind(new[1]))
    assert found.low < 0.5 < found.high
    assert found.low <= found.value <= found.high


def seen_words(_: Any, conversations: Any, progress: Any = None) -> Any:
    """States in which the word that tells the classes can be read, wherever it stands in clear, behind the last layer
    alone; the rest is noise."""
    rng = np.random.default_rng(len(conversations))
    out = rng.normal(size=(len(conversations), 2, 16))
    for row, turns in zip(out, conversations, strict=True):
        row[1, 0] += 6.0 * any("tomato" in turn["content"].casefold() for turn in turns)
    if progress is not None:
        progress(len(conversations))
    return out


def test_read_in_wrappings_on_requests_it_never_saw(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sirl.evals.probe.last_states", seen_words)
    fit = {"harmful": requests("harmful", 20, "Tomato"), "benign": requests("benign", 20, "Lighthouse")}
    read = {"harmful": requests("h", 12, "Tomato soup"), "benign": requests("b", 12, "Lighthouse keeper")}
    steps: list[int] = []
    found = probe_wrappings(engine, resolve_wrappings("aim,base64"), fit, read, 0, steps.append)
    assert sum(steps) == 2 * 40 + 3 * 24
    assert found.fitted == 80, "bare, and each in a training wrapping"
    assert found.layer == 2, "the layer where it can be told"
    assert found.bare.auc > 0.95
    aim, encoded = found.wrappings
    assert (aim.wrapping, aim.family, aim.readable, aim.there) == ("aim", "persona", True, True)
    assert (encoded.readable, encoded.there) == (False, False)
    assert found.verdict == "an instinct is there in 1 of 2 wrappings"


def test_on_a_real_model_it_is_the_same_twice(engine: LocalEngine) -> None:
    fit = {"harmful": requests("harmful", 10, "tomato"), "benign": requests("benign", 10, "lighthouse")}
    read = {"harmful": requests("h", 10, "soup"), "benign": requests("b", 10, "keeper")}
    first, second = (probe_wrappings(engine, resolve_wrappings("aim"), fit, read).to_dict() for _ in range(2))
    assert first == second
    assert first["wrappings"][0]["harmful"] == 10
    with pytest.raises(UserError, match="needs 10 or more"):
        probe_wrappings(engine, resolve_wrappings("aim"), fit, {**read, "benign": read["benign"][:9]})


def test_verdict_counts_where_harm_is_read() -> None:
    def reading(name: str, auc: float, low: float) -> Reading:
        return Reading(name, "persona", True, auc, low, 1.0, 40, 40)

    readings = (reading("a", 0.9, 0.8), reading("b", 0.85, 0.49), reading("c", 0.7, 0.6))
    found = Probed(3, 80, readings[0], readings)
    assert found.verdict == "an instinct is there in 1 of 3 wrappings"
    assert found.to_dict()["mean_auc"] == pytest.approx((0.9 + 0.85 + 0.7) / 3)


@pytest.mark.parametrize("kinds", [("harmful", "plain"), ("harmful",)])
def test_what_it_is_fitted_on_needs_both_classes(kinds: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"--probe_dataset_name: .*harmful or benign .* found 12 harmful and 0 benign"):
        labelled([prompt for kind in kinds for prompt in requests(kind, 12, "tomato")])
