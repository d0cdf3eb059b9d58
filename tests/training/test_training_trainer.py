"""`SIRLTrainer` as a trainer: what it takes, what it refuses, and that TRL still calls what it overrides."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from tiny_runs import HELD, Record, RecordingTrainer, tiny_config, tiny_trainer, trainable
from trl import GRPOTrainer

from sirl.errors import UserError
from sirl.generation.decode import Rollout, common_prefix
from sirl.models import load_model
from sirl.training import SIRLTrainer, batching
from sirl.training.config import REWARDS
from sirl.training.retention import Deck
from sirl.training.rewards import reward_function
from sirl.training.scoring import Scoring
from sirl.training.trainer import HOOKS, check_hooks
from sirl.visible import says_nothing
from tiny_models import PROMPTS, chat_ids, tiny_tokenizer

# -- nothing but prompts -----------------------------------------------------------------------------------------------


def labelled(tmp_path: Path, folder: Path, label: str) -> Any:
    rows = {"prompt": list(PROMPTS), "label": [label] * 8, "is_safe": [True] * 8, "completion": ["I cannot."] * 8}
    trainer = RecordingTrainer(
        load_model(str(folder), dtype=torch.float32),
        tiny_config(tmp_path, learning_rate=1e-2),
        Dataset.from_dict(rows),
        processing_class=tiny_tokenizer(),
        peft_config=LoraConfig(r=4, target_modules="all-linear"),
    )
    trainer.record = Record()
    return trainer


def test_label_columns_never_reach_the_reward(tmp_path: Path, model_folder: Any) -> None:
    trainer = labelled(tmp_path, model_folder("llama"), "safe")
    reward, seen = trainer.reward_funcs[0], []

    def spy(**given: Any) -> list[float | None]:
        seen.append(given)
        return reward(**given)

    trainer.reward_funcs[0] = spy
    trainer.train()
    assert len(seen) == 2
    allowed = {
        "prompts",
        "completions",
        "completion_ids",
        "mean_entropy",
        "first_entropy",
        "mean_logprob",
        "drawn_entropy",
        "reward_seed",
    }
    allowed |= {"trainer_state", "log_extra", "log_metric"}  # TRL's own
    assert set().union(*seen) == allowed
    assert trainer.train_dataset.column_names == ["prompt"]


def test_labels_make_no_difference(tmp_path: Path, model_folder: Any) -> None:
    weights = []
    for label in ("safe", "unsafe"):
        trainer = labelled(tmp_path, model_folder("llama"), label)
        trainer.train()
        weights.append(trainable(trainer))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_conversations_as_prompts(tmp_path: Path, model_folder: Any) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How?"}]
    trainer = SIRLTrainer(
        load_model(str(model_folder("llama")), dtype=torch.float32),
        tiny_config(tmp_path, max_steps=1, beta=0.0),
        Dataset.from_dict({"prompt": [chat] * 4}),
        processing_class=tiny_tokenizer(),
    )
    trainer.train()
    assert trainer.state.global_step == 1


# -- TRL's hooks -------------------------------------------------------------------------------------------------------


def test_hooks_are_there() -> None:
    check_hooks()
    overridden = {name for own in (SIRLTrainer, Scoring) for name in vars(own) if name in vars(GRPOTrainer)}
    overridden -= {"__init__"}
    overridden -= {"_name", "_tag_names", "__doc__", "__module__"}
    assert overridden <= set(HOOKS), "every override is checked"


@pytest.mark.parametrize("name", HOOKS)
def test_a_missing_hook_is_noticed(
    name: str, tmp_path: Path, model_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(GRPOTrainer, name)
    with pytest.raises(RuntimeError, match=rf"GRPOTrainer\.{name}.*trl>=1\.16"):
        tiny_trainer(tmp_path, model_folder("llama"))


def test_a_changed_hook_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def calculate_rewards(self: Any, batch: Any) -> None: ...

    monkeypatch.setattr(GRPOTrainer, "_calculate_rewards", calculate_rewards)
    with pytest.raises(RuntimeError, match="_calculate_rewards"):
        check_hooks()


# -- the scoring pass --------------------------------------------------------------------------------------------------


def padded_batch(tokenizer: Any, left: int, right: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Four rows with `left` and `right` columns of nothing but padding around them."""
    prompts = chat_ids(tokenizer, PROMPTS[:4])
    completions = [[5, 9, 40, 2], [77], [100, 101, 102, 103, 104, 105], [30, 31]]
    before, after = max(map(len, prompts)) + left, 6 + right
    ids = torch.full((4, before + after), tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, (p, c) in enumerate(zip(prompts, completions, strict=True)):
        ids[row, before - len(p) : before + len(c)] = torch.tensor([*p, *c])
        mask[row, before - len(p) : before + len(c)] = 1
    return ids, mask, after


@pytest.mark.parametrize(("left", "right"), [(0, 0), (7, 0), (0, 5), (9, 11)])
@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("packed", [True, False])
def test_scoring_equals_trls(
    left: int, right: int, batch_size: int | None, packed: bool, tmp_path: Path, model_folder: Any
) -> None:
    trainer = tiny_trainer(tmp_path, model_folder("qwen2"), temperature=0.7, packed_scoring=packed)
    ids, mask, width = padded_batch(trainer.processing_class, left, right)
    seen: list[torch.Size] = []
    inner = trainer.model.get_base_model().model
    inner.register_forward_hook(lambda _m, _a, out: seen.append(out[0].shape))
    given = (trainer.model, ids, mask, width)
    with torch.no_grad():
        ours = trainer._get_per_token_logps_and_entropies(*given, batch_size=batch_size, compute_entropy=True)
        if packed:
            tokens = int(mask.sum()) - len(ids)  # a completion's last token predicts nothing
            chats = chat_ids(trainer.processing_class, PROMPTS[:4])
            beginning = common_prefix(min(chats), max(chats))
            tokens -= beginning * (3 if batch_size is None else 2)  # the fourth row goes alone
            assert sum(shape[1] for shape in seen) == tokens, "neither padding nor anything twice is computed"
        else:
            assert seen[0][1] == ids.shape[1] - left - right, "columns of padding are not computed"
        theirs = GRPOTrainer._get_per_token_logps_and_entropies(
            trainer, *given, batch_size=batch_size, compute_entropy=True
        )
    kept = mask[:, -width:].bool()
    for got, expected in zip(ours[:2], theirs[:2], strict=True):
        assert got.shape == expected.shape == (4, width)
        torch.testing.assert_close(got[kept], expected[kept], atol=1e-4, rtol=1e-4)
    assert trainer._get_per_token_logps_and_entropies(*given)[1] is None


@pytest.mark.parametrize("packed", [True, False])
def test_scoring_without_any_completion(packed: bool, tmp_path: Path, model_folder: Any) -> None:
    """All rows truncated and masked."""
    trainer = tiny_trainer(tmp_path, model_folder("llama"), packed_scoring=packed)
    ids, mask, width = padded_batch(trainer.processing_class, 2, 3)
    mask[:, -width:] = 0
    logps, entropies, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, mask, width, compute_entropy=True
    )
    assert logps.shape == entropies.shape == (4, width)
    mask[:] = 0
    assert trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, width)[0].shape == (4, width)


def test_packing_where_it_cannot_be(tmp_path: Path, model_folder: Any) -> None:
    with pytest.raises(UserError, match="gpt2 models are not all plain"):
        tiny_trainer(tmp_path, model_folder("gpt2"), packed_scoring=True, lora=False)
    with pytest.raises(UserError, match="checkpointing"):
        tiny_trainer(tmp_path, model_folder("llama"), packed_scoring=True, gradient_checkpointing=True)


# -- rollouts of another engine ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "lora", "temperature"), [("llama", True, 0.7), ("qwen2", False, 1.0)])
@pytest.mark.parametrize("reward", ["entropy", "random"])
def test_entropies_of_responses_that_another_engine_drew(
    family: str, lora: bool, temperature: float, reward: str, tmp_path: Path, model_folder: Any
) -> None:
    """As with vLLM, which returns no entropies: TRL's own generation stands in for it."""
    trainer = tiny_trainer(
        tmp_path,
        model_folder(family),
        lora=lora,
        temperature=temperature,
        reward=reward,
        per_device_train_batch_size=4,
        steps_per_generation=3,
        num_generations=4,
    )
    trainer.rollout_func = None
    trainer.train()
    assert trainer.record.steps
    for step in trainer.record.steps:
        assert len(step.completion_ids) == 12
        assert all(prompt in chat_ids(trainer.processing_class, PROMPTS) for prompt in step.prompt_ids)
        texts = trainer._tokenizer.batch_decode(step.completion_ids, skip_special_tokens=True)
        said = [i for i, text in enumerate(texts) if not says_nothing(text)]
        assert len(said) > 6
        for i in range(12):
            expected = (step.reference_entropy[i], step.reference_logprob[i]) if i in said else (None, None)
            assert (step.mean_entropy[i], step.mean_logprob[i]) == pytest.approx(expected, abs=1e-4)
        assert [not math.isnan(r) for r in step.rewards.tolist()] == [i in said for i in range(12)]
        if reward == "random":
            assert len(set(step.rewards[said].tolist())) == len(said)
        else:
            expected = -torch.tensor(step.reference_entropy)[said]
            torch.testing.assert_close(step.rewards[said], expected, atol=1e-4, rtol=0)


def test_an_empty_response_is_unscored(tmp_path: Path, model_folder: Any) -> None:
    trainer = tiny_trainer(tmp_path, model_folder("llama"))
    inputs: list[dict[str, Any]] = [{} for _ in range(3)]
    prompts = [[{"role": "user", "content": text}] for text in PROMPTS[:3]]
    trainer._score_rollouts(inputs, prompts, [[5, 6], [], [7]])
    assert inputs[1]["mean_entropy"] is None
    assert inputs[1]["first_entropy"] is inputs[1]["mean_logprob"] is None
    assert inputs[0]["mean_entropy"] > 0
    assert inputs[2]["mean_entropy"] > 0
    assert trainer.reward_funcs[0](mean_entropy=[row["mean_entropy"] for row in inputs])[1] is None


def test_a_response_that_says_nothing_earns_no_reward(tmp_path: Path, model_folder: Any) -> None:
    """The end-of-turn token alone may be as sure as anything; blanks and special tokens are no better."""
    trainer = tiny_trainer(tmp_path, model_folder("llama"))
    tokenizer = trainer._tokenizer
    eos, blank, word = tokenizer.eos_token_id, tokenizer(" ").input_ids[0], tokenizer("Paris").input_ids
    said = [[eos], [blank, eos], [*word, eos]]
    drawn = [Rollout(ids, [0.5] * len(ids), [-0.5] * len(ids), True) for ids in said]
    columns = trainer._chosen("p", drawn, 3, 0)
    inputs: list[dict[str, Any]] = [{} for _ in said]
    trainer._score_rollouts(inputs, [[{"role": "user", "content": PROMPTS[0]}]] * 3, said)
    for rows in (columns, inputs):
        for name in REWARDS:
            given = {key: [row[key] for row in rows] for key in rows[0]}
            rewards = reward_function(name)(**given)
            assert rewards[:2] == [None, None], name
            assert rewards[2] is not None, name
        assert rows[0]["drawn_entropy"] is not None, "it is measured all the same"


# -- retention rows ----------------------------------------------------------------------------------------------------


def rows_of_updates(n_held: int, size: int, accumulated: int, processes: int, updates: int) -> list[list[int]]:
    """Indices of the retention rows of each update, over all its micro-batches and processes."""
    deck = Deck([SimpleNamespace(index=i) for i in range(n_held)], size, seed=3)  # type: ignore[misc]
    out: list[list[int]] = [[] for _ in range(updates)]
    for process in range(processes):
        for update in range(updates):
            whole = deck.update_rows(update, processes)
            assert len(whole) == size * processes
            for micro_step in range(accumulated):
                mine = deck.share(whole, process, micro_step, accumulated, least=2)
                assert len(mine) <= max(2, -(-size // accumulated))  # a micro-batch, or an equal share
                out[update] += [row.index for row in mine]  # type: ignore[attr-defined]
    return out


@pytest.mark.parametrize(
    ("n_held", "size", "accumulated", "processes"),
    [(12, 4, 1, 1), (12, 4, 2, 1), (12, 2, 2, 3), (5, 3, 1, 1), (7, 1, 4, 2)],
)
def test_every_retention_row_comes_before_any_comes_again(
    n_held: int, size: int, accumulated: int, processes: int
) -> None:
    updates = rows_of_updates(n_held, size, accumulated, processes, updates=40)
    drawn = [index for update in updates for index in sorted(update)]
    counts = [drawn.count(i) for i in range(n_held)]
    assert max(counts) - min(counts) <= 1
    whole = len(drawn) // n_held * n_held
    if len(updates[0]) and n_held % len(updates[0]) == 0:  # epochs end where updates end
        for start in range(0, whole, n_held):
            assert sorted(drawn[start : start + n_held]) == list(range(n_held))


def test_retention_rows_are_the_same_however_they_are_dealt() -> None:
    one = rows_of_updates(12, 6, 1, 1, updates=6)
    for size, accumulated, processes in ((6, 2, 1), (3, 1, 2), (2, 1, 3), (3, 3, 2)):
        dealt = rows_of_updates(12, size, accumulated, processes, updates=6)
        assert [sorted(update) for update in dealt] == [sorted(update) for update in one]


def test_retention_can_be_turned_off(tmp_path: Path, model_folder: Any) -> None:
    trainer = tiny_trainer(tmp_path, model_folder("llama"), retention=HELD, retention_weight=0.0)
    trainer.train()
    assert trainer._held is None
    assert "retention_kl" not in trainer.state.log_history[0]


def test_retention_holds(tmp_path: Path, model_folder: Any) -> None:
    """The divergence on the held answers stays lower than without."""
    ends = {}
    for weight in (1e-6, 3.0):
        trainer = tiny_trainer(
            tmp_path, model_folder("llama"), retention=HELD, retention_weight=weight, max_steps=12, beta=0.0
        )
        trainer.train()
        logged = [row["retention_kl"] for row in trainer.state.log_history if "retention_kl" in row]
        assert logged[0] == pytest.approx(0, abs=1e-5)
        ends[weight] = sum(logged[-4:])
    assert ends[3.0] < 0.5 * ends[1e-6]


def test_evaluation_groups_by_its_own_number_of_responses(tmp_path: Path, model_folder: Any) -> None:
    """And takes texts and several data sets, as training does; nothing of the policy changes."""
    trainer = SIRLTrainer(
        str(model_folder("llama")),
        tiny_config(tmp_path, num_generations_eval=2, per_device_eval_batch_size=4, sameness_weight=0.5),
        Dataset.from_dict({"prompt": list(PROMPTS)}),
        {"few": Dataset.from_dict({"prompt": list(PROMPTS[:2]), "label": [0, 1]})},
        processing_class=tiny_tokenizer(),
    )
    assert trainer.model.dtype == torch.float32
    before, groups, rows = trainable(trainer), [], []
    level = batching.level_flat_groups

    def noted(rewards: Any, group: int, spread: float) -> Any:
        groups.append(group)
        rows.append(len(rewards))
        return level(rewards, group, spread)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sirl.training.trainer.level_flat_groups", noted)
        metrics = trainer.evaluate()
        more = trainer.evaluate(Dataset.from_dict({"prompt": list(PROMPTS[:4])}))
    assert set(groups) == {2}
    assert sum(rows) == 2 * 2 + 2 * 4, "each prompt twice"
    assert metrics["eval_reward"] < 0
    assert more["eval_reward"] < 0
    assert "eval_few_loss" in metrics
    assert all(torch.equal(weight, before[name]) for name, weight in trainable(trainer).items())


def test_what_a_model_rarely_says_is_not_made_more_likely(
    tmp_path: Path, model_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The share is of all responses that are drawn, and not of those that are learnt from, which are the extremes."""
    trainer = tiny_trainer(
        tmp_path,
        model_folder("llama"),
        num_rollouts=8,
        num_generations=4,
        min_certain_share=0.5,
        max_steps=1,
    )
    shares: list[float] = []
    levelled: list[bool] = []
    level = batching.level_rare_groups

    def noted(rewards: Any, group: int, given: Any, least: float) -> Any:
        shares.extend(given)
        out = level(rewards, group, given, least)
        levelled.extend((out.view(-1, group).std(1) == 0).tolist())
        return out

    monkeypatch.setattr("sirl.training.trainer.level_rare_groups", noted)
    trainer.train()
    assert any(share * 4 != int(share * 4) for share in shares), "of four responses it would be a quarter or more"
    groups = shares[:: trainer.num_generations]
    assert len(groups) == len(levelled)
    assert all(flat == (share < 0.5) for share, flat in zip(groups, levelled, strict=True))
    assert len(set(levelled)) == 2, "or the test shows nothing"


def test_settings_may_be_left_out(model_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with any trainer of TRL's; the folder is named after the model."""
    monkeypatch.chdir(tmp_path)
    model = load_model(str(model_folder("llama")), dtype=torch.float32)
    rows = Dataset.from_dict({"prompt": list(PROMPTS)})
    trainer = SIRLTrainer(model, train_dataset=rows, processing_class=tiny_tokenizer())
    assert (trainer.args.output_dir, trainer.args.num_generations) == ("llama-SIRL", 4)
    with pytest.raises(UserError, match="train_dataset: give the prompts"):
        SIRLTrainer(model, processing_class=tiny_tokenizer())
    with pytest.raises(UserError, match=r"give a datasets\.Dataset, not list"):
        SIRLTrainer(model, train_dataset=list(PROMPTS), processing_class=tiny_tokenizer())


# -- what it refuses ---------------------------------------------------------------------------------------------------


def test_user_errors(tmp_path: Path, model_folder: Any) -> None:
    model, config = load_model(str(model_folder("llama")), dtype=torch.float32), tiny_config(tmp_path)
    rows = Dataset.from_dict({"prompt": list(PROMPTS)})
    no_template = tiny_tokenizer()
    no_template.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        SIRLTrainer(model, config, rows, processing_class=no_template)
    with pytest.raises(UserError, match="no column `prompt`; it has question"):
        SIRLTrainer(model, config, Dataset.from_dict({"question": list(PROMPTS)}), processing_class=tiny_tokenizer())
    lora = LoraConfig(r=4, lora_dropout=0.1, target_modules="all-linear")
    with pytest.raises(UserError, match="--lora_dropout"):
        SIRLTrainer(model, config, rows, processing_class=tiny_tokenizer(), peft_config=lora)
    with pytest.raises(UserError, match="--save_steps 3: must be a multiple of 2"):
        tiny_trainer(tmp_path, model_folder("llama"), save_strategy="steps", save_steps=3, steps_per_generation=2)
