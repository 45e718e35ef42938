"""`tune`: trials in one process or several until there are enough, or no more time, and what they found."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from deepseek_cli.errors import UsageError
from deepseek_cli.evaluate import TEXTS, HandlePredictor, Windows, cut_windows, seconds_for
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.profile.estimate import read_bytes
from deepseek_cli.profile.sketch import sketch_of
from deepseek_cli.quantize.engine import Quantized, quantize
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.store import Store
from deepseek_cli.tune.front import Scales, Trial, gains, hypervolume, pareto_front
from deepseek_cli.tune.recipe import quantize_spec
from deepseek_cli.tune.samplers import arms_for
from deepseek_cli.tune.space import Parameter, read_space
from deepseek_cli.tune.spec import TuneSpec
from deepseek_cli.tune.study import Study, erase, require_extra
from deepseek_cli.tune.trial import Part, parts, run_trial

LOOK = 0.5  # seconds between two looks at what the workers did


@dataclass(frozen=True, slots=True)
class Job:
    """What a process needs to take part; `until` is by the wall clock, which processes share."""

    model: Path
    store: Store
    spec: TuneSpec
    file: Path
    seed: int
    until: float | None
    threads: int
    parent: int


@dataclass(frozen=True, slots=True)
class Tuned:
    """`trials` as of now, by number; `front` those that none dominates."""

    file: Path
    space: tuple[Parameter, ...]
    trials: tuple[Trial, ...]
    front: tuple[Trial, ...]
    hypervolume: float
    gained: dict[str, tuple[int, float]]  # by sampler: its trials, and the hypervolume that they gained


def study_file(handle: ModelHandle, spec: TuneSpec, store: Store) -> Path:
    return spec.study or store.home / "studies" / f"{handle.name}.journal"


def tune(
    handle: ModelHandle,
    spec: TuneSpec,
    store: Store,
    *,
    seed: int = 0,
    force: bool = False,
    dry_run: bool = False,
    reporter: Reporter = SILENT,
) -> Tuned:
    """Try recipes until the study has `spec.trials`, or the time is over; earlier trials in its file count.

    Raises UsageError for a space, study or text that does not serve, for too little time, and where no recipe worked.
    """
    require_extra()
    space, windows = read_space(spec.space), _windows(handle, spec)
    file = study_file(handle, spec, store)
    if spec.sampler not in ("auto", *arms_for(space)):
        raise UsageError("--sampler cmaes needs two parameters with a choice.", hint="Use --sampler auto.")
    _check_time(handle, spec, windows)
    if any(ref.quantized for ref in handle.tensors.values()):
        reporter.note("{name} is quantized already; this works from its dequantized values.", name=handle.name)
    if dry_run:
        return _tuned(file, space, [], spec.objectives)
    if force:
        erase(file)
    study = _open(handle, spec, file, space, windows)
    done = len(_counted(study))
    if done:
        reporter.note("{file} holds {count} trials, which count.", file=file, count=done)
    until = time.time() + spec.seconds if spec.seconds else None
    threads = max(torch.get_num_threads() // spec.workers, 1)
    job = Job(handle.root, store, spec, file, seed, until, threads, os.getpid())
    if done < spec.trials:
        if spec.workers == 1:
            _work(job, handle, study, reporter)
        else:
            _share(job, study, reporter)
    _tell_outcome(study, spec, until, reporter)
    return _tuned(file, space, study.trials(), spec.objectives)


def apply(
    handle: ModelHandle, spec: TuneSpec, store: Store, output: Path | None, *, force: bool, reporter: Reporter
) -> tuple[Tuned, Quantized]:
    """The model of trial `spec.apply`, as `quantize` makes it. Raises UsageError for a trial that has no values."""
    space, windows = read_space(spec.space), _windows(handle, spec)
    file = study_file(handle, spec, store)
    if not file.is_file():
        raise UsageError("There is no study {file}.", hint="Make one first, without --apply.", file=file)
    study = _open(handle, spec, file, space, windows)
    tuned = _tuned(file, space, study.trials(), spec.objectives)
    chosen = next((t for t in tuned.trials if t.number == spec.apply and t.state == "complete"), None)
    if chosen is None:
        raise UsageError(
            "The study has no trial {number} that was measured.",
            hint="On its front are: {front}.",
            number=spec.apply,
            front=", ".join(str(t.number) for t in tuned.front) or "none",
        )
    made = quantize_spec(chosen.recipe)
    label = f"tuned-{chosen.number}"
    return tuned, quantize(handle, made, store, output, label=label, force=force, agreed=True, reporter=reporter)


def _windows(handle: ModelHandle, spec: TuneSpec) -> Windows:
    if spec.text and not Path(spec.text).is_file():
        raise UsageError("There is no file {file}.", hint="Check --set text.", file=spec.text)
    return cut_windows(open_tokenizer(handle.root), [Path(spec.text)] if spec.text else TEXTS, spec.windows)


def _check_time(handle: ModelHandle, spec: TuneSpec, windows: Windows) -> None:
    """Measuring is the part of a trial whose time is known."""
    least = seconds_for(handle, windows.tokens.numel())
    if spec.seconds and least > spec.seconds:
        raise UsageError(
            "--time {time} is shorter than one trial, of which measuring alone takes about {seconds:.0f} s.",
            hint="Give more time, or fewer --windows.",
            time=spec.time,
            seconds=least,
        )


def _open(handle: ModelHandle, spec: TuneSpec, file: Path, space: Sequence[Parameter], windows: Windows) -> Study:
    source = sketch_of(handle)
    worst = {"size": float(handle.size_bytes), "speed": float(read_bytes(source, source.weights, batch=1))}
    facts = {
        "model": handle.digest,
        "space": {parameter.name: parameter.record() for parameter in space},
        "objectives": list(spec.objectives),
        "windows": spec.windows,
        "text_sha256": [text.sha256 for text in windows.texts],
    }
    return Study.open(file, facts, Scales(spec.objectives, worst))


def _counted(study: Study) -> list[Trial]:
    return [trial for trial in study.trials() if trial.state not in ("interrupted", "running")]


def _work(job: Job, handle: ModelHandle, study: Study, reporter: Reporter) -> None:
    """Trials one after the other, until there are enough or the next would end too late."""
    spec, space = job.spec, read_space(job.spec.space)
    arms = arms_for(space) if spec.sampler == "auto" else (spec.sampler,)
    measured_on: list[Part] = parts(partial(HandlePredictor, handle), _windows(handle, spec))
    longest = 0.0
    while os.getpid() == job.parent or os.getppid() == job.parent:  # who was left alone ends
        start = time.time()
        if job.until is not None and longest and start + longest > job.until:
            return
        asked = study.ask(space, arms, spec.trials, job.seed)
        if asked is None:
            return
        trial, _ = asked
        known = study.trials()
        state, facts = run_trial(handle, measured_on, trial.params, known, spec.objectives, job.store, job.file, spec.prune)
        study.tell(trial, state, {**facts, "seconds": time.time() - start})
        longest = max(longest, time.time() - start)
        reporter.progress("tune", len(_counted(study)), spec.trials)


def _share(job: Job, study: Study, reporter: Reporter) -> None:
    """The same in several processes, none of which has more to say than what stands in the study."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(job.spec.workers, mp_context=context) as pool:
        futures = [pool.submit(_worker, job) for _ in range(job.spec.workers)]
        while wait(futures, timeout=LOOK).not_done:
            reporter.progress("tune", min(len(_counted(study)), job.spec.trials - 1), job.spec.trials)
        for future in futures:
            future.result()
        reporter.progress("tune", job.spec.trials, job.spec.trials)


def _worker(job: Job) -> None:
    torch.set_num_threads(job.threads)
    handle, spec = open_model(str(job.model), job.store), job.spec
    study = _open(handle, spec, job.file, read_space(spec.space), _windows(handle, spec))
    _work(job, handle, study, SILENT)


def _tell_outcome(study: Study, spec: TuneSpec, until: float | None, reporter: Reporter) -> None:
    trials = _counted(study)
    if trials and not any(trial.state == "complete" for trial in trials):
        raise UsageError(
            "No recipe of the space worked; the first: {reason}",
            hint="Change the space.",
            reason=next((trial.facts["reason"] for trial in trials if "reason" in trial.facts), "none was measured"),
        )
    if failed := [trial for trial in trials if trial.state == "failed"]:
        reporter.warn("{count} recipes cannot be made; the first: {reason}", count=len(failed), reason=failed[0].facts["reason"])
    if len(trials) < spec.trials and until is not None:
        reporter.note(
            "The time is over after {count} of {trials} trials: the same command goes on.", count=len(trials), trials=spec.trials
        )


def _tuned(file: Path, space: tuple[Parameter, ...], trials: Sequence[Trial], objectives: Sequence[str]) -> Tuned:
    gained = gains(trials)
    by_sampler = {
        arm: (sum(t.sampler == arm for t in trials), sum(gained.get(t.number, 0.0) for t in trials if t.sampler == arm))
        for arm in dict.fromkeys(t.sampler for t in trials)
    }
    front = pareto_front(trials, objectives)
    covered = hypervolume([t.point for t in front if t.point is not None])
    return Tuned(file, space, tuple(trials), tuple(front), covered, by_sampler)


def record(trial: Trial, model: str) -> dict[str, Any]:
    """A trial as plain values."""
    from deepseek_cli.tune.recipe import command_line

    own = {"number": trial.number, "state": trial.state, "sampler": trial.sampler, "recipe": dict(trial.recipe)}
    facts = {name: trial.facts[name] for name in FIGURES if name in trial.facts}
    return {**own, **facts, "command": command_line(model, trial.recipe) if trial.state == "complete" else None}


FIGURES = ("size", "speed", "kl", "first_kl", "agreement", "accuracy", "reference_accuracy", "seconds", "reason", "same_as")
