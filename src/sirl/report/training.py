"""What the report and the card say of how a model was trained: its reward, what held it, who chose the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sirl.inputs.comma_list import comma_list
from sirl.manifest import run_config, training_config
from sirl.results.load import Run

REWARD_WORDS = {
    "entropy": "the model's own certainty (minus the mean token entropy of its responses)",
    "first_k": "the model's own certainty at the start of its responses (minus the mean entropy of the first tokens)",
    "neg_entropy": "the model's own uncertainty (plus the mean token entropy of its responses), SIRL's reward reversed "
    "as a control,",
    "neg_perplexity": "minus the perplexity of its responses under the model itself",
    "random": "uniform noise, a control that favours no response,",
}
# What the charts of entropy and reward say, where another reward than SIRL's own was used
ENTROPY_NOTES = {
    "entropy": "What SIRL lowers: its reward is minus this.",
    "first_k": "The reward is minus this of the first tokens alone.",
    "neg_entropy": "The reward is plus this: SIRL's, reversed.",
}
REWARD_NOTES = {
    "entropy": "Rises as entropy falls.",
    "first_k": "Rises as the entropy of the first tokens falls.",
    "neg_entropy": "Rises with entropy.",
    "neg_perplexity": "Rises as the perplexity of the responses falls.",
    "random": "Noise: there is nothing to learn from.",
}


def compared_method(manifest: Mapping[str, Any] | None) -> str | None:
    """What trained the model in place of SIRL, where it is a run of `sirl compare`; `sirl.compare` has no say here."""
    name = dig(run_config(manifest), "compare", "method")
    return None if name is None else str(name)


def reward_name(manifest: Mapping[str, Any] | None) -> str | None:
    """Name of the reward; None where the manifest does not say, or it was another method's."""
    train = training_config(manifest)
    return str(train.get("reward") or "entropy") if train and compared_method(manifest) is None else None


def held(manifest: Mapping[str, Any] | None) -> bool:
    """Whether retention held the policy to the base model on benign prompts."""
    train = training_config(manifest)
    weight = train.get("retention_weight")
    return bool(train.get("retention_dataset_name")) and (weight is None or weight != 0)


def training_words(run: Run, method: str) -> str:
    """How the model was made, as the rest of a sentence that begins with the base model, and some more. `method` is
    what SIRL is called."""
    compared, reward = compared_method(run.manifest), reward_name(run.manifest)
    if compared is not None:
        words = f"trained by the method {compared} of sirl compare, next to {method}. A judge's verdicts "
        return f"{words}took part in training{_choice_words(run)}."
    if reward is None:
        return f"trained with {method}; the run folder does not say with which settings{_choice_words(run)}."
    lead = "hardened against jailbreaks with" if reward == "entropy" else "trained by a variant of"
    train = training_config(run.manifest)
    floor, weight = train.get("entropy_floor"), train.get("sameness_weight")
    shaped = f", all responses below {floor:g} nats alike," if floor else ""
    shaped += f" less up to {weight:g} nats for what other prompts get too," if weight else ""
    hold = "The loss also kept it close to the base model's answers to benign, unlabeled prompts (retention)."
    return (
        f"{lead} {method}: GRPO whose only reward is {REWARD_WORDS.get(reward, reward)}{shaped} on unlabeled prompts. "
        f"{hold if held(run.manifest) else 'No retention prompts kept it close to the base model.'} "
        f"No labels, reward model or judge took part in training{_choice_words(run)}."
    )


def _choice_words(run: Run) -> str:
    if not chosen_on_development(run):
        return ""
    return f", but the choice of the checkpoint used a judge ({choosing_judge(run.manifest)}) on development prompts"


def chosen_on_development(run: Run) -> bool:
    """Whether the weights are those that were best on a development set, and not simply the last."""
    own = run_config(run.manifest).get("development")
    told = isinstance(own, Mapping) and bool(own.get("choose", True)) and compared_method(run.manifest) is None
    return run.chosen is not None or told


def choosing_judge(manifest: Mapping[str, Any] | None) -> str:
    """The judge of the development set: the first of those of the attacks."""
    return comma_list(str(dig(run_config(manifest), "attack", "judge") or "refusal"))[0]


def checkpoint_facts(run: Run, steps: int | None) -> list[tuple[str, str]]:
    """Of which update the model is, and by what rule; `steps` is how many training made."""
    step = run.chosen.step if run.chosen else None
    if run.chosen is None or step is None:
        return [("updates made", f"{steps:,}")] if steps is not None else []
    made = "" if steps is None else f"; training made {steps:,}"
    words = f"0: the choice fell on the model that training began from{made}" if step == 0 else f"{step}, chosen{made}"
    rule = run.chosen.rule
    return [("updates made", words), *([("rule of the choice", rule)] if rule else [])]


def choice_facts(run: Run) -> list[tuple[str, str]]:
    """On what the checkpoint was chosen, as label and words; empty where it was not."""
    if not chosen_on_development(run):
        return []
    own = run_config(run.manifest).get("development")
    own = own if isinstance(own, Mapping) else {}
    named = [f"{what} {own[key]}" for key, what in (("goals", "goals"), ("overrefusal", "benign")) if own.get(key)]
    sets = f" ({', '.join(named)})" if named else ""
    judge = choosing_judge(run.manifest)
    return [
        ("Choice of the checkpoint", f"by the judge {judge} on development prompts{sets}, which no figure here is from")
    ]


def goal_names(manifest: Mapping[str, Any] | None) -> str:
    """Where the goals of the attacks come from, in brackets behind a blank; empty where the manifest does not say."""
    config = run_config(manifest)
    found = [dig(config, key, "goals") for key in ("attack", "attack_before", "attack_after")]
    return _in_brackets(found)


def benign_name(manifest: Mapping[str, Any] | None, section: str = "evals") -> str:
    """The same for benign prompts, of a run (`evals`) or of `sirl eval` (`eval`)."""
    return _in_brackets([dig(run_config(manifest), section, "overrefusal")])


def _in_brackets(names: list[Any]) -> str:
    known = ", ".join(dict.fromkeys(str(name) for name in names if name))
    return f" ({known})" if known else ""


def dig(value: Any, *keys: str) -> Any:
    """What stands in nested mappings under these keys; None where there is no such place."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
