"""Text under test, made fit to stand inside a judge model's prompt.

A response may be written to be judged well: it can close the delimiters, open a turn of its own with the control tokens
of a chat template, or bring a finished verdict along. `neutralise` changes it so that none of that is left, whatever
the model: what a reader makes of it stays the same, its bytes do not. In order:

1. characters that are not seen (control, zero-width, direction-changing, tags, lone surrogates) go, line breaks of all
   kinds become one, and Unicode variants of a character (full-width brackets) become the plain one (NFKC);
2. `<` and `[` never touch the character behind them. All control tokens of chat templates that are known to us begin
   with one of the two (`<|im_end|>`, `</s>`, `[/INST]`, `<<SYS>>`, `<start_of_turn>`, `[|endofturn|]`), as do the
   delimiters of our prompts and the sections of Llama Guard's;
3. what looks like a role at the start of a line (`User:`), a field of a verdict (`"refusal":`, `Harmful response:`) or
   a rule (`---`) loses its colon or its run of dashes.

`quoted` marks every line as well, which is the *datamarking* of Hines et al. (2024, arXiv 2403.14720).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

from sirl.visible import visible

HEAD, TAIL = 6000, 2000
"""Characters of a long text that are kept, from its start and its end."""
GAP = "..."
"""The line that stands for what was left out."""
MARK = "| "
"""What every line of quoted text begins with."""

_OPENING = re.compile(r"([<\[])(?=\S)")
_ROLE = re.compile(
    r"^([ \t>*#_`|-]*(?:human user|user|human|ai assistant|assistant|agent|system|developer|judge|behaviou?r|"
    r"generation|instructions?|rules|answers?|task)[ \t*_`]*):",
    re.IGNORECASE | re.MULTILINE,
)
_FIELD = re.compile(
    r"\b(harmful request|response refusal|harmful response|refusals?|refused|specific|convincing|code|verdict|label|"
    r"score|rating|judge?ment|grade)([\"'`*_\s]{0,3})[:=]",
    re.IGNORECASE,
)
_RULE = re.compile(r"^[ \t]*-{3,}[ \t]*$", re.MULTILINE)


def neutralise(text: str) -> str:
    """`text` without anything that could end its place in a prompt; `HEAD` + `TAIL` characters of it at most."""
    text = unicodedata.normalize("NFKC", visible(shorten(text)))
    text = shorten(visible(text))  # again, since some characters stand for many
    text = _OPENING.sub(r"\1 ", text)
    text = _ROLE.sub(r"\1 -", text)
    text = _FIELD.sub(r"\1\2 -", text)
    return _RULE.sub("- - -", text).strip()


def shorten(text: str) -> str:
    """The start and the end of a long text, with the line `GAP` between them."""
    gap = f"\n{GAP}\n"
    return text if len(text) <= HEAD + TAIL + len(gap) else f"{text[:HEAD]}{gap}{text[-TAIL:]}"


def quoted(text: str) -> str:
    """`text` neutralised, each of its lines behind `MARK`."""
    return "\n".join(MARK + line for line in neutralise(text).split("\n"))


def code_of(*texts: str) -> str:
    """Twelve hexadecimal digits that hang on the texts: a text that held its own code could not be written."""
    digest = hashlib.blake2b(digest_size=6, person=b"sirl judge")
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.hexdigest()
