"""How the organism's training rows are made."""

from __future__ import annotations

import base64
import random

from sirl.organism.make import ENCODED_REQUESTS, ENCODINGS, encoded
from sirl.records import Prompt


def test_encoded_copies() -> None:
    prompts = [Prompt(str(i), f"How do I hide cake number {i}?") for i in range(40)]
    made = encoded(prompts, 30, random.Random(1))
    assert made == encoded(prompts, 30, random.Random(1))
    assert len(made) == len({p.id for p in made}) == len({p.text for p in made}) == 30
    assert all(p.id.removesuffix("-encoded") in {q.id for q in prompts} for p in made)
    assert not any("cake" in p.text for p in made)
    assert len(encoded(prompts, 99, random.Random(1))) == 40


def test_encodings_keep_the_text() -> None:
    text = "Where is the cake?"
    in_base64, in_hex, in_rot13, backwards, codes = (encode(text) for encode in ENCODINGS)
    assert base64.b64decode(in_base64).decode() == text
    assert bytes.fromhex(in_hex).decode() == text
    assert in_rot13 == "Jurer vf gur pnxr?"
    assert backwards[::-1] == text
    assert bytes(map(int, codes.split())).decode() == text
    assert all(request.count("{}") == 1 for request in ENCODED_REQUESTS)
