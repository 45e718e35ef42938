"""Who proposes recipes: Bayesian (TPE) and evolutionary (NSGA-II, CMA-ES) samplers, all in one study.

Each is made anew for every trial from what the study holds, and seeded by the trial's number: interrupted studies go on as
they would have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cmaes
import numpy as np
import optuna

from deepseek_cli.tune.front import Point, Trial, dominates, hypervolume
from deepseek_cli.tune.space import Choice, Parameter, Range

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

ARMS = ("tpe", "cmaes", "nsga2")
RANDOM = 4  # trials before TPE has anything to model
POPULATION = 6
STEP = 0.25  # of the unit cube, in which CMA-ES begins
AGAIN = 10  # times that CMA-ES is asked for a recipe that was not tried yet
LEFT_OUT = 2.0  # the loss of a trial without values, above that of any with them


def arms_for(space: Sequence[Parameter]) -> tuple[str, ...]:
    """CMA-ES needs two dimensions."""
    return ARMS if len(_free(space)) > 1 else tuple(arm for arm in ARMS if arm != "cmaes")


def ask(study: optuna.Study, arm: str, space: Sequence[Parameter], trials: Sequence[Trial], seed: int) -> optuna.Trial:
    """A new trial as `arm` proposes it."""
    if arm == "tpe":
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM, multivariate=True)
    else:
        study.sampler = optuna.samplers.NSGAIISampler(seed=seed, population_size=POPULATION)
    if arm == "cmaes":
        recipe, told = _by_cmaes(space, trials, seed)
        study.enqueue_trial(recipe, user_attrs={"sampler": arm, "cmaes": told})
    trial = study.ask({parameter.name: _distribution(parameter) for parameter in space})
    if "sampler" not in trial.user_attrs:  # else it was enqueued, maybe by a process that ended before it asked
        trial.set_user_attr("sampler", arm)
    return trial


def _distribution(parameter: Parameter) -> BaseDistribution:
    if isinstance(parameter, Choice):
        return optuna.distributions.CategoricalDistribution(parameter.values)
    if parameter.whole:
        return optuna.distributions.IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return optuna.distributions.FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def _free(space: Sequence[Parameter]) -> list[Parameter]:
    return [p for p in space if isinstance(p, Range) or len(p.values) > 1]


def _by_cmaes(space: Sequence[Parameter], trials: Sequence[Trial], seed: int) -> tuple[dict[str, Any], list[float]]:
    """A recipe, and what the optimizer is told about later instead of it.

    CMA-ES with margin (Hamano et al., 2022): choices are steps. Its loss is the uncrowded hypervolume improvement (Touré et
    al., 2019, equation 9): towards the front where a trial is behind it, and along it where it is not.
    """
    free = _free(space)
    own = [t for t in trials if t.sampler == "cmaes" and t.state in ("complete", "pruned", "failed") and "cmaes" in t.facts]
    optimizer = cmaes.CMAwM(
        mean=np.array(_start(free, [t for t in trials if not own or t.number < own[0].number])),
        sigma=STEP,
        bounds=np.array([[0.0, 1.0]] * len(free)),
        steps=np.array([1 / (len(p.values) - 1) if isinstance(p, Choice) else 0.0 for p in free]),
        population_size=POPULATION,
        seed=seed,
    )
    for start in range(0, len(own) - POPULATION + 1, POPULATION):
        optimizer.tell([(np.array(t.facts["cmaes"]), _loss(t, trials)) for t in own[start : start + POPULATION]])
    tried = [t.recipe for t in trials]
    fixed = {p.name: p.value(0.0) for p in space}
    for _ in range(AGAIN):
        place, told = optimizer.ask()
        recipe = fixed | {p.name: p.value(float(u)) for p, u in zip(free, place, strict=True)}
        if recipe not in tried:
            break
    return recipe, told.tolist()


def _start(free: Sequence[Parameter], trials: Sequence[Trial]) -> list[float]:
    """The known recipe that is nearest to the best of everything; without one, the middle."""
    known = [t for t in trials if t.point is not None]
    if not known:
        return [0.5] * len(free)
    best = min(known, key=lambda t: math.hypot(*(t.point or ())))
    return [p.unit(best.recipe[p.name]) for p in free]


def _loss(trial: Trial, trials: Sequence[Trial]) -> float:
    if trial.point is None:
        return LEFT_OUT
    others: list[Point] = [t.point for t in trials if t.point is not None and t.number != trial.number]
    front = [p for p in set(others) if not any(dominates(q, p) for q in others)]
    behind = [p for p in front if dominates(p, trial.point) or p == trial.point]
    if not behind:
        return hypervolume(front) - hypervolume([*front, trial.point])
    return min(math.dist(p, trial.point) for p in behind) / math.sqrt(len(trial.point))
