"""Harden a model with its own confidence: GRPO on unlabeled prompts with minus the mean token entropy as the reward.

    sirl train --model_name_or_path Qwen/Qwen2.5-3B-Instruct --dataset_name prompts.jsonl --output_dir hardened
    accelerate launch -m sirl train --config train.yaml --learning_rate 2e-6

Flags are those of TRL's GRPOConfig and ModelConfig, from the command line or from --config (the command line wins). A
flag that would do nothing here is an error. The entropy gap is checked first: if refusals are not the more confident
responses, there is nothing to train on.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sirl.cli.common import Outcome
from sirl.errors import UserError

if TYPE_CHECKING:
    from sirl.manifest import Manifest
    from sirl.progress import BarMaker
    from sirl.provenance import Source
    from sirl.records import Prompt
    from sirl.training.arguments import Training

RESUME_HINT = "the same command continues from the last checkpoint"
GAP_PROMPTS = 64
"""Prompts of the gap check, of either kind: seconds on an accelerator, beside hours of training."""
GAP_TOKENS = 64
OWN_FLAGS = ("config", "skip_gap_check", "overwrite", "json")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """All flags, with a file of them below."""
    from sirl.experiment.config import read_yaml
    from sirl.training.arguments import TrainingParser, parse_training

    parser = TrainingParser()
    parser.description = __doc__
    _add_own(parser)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    source = first.parse_known_args(argv)[0].config
    options = read_yaml(source) if source else {}
    training = parse_training(argv, options, source or "--config", parser)
    missing = [
        flag
        for flag, value in {
            "--model_name_or_path": training.model.model_name_or_path,
            "--dataset_name": training.data.dataset_name,
            "--output_dir": options.get("output_dir")
            or any(w.startswith(("--output_dir", "--output-dir")) for w in argv),
        }.items()
        if not value
    ]
    if missing:
        raise UserError(f"the following arguments are required: {', '.join(missing)} (as flags or in --config)")
    return argparse.Namespace(training=training, **{key: getattr(training.rest, key) for key in OWN_FLAGS})


def _add_own(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sirl train")
    group.add_argument("--config", help="YAML file with any of these flags; the command line wins")
    group.add_argument("--skip_gap_check", action="store_true", help="train without checking the entropy gap")
    group.add_argument(
        "--overwrite", action="store_true", help="delete the files of an earlier run in --output_dir first"
    )
    group.add_argument("--json", action="store_true", help="print one JSON document to stdout")


def _check_inputs(training: Training) -> None:
    """Find what is wrong with settings, model or prompts before the gap is measured."""
    from sirl.chat.encoding import with_template_arguments
    from sirl.models import load_tokenizer, model_context
    from sirl.provenance import check_has_versions
    from sirl.training.quantised import check_quantised
    from sirl.training.run import pair_prompts, retention_prompts, training_prompts
    from sirl.training.sharding import check_rollouts

    config, data = training.config, training.data
    check_rollouts(config)
    check_quantised(config, training.model)
    name, version = str(training.model.model_name_or_path), training.model.model_revision
    if version != "main":  # TRL's default
        check_has_versions("--model_revision", version, name)
    tokenizer = with_template_arguments(load_tokenizer(name, revision=version), config.template_arguments)
    context = model_context(name, version)
    training_prompts(config, data, tokenizer, context, None)
    retention_prompts(data, config.max_prompt_tokens, tokenizer, context, None)
    pair_prompts(config, data, tokenizer, context, None)


def run(args: argparse.Namespace) -> Outcome:
    """Check the gap, train, export the hardened model. Of several processes the first one writes and speaks."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    from sirl.lock import sole_writer
    from sirl.manifest import Manifest, check_writable
    from sirl.training.memory import announce

    training: Training = args.training
    folder, first = Path(training.config.output_dir), PartialState().is_main_process
    _check_inputs(training)
    if first:
        check_writable(folder)
    announce(training, str(training.model.model_name_or_path), training.model.model_revision, say=first)
    with contextlib.ExitStack() as held:
        manifest, failed = None, None
        if first:
            try:
                held.enter_context(sole_writer(folder))
                manifest = Manifest.open(
                    folder,
                    config=training.as_dict(),
                    seed=training.config.seed,
                    command=sys.argv,
                    overwrite=args.overwrite,
                )
                manifest.note_sources("train", _sources(training))
            except UserError as error:
                failed = error
        (stop,) = broadcast_object_list([failed is not None])  # else the others would wait for the first for ever
        if failed is not None:
            raise failed
        if stop:
            return Outcome(None, lambda: None, exit_code=2)
        model = _train(args, folder, manifest)
    PartialState().destroy_process_group()  # left to the end of the process, its threads at times abort it
    document = {"model": str(model), "output_dir": str(folder)} if first else None
    return Outcome(document, lambda: print(model))


def _sources(training: Training) -> dict[str, Source]:
    """Which versions of model and data it is; the tokenizer has put the model's configuration into the hub's cache."""
    from sirl.provenance import data_sources, model_source

    names = {key: getattr(training.data, key) for key in ("dataset_name", "retention_dataset_name", "wrap_prompts")}
    return {
        "model": model_source(str(training.model.model_name_or_path), training.model.model_revision),
        **data_sources(names),
    }


def _train(args: argparse.Namespace, folder: Path, manifest: Manifest | None) -> Path:
    from sirl.judges.refusal import refusal_figures
    from sirl.progress import no_bar, terminal_bar
    from sirl.training.progress_callback import BarCallback
    from sirl.training.run import run_training

    training: Training = args.training
    bar = terminal_bar if manifest else no_bar
    if not args.skip_gap_check:
        _check_gap(training, folder, manifest, bar)
    with contextlib.ExitStack() as stack:
        if manifest:
            stack.enter_context(manifest.stage("train"))
        callbacks = [BarCallback(stack.enter_context(bar("train")))]
        settings = (training.config, training.model, training.data)
        model = run_training(*settings, callbacks=callbacks, watch=refusal_figures)
    if manifest:
        manifest.finish()
    return model


def _check_gap(training: Training, folder: Path, manifest: Manifest | None, bar: BarMaker) -> None:
    """Stop where there is no instinct to train. The first process measures, or looks up an earlier go; all stop."""
    from accelerate.utils import broadcast_object_list

    from sirl.stages import read_gap, require_gap

    found = ["", ""]
    if manifest:
        if not manifest.done("gap"):
            with manifest.stage("gap"):
                _measure_gap(training, folder, bar)
        found = list(read_gap(folder))
    broadcast_object_list(found)
    verdict, explanation = found
    require_gap(verdict, explanation, "--skip_gap_check")


def _measure_gap(training: Training, folder: Path, bar: BarMaker) -> None:
    """The gap on a draw of the training prompts, which nobody has labeled, beside the retention prompts."""
    from sirl.chat.encoding import fitting_prompts, with_template_arguments
    from sirl.gap import GapConfig
    from sirl.judges import load_judge
    from sirl.models import load_tokenizer, model_context
    from sirl.prompts import load_prompts
    from sirl.stages import gap_prompts, measure_gap

    data, config, model = training.data, training.config, training.model
    tokenizer = with_template_arguments(
        load_tokenizer(str(model.model_name_or_path), revision=model.model_revision), config.template_arguments
    )
    context = model_context(str(model.model_name_or_path), model.model_revision)
    prompts = load_prompts(
        data.dataset_name or "",
        column=data.prompt_column,
        split=data.dataset_train_split,
        limit=data.max_prompts,
        seed=config.seed,
    )

    def fitting(found: Sequence[Prompt], _: str) -> list[Prompt]:  # the training itself says what it leaves out
        return fitting_prompts(found, tokenizer, config.max_prompt_tokens, context, None)

    held, flag = data.retention_dataset_name, "--retention_dataset_name"
    benign = load_prompts(held, flag=flag, with_category=True) if held else []
    chosen = gap_prompts(prompts, "unlabeled", benign, GAP_PROMPTS, config.seed, fitting)
    tokens = min(GAP_TOKENS, config.max_completion_length or GAP_TOKENS)
    settings = GapConfig(max_new_tokens=tokens, temperature=config.temperature, seed=config.seed)
    measure_gap(_gap_engine(training, tokenizer), load_judge("refusal"), chosen, settings, folder, bar)


def _gap_engine(training: Training, tokenizer: Any) -> Any:
    """The model that will be trained, of this process alone."""
    from sirl.generation import load_engine
    from sirl.generation.local import LocalEngine
    from sirl.training.run import starting_model
    from sirl.training.sharding import loaded_whole

    model, config = training.model, training.config
    if model.load_in_4bit:  # the whole one may not fit
        return LocalEngine(starting_model(model)[0], tokenizer, max_cache_gb=config.max_cache_gb)
    with loaded_whole():  # the other processes wait: they take no part in loading it in shares
        return load_engine(
            str(model.model_name_or_path),
            revision=model.model_revision,
            chat_template_kwargs=config.template_arguments,
            max_cache_gb=config.max_cache_gb,
        )
