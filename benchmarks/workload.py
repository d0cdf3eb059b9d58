"""What all contenders are given: the bundled model, its training prompts, and the sizes of a step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sirl.chat.encoding import encode_chat
from sirl.models import load_model, load_tokenizer
from sirl.prompts import load_prompts
from sirl.records import user_turn
from sirl.weights.export import export_model


@dataclass(frozen=True)
class Size:
    """Prompts of a step, responses to each, and most tokens of a response."""

    prompts: int = 12
    group: int = 8
    tokens: int = 40

    @property
    def rows(self) -> int:
        return self.prompts * self.group


STEP = Size()
QUICK = Size(prompts=4, group=4, tokens=16)


def model_folder(work: Path) -> Path:
    """The bundled model as a transformers folder, which every library can load."""
    folder = work / "model"
    if not folder.exists():
        export_model(load_model("demo"), load_tokenizer("demo"), folder)
    return folder


def prompt_texts(n: int) -> list[str]:
    """The first `n` training prompts of the demo, from the beginning again where they are not enough."""
    texts = [p.text for p in load_prompts("demo/train")]
    return [texts[i % len(texts)] for i in range(n)]


def prompt_ids(folder: Path, n: int) -> list[list[int]]:
    """The same through the chat template, as token ids."""
    tokenizer = load_tokenizer(str(folder))
    return [encode_chat(tokenizer, user_turn(text)) for text in prompt_texts(n)]
