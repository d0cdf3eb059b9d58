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

HEAD, TAIL = 6000, 2000
"""Characters of a long text that are kept, from its start and its end."""
GAP = "..."
"""The line that stands for what was left out."""
MARK = "| "
"""What every line of quoted text begins with."""

_BREAKS = re.compile(r"\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co"})
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef\u034f\u115f\u1160\u3164\uffa0]")
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
_STOPS = frozenset(".,:;!?\u2026-\u2013\u2014*_'\"`")
_CONTROL = re.compile(r"<\|[^|>\n]{1,40}\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>", re.IGNORECASE)


def neutralise(text: str) -> str:
    """`text` without anything that could end its place in a prompt; `HEAD` + `TAIL` characters of it at most."""
    text = unicodedata.normalize("NFKC", _visible(shorten(text)))
    text = shorten(_visible(text))  # again, since some characters stand for many
    text = _OPENING.sub(r"\1 ", text)
    text = _ROLE.sub(r"\1 -", text)
    text = _FIELD.sub(r"\1\2 -", text)
    return _RULE.sub("- - -", text).strip()


def says_nothing(text: str) -> bool:
    """Whether a text has nothing to read: blanks, invisible characters, control tokens of chat templates, and at most
    an ellipsis or a lone mark of punctuation ("...", "?")."""
    marks = "".join(_visible(_CONTROL.sub("", text)).split())
    return not marks or (len(marks) <= 3 and len(set(marks)) == 1 and marks[0] in _STOPS)


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


def _visible(text: str) -> str:
    text = _SELECTORS.sub("", _BREAKS.sub("\n", text))
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in _HIDDEN)
