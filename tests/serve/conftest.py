"""Real servers on loopback, over toy bundles."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from deepseek_cli.deploy.engine import deploy
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.handle import Bundle, open_any, open_model
from deepseek_cli.serve.server import Place, make_server, open_service
from deepseek_cli.serve.service import Service
from deepseek_cli.sources.pull import pull
from deepseek_cli.sources.pull_spec import PullSpec
from deepseek_cli.store import Store
from tests.toys import DEPLOYABLE, make_toy

PATIENCE = 60.0  # seconds that nothing here should take


def bundled(source: str, folder: Path, **options: Any) -> Bundle:
    store = Store(folder)
    deploy(open_model(source, store), DeploySpec(verify="structure", **options), store, folder / "bundle", threads=1)
    found = open_any(str(folder / "bundle"), store)
    assert isinstance(found, Bundle)
    return found


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    make_toy(folder, seed=3, **DEPLOYABLE)
    return folder


@pytest.fixture(scope="session")
def toy(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundled(str(toy_folder), tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """The embedded model, with latent attention and experts, by the form of its cache."""
    made: dict[str, Bundle] = {}

    def build(cache: str) -> Bundle:
        if cache not in made:
            folder = tmp_path_factory.mktemp(f"nano-{cache}")
            source = str(pull("nano", PullSpec(), Store(folder)).path)
            made[cache] = bundled(source, folder, latent_cache=cache)
        return made[cache]

    return build


@dataclass
class Running:
    """A server in a thread of this process, and what it wrote into its log."""

    service: Service
    place: Place
    log: list[dict[str, Any]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE)

    def until(self, true: Callable[[], object]) -> None:
        """Wait for what happens in the server's threads."""
        end = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.002)


@contextlib.contextmanager
def running(bundle: Bundle, place: Place | None = None, **options: Any) -> Iterator[Running]:
    service = open_service(bundle, **{"slots": 4, "threads": 1, **options})
    found = Running(service, replace(place or Place(), port=0))
    up = threading.Event()

    def listening(port: int) -> None:
        found.port = port
        up.set()

    server = make_server(service, found.place, lambda record: found.log.append(json.loads(json.dumps(record))), listening)
    thread = threading.Thread(target=server.run)
    thread.start()
    assert up.wait(PATIENCE)
    try:
        yield found
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def server(toy: Bundle) -> Iterator[Running]:
    with running(toy) as found:
        yield found
