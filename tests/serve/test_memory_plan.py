"""A bundle's memory plan holds when it is served, too, and changes nothing that it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepseek_cli.deploy.engine import deploy
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.handle import Bundle, open_any, open_model
from deepseek_cli.runtime.memory_plan import MemoryPlan
from deepseek_cli.serve.server import open_service
from deepseek_cli.store import Store
from tests.serve.conftest import Running, running

PLAN = MemoryPlan(prepack=False, release=True, chunk=16, context=96)


@pytest.fixture(scope="module")
def planned(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("planned")
    store = Store(folder)
    spec = DeploySpec(verify="structure")
    deploy(open_model(str(toy_folder), store), spec, store, folder / "bundle", threads=1, plan=PLAN)
    found = open_any(str(folder / "bundle"), store)
    assert isinstance(found, Bundle)
    return found


def test_what_is_said_stays_the_same(planned: Bundle, server: Running) -> None:
    ask = {"model": "", "prompt": "several words " * 5, "max_tokens": 8, "temperature": 0, "logprobs": 1}
    with running(planned) as found:
        slots = found.service.engine.slots
        assert (slots.context, slots.chunk) == (96, 16)
        texts = [one.client.completions.create(**ask).choices[0] for one in (found, server)]
    assert texts[0].text == texts[1].text


def test_a_context_that_is_asked_for_goes_before_the_plan(planned: Bundle) -> None:
    assert open_service(planned, slots=1, context=64, threads=1).engine.slots.context == 64
