"""The YAML of a run, as frozen dataclasses that are checked when they are made.

Keys of `train` other than `dataset_name` are the flags of `sirl train`, whose parser checks them. An error names the
key, and the nearest one that exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from sirl.chat.template import check_arguments
from sirl.errors import UserError
from sirl.gap import GapSampling
from sirl.inputs.typed import build
from sirl.inputs.user_files import read_text
from sirl.inputs.yaml_text import parse_yaml
from sirl.records import MAX_SEED, Decoding
from sirl.training.selection_limits import SelectionLimits

WITH_COMMAS = (
    "dataset_name",
    "retention_dataset_name",
    "wrap_prompts",
    "wrapping_families",
    "benign_dataset_name",
    "goals",
    "overrefusal",
    "judge",
)
"""Keys whose text may name several with commas between; a list will do as well."""


RECHECK_TIMES = 4
"""The limit of a refusal that is asked again, in multiples of the first limit, where none is given."""


def recheck_limit(given: int | None, max_new_tokens: int, flag: str) -> int | None:
    """Tokens that a refusal may have which is asked again; None where `given` is 0: none is.

    Raises:
        UserError: it is no more than the limit that cut the refusal off.
    """
    if given == 0:
        return None
    if given is not None and given <= max_new_tokens:
        raise UserError(f"{flag} {given}: must be above max_new_tokens ({max_new_tokens}), or 0 to ask for none again")
    return given or RECHECK_TIMES * max_new_tokens


@dataclass(frozen=True)
class GapSection(GapSampling):
    """The gap check, and how it draws responses.

    `dataset_name` holds harmful requests; null takes the training prompts, as they are unlabeled. `benign_dataset_name`
    null takes the retention prompts, if there are any. With `required`, training does not start where the gap is absent
    or reversed.
    """

    dataset_name: str | None = None
    benign_dataset_name: str | None = None
    max_prompts: int = 48
    judge: str = "refusal"
    required: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(1, gap__max_prompts=self.max_prompts)


@dataclass(frozen=True)
class TrainSection:
    """Training prompts, and all flags of `sirl train` under `options`."""

    dataset_name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AttackSection:
    """Which attacks on which goals, how answers are decoded and judged. `template_file` adds the user's templates.

    Adaptive attacks spend at most `budget` model calls per goal (null: each its own default). `attacker_model` writes
    prompts for those that have a second model (null: the target itself), run as `attacker_engine` says. Refusals that
    `max_new_tokens` cut off are asked again with `recheck_tokens` (null: four times as many; 0: they are not).
    """

    attacks: str | tuple[str, ...] = "static"
    template_file: str | None = None
    goals: str = "demo/behaviours"
    max_goals: int | None = None
    max_new_tokens: int = 64
    recheck_tokens: int | None = None
    decoding: tuple[Decoding, ...] = ("greedy", "sample")
    judge: str = "refusal"
    attacker_model: str | None = None
    attacker_engine: str = "local"
    budget: int | None = None

    def __post_init__(self) -> None:
        _at_least(1, attack__max_new_tokens=self.max_new_tokens, attack__max_goals=self.max_goals)
        _at_least(1, attack__budget=self.budget)
        recheck_limit(self.recheck_tokens, self.max_new_tokens, "attack.recheck_tokens")
        if not self.attacks:
            raise UserError("attack.attacks: name at least one attack, or static, adaptive or all")
        if not self.decoding or len(set(self.decoding)) < len(self.decoding):
            raise UserError("attack.decoding: expected greedy, sample or both, each once")

    @property
    def recheck_limit(self) -> int | None:
        """Tokens that a refusal may have which is asked again; None: none is."""
        return recheck_limit(self.recheck_tokens, self.max_new_tokens, "attack.recheck_tokens")


@dataclass(frozen=True)
class EvalsSection:
    """What hardening must not cost. `overrefusal` names benign prompts, or null for none.

    With `drift`, divergence and perplexity are measured on the base model's answers to them. `choices` names a file
    of multiple-choice questions, or `demo/choices`. `wrappings` names static attacks in which `max_wrapped` of the
    benign prompts are asked as well (`attacks`: those of the run; null: none; of `max_wrapped`, null: as many as make
    200 over all wrappings).
    """

    overrefusal: str | None = "demo/overrefusal"
    max_prompts: int | None = None
    max_new_tokens: int = 64
    drift: bool = True
    choices: str | None = None
    max_questions: int | None = None
    wrappings: str | tuple[str, ...] | None = "attacks"
    max_wrapped: int | None = None

    def __post_init__(self) -> None:
        _at_least(1, evals__max_new_tokens=self.max_new_tokens, evals__max_prompts=self.max_prompts)
        _at_least(1, evals__max_questions=self.max_questions, evals__max_wrapped=self.max_wrapped)
        if self.wrappings not in (None, "attacks") and not self.overrefusal:
            raise UserError(
                "evals.wrappings: wraps the prompts of evals.overrefusal; name some there, or set evals.wrappings "
                "to null"
            )


@dataclass(frozen=True)
class DevelopmentSection(SelectionLimits):
    """Attacks and benign prompts that the policy meets every `every` updates while it is trained.

    They show how training goes, and are no result: no prompt of theirs may be trained on or reported. With `choose` the
    policy with the highest DSR within the limits is deployed. `max_wrapped` of the benign prompts are asked in the
    attacks' wrappings too, and what is refused of them is taken from the DSR when a policy is chosen (null: none);
    `wrapped_allowance` asks for 400 such answers or more.
    """

    goals: str
    every: int = 25
    attacks: str | tuple[str, ...] = "static"
    max_goals: int | None = 20
    overrefusal: str | None = None
    max_prompts: int | None = 100
    max_wrapped: int | None = 20
    max_new_tokens: int = 64
    choose: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.choose and not self.overrefusal:
            raise UserError(
                "development.overrefusal: name benign prompts, because otherwise a policy that refuses everything "
                "would be the best; or set development.choose to false"
            )
        _at_least(1, development__max_wrapped=self.max_wrapped)
        if self.wrapped_allowance is not None and self.max_wrapped is None:
            raise UserError(
                "development.wrapped_allowance: limits refusals of benign requests in wrappings, but "
                "development.max_wrapped asks none; set it to a number above 0"
            )
        _at_least(1, development__every=self.every, development__max_goals=self.max_goals)
        _at_least(1, development__max_prompts=self.max_prompts, development__max_new_tokens=self.max_new_tokens)


@dataclass(frozen=True)
class RunConfig:
    """One experiment: everything that decides its result. docs/run.md has the keys of the sections.

    Args:
        name: of the run; its folder is `runs/NAME` unless `output_dir` is given.
        model_name_or_path: the base model, as for `load_model`.
        train: data and options of the training.
        model_revision: commit, branch or tag of a hub id.
        gap: how the entropy gap is measured.
        attack: attacks, goals, decodings and judges.
        evals: what hardening costs: benign prompts, drift, questions.
        development: checks during training; None: none are made.
        seed: of everything that is drawn.
        output_dir: the run folder.
        chat_template_kwargs: arguments that the chat template gets in every stage, such as `enable_thinking: false`.

    Raises:
        UserError: a name is not one of a folder, or the seed is out of range.
    """

    name: str
    model_name_or_path: str
    train: TrainSection
    model_revision: str | None = None
    gap: GapSection = field(default_factory=GapSection)
    attack: AttackSection = field(default_factory=AttackSection)
    evals: EvalsSection = field(default_factory=EvalsSection)
    development: DevelopmentSection | None = None
    seed: int = 0
    output_dir: str | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_arguments(self.chat_template_kwargs or {}, "chat_template_kwargs")
        fits = Path(self.name).name == self.name and self.name.isprintable() and len(self.name.encode()) <= 200
        if not self.name or not fits or self.name.startswith((".", "-")):
            raise UserError(f"name: {self.name!r} cannot be the name of a folder")
        if not (self.output_dir or "").isprintable():
            raise UserError(f"output_dir: {self.output_dir!r} cannot be the name of a folder")
        if not 0 <= self.seed <= MAX_SEED:
            raise UserError(f"seed: must be 0 to {MAX_SEED}, got {self.seed}")

    @property
    def run_dir(self) -> Path:
        """`output_dir`, or `runs/NAME`."""
        return Path(self.output_dir).expanduser() if self.output_dir else Path("runs") / self.name

    def as_dict(self) -> dict[str, Any]:
        """The configuration as it would stand in a YAML file."""
        out = asdict(self)
        out["train"] = {"dataset_name": self.train.dataset_name, **self.train.options}
        if self.model_revision is None:
            del out["model_revision"]
        return out


def load_config(source: str, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """The configuration of a run.

    Args:
        source: YAML file, or the name of a bundled one (`demo`).
        overrides: dotted keys (`train.max_steps`) and values that win over the file.

    Returns:
        Checked and complete: defaults are filled in.

    Raises:
        UserError: the file, or the key it names, is wrong.
    """
    data = read_yaml(source)
    for key, value in (overrides or {}).items():
        put(data, key, value)
    return parse_config(data, source)


def parse_config(data: Mapping[str, Any], source: str) -> RunConfig:
    """Configuration from the content of a YAML file; `source` is named in errors."""
    sections: dict[str, Any] = {}
    for key, value in data.items():
        cls = _SECTIONS.get(key)
        if cls is None or (value is None and cls is DevelopmentSection):
            sections[key] = value
            continue
        if value is None:
            what = "give at least dataset_name" if cls is TrainSection else "give a key of it, or leave it out"
            raise UserError(f"{source}: {key} is empty; {what}")
        if not isinstance(value, Mapping):
            raise UserError(f"{source}: {key} must be a mapping of keys to values, got {type(value).__name__}")
        value = {name: _joined(part) if name in WITH_COMMAS else part for name, part in value.items()}
        if cls is TrainSection:
            own = {k: v for k, v in value.items() if k == "dataset_name"}
            value = {**own, "options": {k: v for k, v in value.items() if k not in own}}
        sections[key] = build(cls, value, f"{source}: {key}.")
    return build(RunConfig, sections, f"{source}: ")


def read_yaml(source: str, flag: str = "--config") -> dict[str, Any]:
    """Content of a YAML file or a bundled configuration; for another flag than --config, of a bundled fragment too.

    Raises:
        UserError: no such file, no valid YAML, a key given twice, or no mapping.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        path = _bundled(source, flag)
    try:
        data = parse_yaml(read_text(path, flag))
    except ValueError as error:
        raise UserError(f"{flag}: {source} is not valid YAML ({error})") from None
    if not isinstance(data, dict):
        what = "is empty" if data is None else f"is {type(data).__name__}"
        raise UserError(f"{flag}: {source} must be a mapping of keys to values, and {what}")
    for key in data:
        if not isinstance(key, str):
            raise UserError(f"{flag}: {source} must be a mapping of keys to values; the key {key!r} is not text")
    return data


def bundled_configs() -> dict[str, Path]:
    """Configurations that ship with the package, by name."""
    folder = Path(str(resources.files("sirl"))) / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def bundled_fragments() -> dict[str, Path]:
    """What goes over a configuration to change one thing of it, by name (`ablations/kl-0.001.yaml`); ships as well."""
    folder = Path(str(resources.files("sirl"))) / "configs" / "ablations"
    return {f"ablations/{path.name}": path for path in sorted(folder.glob("*.yaml"))}


def _bundled(source: str, flag: str) -> Path:
    """The file of a bundled configuration or, with or without its ending, of a fragment."""
    configs, fragments = bundled_configs(), bundled_fragments()
    name = source if source.endswith(".yaml") else f"{source}.yaml"
    if source in configs:
        return configs[source]
    if flag == "--config":
        if name in fragments:
            raise UserError(
                f"{flag}: {source} is a fragment that changes a configuration, not a configuration: "
                f"sirl compare --config demo --variants {name}"
            )
        known = ", ".join(configs)
        raise UserError(f"{flag}: no such file: {source}; give a YAML file or a bundled configuration ({known})")
    if name in fragments:
        return fragments[name]
    near = get_close_matches(Path(name).stem, [path.stem for path in fragments.values()], n=1)
    meant = f"; did you mean ablations/{near[0]}.yaml?" if near else ""
    raise UserError(f"{flag}: no such file: {source}; give a YAML file or a fragment (sirl list configs){meant}")


def _joined(value: Any) -> Any:
    """A list of texts as the one text with commas that it stands for."""
    texts = isinstance(value, list) and value and all(isinstance(part, str) for part in value)
    return ",".join(value) if texts else value


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `overlay` over it. Sections are merged key by key; lists and all else are replaced."""
    out = {key: merge(value, {}) if isinstance(value, Mapping) else value for key, value in base.items()}
    for key, value in overlay.items():
        old = out.get(key)
        out[key] = merge(old if isinstance(old, Mapping) else {}, value) if isinstance(value, Mapping) else value
    return out


def put(data: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key such as `train.max_steps`.

    Raises:
        UserError: what stands before a dot is not a section.
    """
    *path, last = key.split(".")
    for part in path:
        if data.get(part) is None:  # a section that is empty in the file
            data[part] = {}
        data = data[part]
        if not isinstance(data, dict):
            raise UserError(f"--set {key}: {part} is not a section")
    data[last] = value


def _at_least(least: int, **values: int | None) -> None:
    for key, value in values.items():
        if value is not None and value < least:
            raise UserError(f"{key.replace('__', '.')}: must be {least} or more, got {value}")


_SECTIONS: dict[str, Any] = {
    "train": TrainSection,
    "gap": GapSection,
    "attack": AttackSection,
    "evals": EvalsSection,
    "development": DevelopmentSection,
}
