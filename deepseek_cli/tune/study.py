"""A study in a file: an Optuna journal that several processes write to, and that a killed one leaves whole."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from deepseek_cli.errors import MissingExtra, UsageError
from deepseek_cli.store import is_running, making_room
from deepseek_cli.tune.bandit import next_arm
from deepseek_cli.tune.front import Scales, State, Trial, gains

if TYPE_CHECKING:
    import optuna
    from filelock import FileLock

    from deepseek_cli.tune.space import Parameter

NAME, KEY = "deepseek.tune/1", "deepseek"
SEEDS = 1_000_003  # far apart enough that studies of neighbouring seeds share no trial's
SHOWN = {"model": "model", "space": "space", "objectives": "--objective", "windows": "--windows", "text_sha256": "text"}


def require_extra() -> None:
    """Raises MissingExtra without Optuna and the CMA-ES beside it."""
    if missing := [name for name in ("optuna", "cmaes") if importlib.util.find_spec(name) is None]:
        raise MissingExtra(
            "tune needs the package {package}, which is not installed.",
            hint="Install it: pip install 'deepseek-cli[tune]'",
            package=missing[0],
        )


class _Lock:
    """What Optuna's journal asks of a lock. A killed process lets go of it, and who holds it may take it again."""

    def __init__(self, lock: FileLock) -> None:
        self.lock = lock

    def acquire(self) -> bool:
        self.lock.acquire()
        return True

    def release(self) -> None:
        self.lock.release()


@dataclass
class Study:
    file: Path
    scales: Scales
    study: optuna.Study
    lock: FileLock

    @classmethod
    def open(cls, file: Path, facts: Mapping[str, Any], scales: Scales) -> Self:
        """The study in `file`, or a new one there. `facts` say what it is of: model, space, objectives, windows, text.

        Raises UsageError for a file that holds none, a damaged one, or one that is of something else; MissingExtra.
        """
        require_extra()
        import optuna
        from filelock import FileLock
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.disable_default_handler()
        with making_room(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(f"{file}.lock")
            lock.acquire()
        try:
            _drop_torn_line(file)
            try:
                storage = JournalStorage(JournalFileBackend(str(file), lock_obj=_Lock(lock)))  # type: ignore[arg-type]
                directions = [optuna.study.StudyDirection.MINIMIZE] * len(scales.objectives)
                known = storage.get_all_studies()
                study = (
                    optuna.load_study(study_name=NAME, storage=storage)
                    if known
                    else optuna.create_study(study_name=NAME, storage=storage, directions=directions)
                )
                if not known:
                    study.set_user_attr(KEY, dict(facts))
                was = study.user_attrs[KEY]
            except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
                raise UsageError(
                    "{file} is not a study, or is damaged: {reason}.",
                    hint="Move it away, or name another with --study.",
                    file=file,
                    reason=str(error) or type(error).__name__,
                ) from None
            if differing := [name for name in facts if was.get(name) != facts[name]]:
                raise UsageError(
                    "{file} is a study with another {what}.",
                    hint="Name another with --study, or add --force to begin anew.",
                    file=file,
                    what=" and ".join(SHOWN[name] for name in differing),
                )
            opened = cls(file, scales, study, lock)
            opened._give_up_on_the_dead()
            return opened
        finally:
            lock.release()

    def trials(self) -> list[Trial]:
        """All that was ever begun, by number."""
        return [self._read(trial) for trial in self.study.get_trials(deepcopy=False) if trial.state.name != "WAITING"]

    def ask(self, space: Sequence[Parameter], arms: Sequence[str], most: int, seed: int) -> tuple[optuna.Trial, str] | None:
        """The next trial and who proposed it, or None when there are `most`. One process at a time decides."""
        from deepseek_cli.tune import samplers

        with self.lock:
            trials = [trial for trial in self.trials() if trial.state != "interrupted"]
            if len(trials) >= most:
                return None
            arm = next_arm(arms, trials, gains(trials))
            trial = samplers.ask(self.study, arm, space, trials, seed * SEEDS + len(trials))
            trial.set_user_attr("pid", os.getpid())
            return trial, trial.user_attrs["sampler"]

    def tell(self, trial: optuna.Trial, state: State, facts: Mapping[str, Any]) -> None:
        """How it ended; a complete one's `facts` hold the objectives."""
        from optuna.trial import TrialState

        for name, value in facts.items():
            trial.set_user_attr(name, value)
        values = [facts[name] for name in self.scales.objectives] if state == "complete" else None
        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        self.study.tell(trial, values, state=states[state])

    def _read(self, trial: optuna.trial.FrozenTrial) -> Trial:
        facts = trial.user_attrs
        interrupted: State = "failed" if "reason" in facts else "interrupted"
        states: dict[str, State] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": interrupted}
        point = self.scales.point(facts) if trial.state.name == "COMPLETE" else None
        state = states.get(trial.state.name, "running")
        return Trial(trial.number, state, facts.get("sampler", ""), trial.params, point, facts)

    def _give_up_on_the_dead(self) -> None:
        """Trials of processes that are gone will not end: they do not count, and others take their place."""
        from optuna.trial import TrialState

        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            pid = trial.user_attrs.get("pid", os.getpid())  # who opens a study is at no trial of it
            if pid == os.getpid() or not is_running(pid):
                self.study.tell(trial.number, state=TrialState.FAIL)


def _drop_torn_line(file: Path) -> None:
    """A process that was killed while it wrote left the start of a line, to which the next would be added."""
    if not file.is_file():
        return
    content = file.read_bytes()
    if content and not content.endswith(b"\n") and b"\n" in content:
        file.write_bytes(content[: content.rindex(b"\n") + 1])


def erase(file: Path) -> None:
    file.unlink(missing_ok=True)
