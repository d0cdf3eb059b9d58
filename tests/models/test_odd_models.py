"""Models as people have them: they load, or one line says what to do. `tests/cli/test_odd_runs.py` runs them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import odd_models as odd
from sirl.errors import UserError
from sirl.models import load_model, load_tokenizer, merge_adapter
from sirl.training.run import save_hardened
from sirl.weights.export import export_model, settle_generation_config
from tiny_models import chat_ids, tiny_model, tiny_tokenizer

IDS = torch.randint(3, 200, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path: Path, model_folder: Any) -> Path:
    """A copy of the plain model, to be changed."""
    return Path(shutil.copytree(model_folder("llama"), tmp_path / "tiny"))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def load(name: Path | str) -> tuple[Any, Any]:
    """As `load_local` does it: the cheap checks first."""
    return load_tokenizer(str(name)), load_model(str(name), dtype=torch.float32)


def test_plain_model_is_not_touched(folder: Path) -> None:
    tokenizer, model = load(folder)
    assert (tokenizer.pad_token, hasattr(tokenizer, "borrowed_padding")) == ("<|pad|>", False)
    torch.testing.assert_close(logits(model), logits(tiny_model()))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (odd.llama_pad_token, "<|finetune_right_pad_id|>"),
        (odd.no_pad_token, "<|end|>"),
        (odd.pad_token_beyond_the_embedding, "<|pad|>"),
        (odd.negative_pad_token, "<|pad|>"),
    ],
)
def test_padding_is_found_in_the_vocabulary(change: odd.Change, expected: str, folder: Path, tmp_path: Path) -> None:
    """And the model that is saved has neither another vocabulary nor another pad token."""
    name = change(folder)
    original = AutoTokenizer.from_pretrained(name)
    tokenizer, model = load(name)
    assert tokenizer.pad_token == expected
    assert len(tokenizer) == len(original)
    assert tokenizer.pad_token_id < model.get_input_embeddings().num_embeddings
    for settings in (model.config, model.generation_config):
        assert settings.pad_token_id is None or 0 <= settings.pad_token_id < model.config.vocab_size
        settings.pad_token_id = tokenizer.pad_token_id  # as TRL does
    out = export_model(model, tokenizer, tmp_path / "out")
    again = AutoTokenizer.from_pretrained(out)
    assert (again.pad_token, len(again)) == (original.pad_token, len(original))
    assert tokenizer.pad_token == expected, "and the tokenizer in use still pads"
    if change is not odd.negative_pad_token:
        assert json.loads((out / "config.json").read_text()).get("pad_token_id") is None
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(out)), logits(model))


def test_borrowed_padding_is_not_written_where_weights_are_in_shares(folder: Path, tmp_path: Path) -> None:
    """There the trainer writes the model, and the tokenizer that it was given."""
    tokenizer, model = load(odd.no_pad_token(folder))
    holders = (model.config, model.generation_config)
    for settings in holders:
        settings.pad_token_id = tokenizer.pad_token_id  # as TRL does

    def save(target: str) -> None:
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)

    accelerator = SimpleNamespace(
        wait_for_everyone=lambda: None, unwrap_model=lambda wrapped: wrapped, is_main_process=True
    )
    trainer = SimpleNamespace(is_fsdp_enabled=True, accelerator=accelerator, model=model, save_model=save)
    save_hardened(trainer, tokenizer, tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").pad_token is None
    assert json.loads((tmp_path / "out/config.json").read_text()).get("pad_token_id") is None
    assert {settings.pad_token_id for settings in holders} == {tokenizer.pad_token_id} != {None}


def test_sampling_settings_can_be_saved(folder: Path, tmp_path: Path) -> None:
    tokenizer, model = load(odd.sampling_without_do_sample(folder))
    model.generation_config.pad_token_id = 1  # changed, so that transformers is strict
    saved = json.loads((export_model(model, tokenizer, tmp_path / "out") / "generation_config.json").read_text())
    assert (saved["temperature"], saved["top_p"], saved["do_sample"]) == (0.9, 0.6, True)


def test_valid_sampling_settings_are_left_alone() -> None:
    model = tiny_model()
    model.generation_config.update(do_sample=True, temperature=0.6, top_k=20)
    before = model.generation_config.to_dict()
    settle_generation_config(model)
    assert model.generation_config.to_dict() == before


def test_shards(folder: Path) -> None:
    torch.testing.assert_close(logits(load(odd.sharded(folder))[1]), logits(tiny_model()))


def test_an_adapter_on_an_adapter_adds_both(folder: Path) -> None:
    model = load(odd.adapter_on_adapter(folder))[1]
    once = merge_adapter(tiny_model(), folder.with_name("adapter"))
    torch.testing.assert_close(logits(model), logits(merge_adapter(once, folder.with_name("second"))))


@pytest.mark.parametrize("tokenizer_too", [False, True])
def test_an_adapter_by_hub_id(
    tokenizer_too: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found where huggingface_hub keeps its downloads, as its base is; the tokenizer is its own where it has one."""
    cache = tmp_path / "hub"
    base = odd.in_hub_cache(cache, "org/base", folder)
    made = odd.adapter(tmp_path / "adapter", base, odd.lora())
    if tokenizer_too:
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template += "{# the adapter's #}"
        tokenizer.save_pretrained(made)
    name = odd.in_hub_cache(cache, "org/adapter", made)
    for constant in ("huggingface_hub.constants.HF_HUB_CACHE", "transformers.utils.hub.constants.HF_HUB_CACHE"):
        monkeypatch.setattr(constant, str(cache))
    tokenizer, model = load(name)
    assert type(model).__name__ == "LlamaForCausalLM"
    torch.testing.assert_close(logits(model), logits(merge_adapter(tiny_model(), made)))
    assert tokenizer.chat_template.endswith("{# the adapter's #}") is tokenizer_too


# -- tied embeddings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "targets",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ],
)
def test_an_adapter_on_one_end_of_tied_embeddings(targets: dict[str, Any], tmp_path: Path) -> None:
    """Merged and saved, the model says what base and adapter said together: the other end stays as it was."""
    from peft import PeftModel

    base = odd.save(tmp_path / "base", odd.tied_model())
    made = odd.adapter(tmp_path / "adapter", str(base), odd.lora(**targets), odd.tied_model())
    unmerged = PeftModel.from_pretrained(odd.tied_model(), made)
    if "modules_to_save" in targets:
        with torch.no_grad():
            unmerged.base_model.model.lm_head.modules_to_save["default"].weight.mul_(1.5)
        unmerged.save_pretrained(made)
    expected = logits(unmerged)
    assert (expected - logits(odd.tied_model())).abs().max() > 0.1
    tokenizer, model = load(made)
    torch.testing.assert_close(logits(model), expected)
    out = export_model(model, tokenizer, tmp_path / "out")
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(out)), expected)


def test_tied_embeddings_stay_tied_where_no_adapter_is_on_them(tmp_path: Path) -> None:
    base = odd.save(tmp_path / "base", odd.tied_model())
    made = odd.adapter(tmp_path / "adapter", str(base), odd.lora(), odd.tied_model())
    tokenizer, model = load(made)
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight is model.model.embed_tokens.weight
    out = export_model(model, tokenizer, tmp_path / "out")
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(out)), logits(model))


# -- what cannot be used -----------------------------------------------------------------------------------------------

REFUSED: dict[odd.Change, str] = {
    odd.pickled: r"its weights are in pytorch_model\.bin, and sirl reads safetensors only; convert them: python -c",
    odd.missing_shard: r"1 of 4 files of its weights are missing \(model-00002-of-00004\.safetensors\); get the model",
    odd.no_weights: r"cannot be loaded \(.*no file named model\.safetensors.*\); a file of it is missing, damaged or",
    odd.quantised: r"quantised \(bitsandbytes\).*give the unquantised model",
    odd.adapter_on_quantised: r"the adapter's base .*tiny is quantised \(bitsandbytes\); set base_model_name_or_path",
    odd.adapter_on_quantised_hub_id: r"is quantised \(by its name\).*unsloth/Llama-3\.2-1B-Instruct$",
    odd.prompt_tuning: r"an adapter of type PROMPT_TUNING cannot be merged .*such as LoRA",
    odd.prefix_tuning: r"an adapter of type PREFIX_TUNING cannot be merged",
    odd.adapter_of_the_future: r"adapter of unknown type HYPERLORA; a newer peft may know it: pip install -U peft",
    odd.template_for_parts_alone: r"chat template does not work \(it writes the same whatever the user says",
    odd.newer_tokenizer: r"tokenizer\.json cannot be read .*newer version: pip install -U tokenizers",
    odd.no_tokenizer: r"the folder holds no tokenizer; put tokenizer\.json",
    odd.no_chat_template: r"the tokenizer has no chat template; SIRL hardens chat models",
    odd.no_end_token: r"the tokenizer has no end-of-sequence token; set eos_token in tokenizer_config\.json",
    odd.smaller_vocabulary: r"do not fit its config\.json .*embed_tokens\.weight has 300 rows.*vocab_size is 299",
    odd.larger_tokenizer: r"embedding of 300 does not hold \('<\|im_start\|>' is 300\)",
    odd.tokenizer_of_another_model: r"the tokenizer has tokens that the model's embedding of 200 does not hold",
    odd.unknown_type: r"knows no model type 'llama9'; a newer one may: pip install -U transformers",
    odd.custom_code: r"needs its own code \(auto_map in config\.json\), which sirl never runs",
    odd.encoder_decoder: r"not a causal language model \(T5ForConditionalGeneration\); give a decoder-only chat model",
    odd.masked_lm: r"is not a causal language model \(BertForMaskedLM\)",
    odd.reward_model: r"is not a causal language model \(LlamaForSequenceClassification\)",
    odd.headless: r"its files hold no weights for lm_head\.weight",
    odd.weights_file: r"is a file; give its folder",
    odd.gguf_file: r"is incomplete or damaged \(.*\); get the file again",
    odd.gguf_folder: r"the folder holds no config\.json; give the file itself, .*tiny\.Q4_K_M\.gguf",
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_one_line_says_what_to_do(change: odd.Change, folder: Path) -> None:
    name = change(folder)
    with pytest.raises(UserError, match=REFUSED[change]) as caught:
        load(name)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"--model_name_or_path {name}: ")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (odd.adapter_of_a_deeper_model, r"it has 28 weights that this base has no place for, such as .*layers\.2\."),
        (odd.adapter_of_a_shallower_model, r"it lacks 2 weights, such as .*layers\.1\."),
    ],
)
def test_an_adapter_of_another_depth(change: odd.Change, words: str, folder: Path) -> None:
    """PEFT loads it, leaves out what does not fit and makes up what is missing."""
    with pytest.raises(UserError, match=rf"is of another base model: {words}"):
        load(change(folder))


@pytest.mark.parametrize("key", ["intermediate_size", "vocab_size"])
def test_weights_of_another_shape(key: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found while the weights are read, as with a hub id."""
    odd.edit(folder / "config.json", **{key: 48})
    monkeypatch.setattr("sirl.weights.model_files._check_embedding", lambda *_: None)
    with pytest.raises(UserError, match=r"do not fit its config\.json \(.* in the weights, \(.*48.*\) by config"):
        load_model(str(folder))


def pickle_bomb(folder: Path) -> Path:
    """An adapter whose weights are a pickle that runs a command."""
    made = odd.adapter_folder(folder)
    (made / "adapter_model.safetensors").unlink()
    torch.save({"x": _Bomb(folder.parent / "gone off")}, made / "adapter_model.bin")
    return made


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def written(name: str, text: str) -> odd.Change:
    """A file of the folder with that text instead of its own."""

    def change(folder: Path) -> Path:
        (folder / name).write_text(text)
        return folder

    return change


def edited(name: str, **values: Any) -> odd.Change:
    """A JSON file of the folder, or of an adapter on it, with other values."""

    def change(folder: Path) -> Path:
        made = odd.adapter_folder(folder) if name.startswith("adapter") else folder
        odd.edit(made / name, **{k: str(made) if v == "ITSELF" else v for k, v in values.items()})
        return made

    return change


def only_a_class(folder: Path) -> Path:
    """No file of the tokenizer but the one that names its class, as an interrupted copy leaves it."""
    (folder / "tokenizer.json").unlink()
    odd.edit(folder / "tokenizer_config.json", tokenizer_class="Qwen2Tokenizer")
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (only_a_class, r"the tokenizer has no vocabulary; put the model's tokenizer\.json"),
        (written("config.json", "null"), "cannot be loaded .*; a file of it is missing, damaged"),
        (written("generation_config.json", "[]"), "cannot be loaded .*TypeError"),
        (written("tokenizer_config.json", "[]"), "cannot be loaded .*AttributeError"),
        (written("tokenizer.json", "[]"), "cannot be loaded .*TypeError"),
        (written("chat_template.jinja", "{% for %}"), "its chat template does not work .TemplateSyntaxError"),
        (written("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"), "is a pointer of Git LFS"),
        (edited("config.json", hidden_size="32"), "cannot be loaded .*hidden_size.* expected int"),
        (edited("config.json", hidden_act="fancy"), "cannot be loaded .KeyError: 'fancy'"),
        (edited("config.json", num_hidden_layers=3), r"hold no weights for model\.layers\.2"),
        (edited("config.json", quantization_config="x"), "cannot be loaded .AttributeError"),
        (edited("config.json", compression_config={"quant_method": "compressed-tensors"}), "quantised .compressed-t"),
        (edited("adapter_config.json", base_model_name_or_path="ITSELF"), "the adapter is its own base"),
        (edited("adapter_config.json", base_model_name_or_path="org/gone"), "the base of this adapter cannot be used"),
        (edited("adapter_config.json", lora_alpha="x"), "cannot be loaded on this base model .TypeError"),
        (pickle_bomb, "cannot be loaded on this base model .*Weights only load failed"),
    ],
)
def test_damaged_files_are_one_line(change: odd.Change, message: str, folder: Path) -> None:
    name = change(folder)
    with pytest.raises(UserError, match=message) as caught:
        load(name)
    assert "\n" not in str(caught.value)
    assert str(name) in str(caught.value)
    assert not (folder.parent / "gone off").exists()


def test_tensors_that_are_not_used_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    odd.edit(folder / "config.json", num_hidden_layers=1)
    load(folder)
    assert re.search(r"\d+ tensors in its files are not used \(model\.layers\.1\.", caplog.text)


def test_an_end_token_that_is_none(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": "2"}')
    assert load(folder)[1].generation_config.eos_token_id is None
    assert "eos_token_id '2' is not a token id" in caplog.text


def test_pickled_weights_are_converted_as_the_line_says(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shlex

    with pytest.raises(UserError) as caught:
        load(odd.pickled(folder))
    *_, code = shlex.split(str(caught.value).partition("convert them: ")[2])
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    torch.testing.assert_close(logits(load(tmp_path / "tiny-safetensors")[1]), logits(tiny_model()))


def test_a_token_beyond_the_embedding_that_no_chat_holds_does_no_harm(folder: Path) -> None:
    """As Gemma 3 has one for images."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    assert len(load(odd.retokenised(folder, tokenizer))[0]) == 301


def test_sentencepiece_pieces_spell_the_answer(folder: Path) -> None:
    from sirl.generation.local import LocalEngine
    from sirl.report.samples import token_spans

    tokenizer, model = load(odd.sentencepiece(folder))
    text = "How do I bake\na löaf of bread?"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    engine = LocalEngine(model, tokenizer)
    tokens = [engine._piece(i) for i in ids]
    spans = token_spans(tokenizer.decode(ids), tokens, [0.5] * len(ids))
    assert "".join(span.text for span in spans) == text
    assert [span.text for span in spans][:3] == ["How", " do", " I "]
    assert not any(span.special for span in spans)
    raw = tokenizer.convert_ids_to_tokens(ids)  # as other engines may leave them
    assert "".join(span.text for span in token_spans(text, raw, [0.5] * len(ids))) == text
    assert chat_ids(tokenizer, ["Hi"])
