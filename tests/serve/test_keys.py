"""Who gets in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import openai
import pytest

from deepseek_cli.errors import UsageError
from deepseek_cli.handle import Bundle
from deepseek_cli.serve.keys import find_key, read_keys
from deepseek_cli.serve.server import Place
from tests.serve.conftest import Running, running

USER, ADMIN, RARE = "sk-user-0123456789", "sk-admin-0123456789", "sk-rare-0123456789"
LINES = f"# keys\n{USER} ann\n{ADMIN} root admin\n\n{RARE} bob use 1  # one a minute\n"


@pytest.fixture(scope="module")
def guarded(toy: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(LINES)
    with running(toy, Place(keys=tuple(read_keys(file)))) as found:
        yield found


def status(server: Running, path: str, key: str | None) -> int:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return httpx.get(server.url + path, headers=headers).status_code


def test_roles(guarded: Running) -> None:
    assert [status(guarded, "/v1/models", key) for key in (USER, ADMIN, "wrong", None)] == [200, 200, 401, 401]
    assert [status(guarded, "/metrics", key) for key in (USER, ADMIN, None)] == [403, 200, 401]
    assert [status(guarded, path, None) for path in ("/", "/health", "/ready")] == [200, 200, 200]


def test_the_client_of_openai_understands_a_refusal(guarded: Running) -> None:
    with pytest.raises(openai.AuthenticationError):
        guarded.client.models.list()
    assert guarded.client.with_options(api_key=USER).models.list().data


def test_a_rate_ends_and_says_when_to_come_back(guarded: Running) -> None:
    client = guarded.client.with_options(api_key=RARE)
    assert client.models.list().data
    with pytest.raises(openai.RateLimitError) as refused:
        client.models.list()
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 61
    assert status(guarded, "/v1/models", USER) == 200


def test_the_log_names_the_key_and_does_not_show_it(guarded: Running) -> None:
    assert status(guarded, "/v1/models", USER) == 200
    guarded.until(lambda: guarded.log)
    assert "ann" in {record["client"] for record in guarded.log}
    assert USER not in str(guarded.log)


@pytest.mark.parametrize(
    "text", ["", "# none\n", "short\n", f"{USER} ann king\n", f"{USER} ann use soon\n", f"{USER} a use 1 2\n"]
)
def test_bad_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(UsageError, match="keys"):
        read_keys(tmp_path / "keys")


def test_a_key_is_kept_as_its_digest(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(LINES)
    keys = read_keys(tmp_path / "keys")
    assert find_key(keys, f"Bearer {USER}", "use").name == "ann"
    assert USER not in repr(keys)
