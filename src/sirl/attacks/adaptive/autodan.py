"""AutoDAN: a genetic algorithm over jailbreak templates.

Liu, Xu, Chen & Xiao 2023, "AutoDAN: Generating Stealthy Jailbreak Prompts on Aligned Large Language Models",
arXiv 2310.04451 (ICLR 2024): a population of prompts, whose fitness is the log-probability of an affirmative answer;
the best stay, others are crossed sentence by sentence and mutated.

Differences: the population starts from the templates of this project's static attacks; mutation replaces words by
synonyms from a list, or is a paraphrase by the attacker model where one is given; the word level of the paper's
hierarchical variant (a dictionary of momentum scores) is left out.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from sirl.attacks.adaptive.attacker_prompts import parse_prompt
from sirl.attacks.adaptive.base import AdaptiveAttack
from sirl.attacks.adaptive.mutations import SEEDS, crossover, expand, is_template, rephrase, shorten
from sirl.attacks.adaptive.search import AFFIRMATIVE, GoalSearch, SearchConfig, Steps
from sirl.attacks.adaptive.template_mutation import request
from sirl.attacks.base import PLACEHOLDER
from sirl.generation.base import Engine, ScoringEngine
from sirl.records import Conversation, user_turn


@dataclass(frozen=True)
class AutoDANConfig(SearchConfig):
    """`population` templates, of which `elite` pass on unchanged; the best is answered every generation.

    The paper takes 256 templates and 100 generations.
    """

    max_queries: int = 64
    population: int = 10
    elite: int = 2
    crossover: float = 0.5
    mutation: float = 0.4
    target: str = AFFIRMATIVE
    attacker_tokens: int = 160


class AutoDAN(AdaptiveAttack):
    """Breeds jailbreak templates by how probable they make an affirmative answer.

    Source: Liu et al. 2023, arXiv 2310.04451.
    """

    name = "autodan"
    source = "Liu et al. 2023, arXiv 2310.04451 (AutoDAN)"
    description = "a genetic algorithm over jailbreak templates, by the probability of an affirmative answer"
    uses_attacker = True
    needs = ScoringEngine
    ends_unanswered = True
    config: AutoDANConfig

    def __init__(self, config: AutoDANConfig | None = None, attacker: Engine | None = None) -> None:
        super().__init__(config or AutoDANConfig(), attacker)

    def search(self, state: GoalSearch) -> Steps[None]:
        """See the module."""
        config = self.config
        population = first_population(config.population, state.rng)
        yield from state.start(filled(population[0], state.text))
        fitness = yield from self._fitness(state, population)
        state.start_score = fitness[0]
        while True:
            state.step()
            order = sorted(range(len(fitness)), key=lambda i: -fitness[i])
            population, fitness = [population[i] for i in order], [fitness[i] for i in order]
            best = filled(population[0], state.text)
            if best != state.first and (state.candidate is None or fitness[0] > state.candidate[1]):
                state.settle(best, fitness[0])
                yield from state.try_all([best], [fitness[0]])
            children = breed(population, fitness, config, state.rng)
            if state.models.attacker is not None:
                children = yield from self._paraphrased(state, children)
            scores = yield from self._fitness(state, children)
            elite = population[: config.elite]
            population, fitness = [*elite, *children[: len(scores)]], [*fitness[: config.elite], *scores]

    def _fitness(self, state: GoalSearch, templates: Sequence[str]) -> Steps[list[float]]:
        scores = yield from state.score([filled(t, state.text) for t in templates], self.config.target)
        top = max(range(len(scores)), key=scores.__getitem__)
        if state.best_score is None or scores[top] > state.best_score:
            state.best_score = scores[top]
        return scores

    def _paraphrased(self, state: GoalSearch, children: Sequence[str]) -> Steps[list[str]]:
        """Some of the children in the attacker's words."""
        chosen = [i for i in range(len(children)) if state.rng.random() < self.config.mutation]
        out = list(children)
        if chosen:
            requests = [request("rephrase", children[i], "") for i in chosen]
            answers = yield from state.write(requests, self.config.attacker_tokens)
            for i, answer in zip(chosen, answers, strict=False):
                written = parse_prompt(answer)
                if written is not None and is_template(written):
                    out[i] = written
                else:
                    state.fallbacks += 1
        return out


def filled(template: str, goal: str) -> Conversation:
    """The goal in a template."""
    return user_turn(template.replace(PLACEHOLDER, goal))


def first_population(size: int, rng: random.Random) -> list[str]:
    """The seeds, then changed seeds, each once as far as chance allows."""
    out = list(SEEDS[:size])
    while len(out) < size:
        change = rng.choice((rephrase, expand, shorten))
        out.append(change(rng.choice(SEEDS), rng))
    return out


def breed(population: Sequence[str], fitness: Sequence[float], config: AutoDANConfig, rng: random.Random) -> list[str]:
    """The next generation without its elite: parents by the softmax of their fitness, crossed and mutated."""
    top = max(fitness)
    weights = [math.exp(max(score - top, -50.0)) for score in fitness]
    children = []
    for _ in range(max(1, config.population - config.elite)):
        child, other = rng.choices(population, weights, k=2)
        if rng.random() < config.crossover:
            child = crossover(child, other, rng)
        if rng.random() < config.mutation:
            child = rng.choice((rephrase, expand, shorten))(child, rng)
        children.append(child)
    return children
