"""The web target: bundles that prove themselves in WebAssembly, and a page that answers in a real browser."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from deepseek_cli.deploy import find_target, outputs, verify, web
from deepseek_cli.deploy.engine import deploy
from deepseek_cli.deploy.readback import GraphWeights
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.errors import MissingExtra, ModelCorrupt, ModelUnsupported, UsageError, fill
from deepseek_cli.handle import Bundle, ModelHandle, open_model
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.reporter import Reporter
from deepseek_cli.runtime import node_packages
from deepseek_cli.runtime.session import open_session
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.runtime.web_session import graph_files
from deepseek_cli.store import Store
from tests.deploy.browser import CHROMIUM, Page
from tests.deploy.bundles import PROMPT, built_from
from tests.toys import DEPLOYABLE, make_toy

WEB = find_target("web")
HAS_NODE = shutil.which("node") and node_packages.version(node_packages.LIBRARY) == node_packages.VERSION
needs_node = pytest.mark.skipif(not HAS_NODE, reason="node and its packages are not installed")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "NEW_TOKENS", 8)


def model(
    folder: Path, family: str = "llama", scheme: str = "int4-g32", rule: tuple[str, ...] = (), **settings: Any
) -> ModelHandle:
    """A toy, quantized."""
    make_toy(folder / "toy", family, **DEPLOYABLE | settings)
    (folder / "toy" / "chat_template.jinja").write_text(TEMPLATE)
    store = Store(folder)
    spec = QuantizeSpec(scheme=scheme, rule=rule, report=False)
    quantize(open_model(str(folder / "toy"), store), spec, store, folder / "quantized")
    return open_model(str(folder / "quantized"), store)


def deployed(handle: ModelHandle, folder: Path, level: Any = "tokens", reporter: Reporter | None = None) -> dict[str, Any]:
    options = {"reporter": reporter} if reporter else {}
    return deploy(handle, DeploySpec("web", level), Store(folder), folder / "bundle", threads=1, **options).verification


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelHandle, Bundle]:
    folder = tmp_path_factory.mktemp("built")
    return built_from(model(folder, tie_word_embeddings=True), folder, DeploySpec("web", "weights"))


@pytest.fixture
def copy(built: tuple[ModelHandle, Bundle], tmp_path: Path) -> Path:
    return shutil.copytree(built[1].root, tmp_path / "copy")


@needs_node
@pytest.mark.parametrize(
    ("family", "scheme", "rule", "settings"),
    [
        ("llama", "int4-g32", (), {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
        ("qwen2", "int4-g32-asym", ("model.embed_tokens=int4-g32-asym",), {"hidden_size": 96, "num_attention_heads": 6}),
        ("qwen3", "int8", ("model.embed_tokens=int8-g32-asym",), {}),
        ("qwen3", "bf16", (), {}),
    ],
)
def test_a_bundle_is_verified_to_its_tokens(
    tmp_path: Path, family: str, scheme: str, rule: tuple[str, ...], settings: dict[str, Any]
) -> None:
    found = deployed(model(tmp_path, family, scheme, rule, **settings), tmp_path)
    assert (found["level"], found["failed"], found["dense_fallbacks"]) == ("L3", False, [])
    assert [check["level"] for check in found["checks"]] == ["L0", "L1", "L2", "L3", "L3"]
    assert "WebAssembly" in found["runtime"]


@needs_node
def test_a_session_forgets_and_counts(built: tuple[ModelHandle, Bundle]) -> None:
    session = open_session(built[1], context=8, threads=1)
    whole = session.feed(PROMPT, keep=0)
    assert whole.shape == (len(PROMPT), DEPLOYABLE["vocab_size"]) and whole.dtype == np.float32
    assert session.kv_bytes == 2 * 2 * 2 * 16 * 4 * len(PROMPT)
    session.rewind(3)
    assert session.position == 3
    np.testing.assert_allclose(session.feed(PROMPT[3:]), whole[-1:], atol=1e-4)
    with pytest.raises(UsageError, match="do not fit in a context of 8"):
        session.feed(PROMPT)


@needs_node
def test_long_prompts_go_in_chunks(built: tuple[ModelHandle, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    session = open_session(built[1], context=8, threads=1)
    whole = session.feed(PROMPT, keep=0)
    monkeypatch.setattr("deepseek_cli.runtime.web_session.CHUNK", 2)
    for keep in (0, 1, 2):
        session.rewind(0)
        np.testing.assert_allclose(session.feed(PROMPT, keep=keep), whole[-keep:], atol=1e-4)


@needs_node
def test_data_is_cut_into_files_that_browsers_take(
    built: tuple[ModelHandle, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 40_000
    monkeypatch.setattr(web, "MOST_FILE_BYTES", most)
    monkeypatch.setattr(web, "READER", replace(web.READER, files=replace(web.READER.files, most=most)))
    assert deployed(built[0], tmp_path)["level"] == "L3"
    graph, data = graph_files(tmp_path / "bundle")
    assert len(data) > 2 and [file.name for file in data[:2]] == [f"{graph.name}_data", f"{graph.name}_data_1"]
    assert all(file.stat().st_size <= most for file in data)
    assert {graph, *data} == {*graph.parent.iterdir()}


def test_the_bundle_is_complete(built: tuple[ModelHandle, Bundle]) -> None:
    root = built[1].root
    config = json.loads((root / "config.json").read_text())
    assert config["transformers.js_config"] == {"dtype": "q4", "use_external_data_format": {"model_q4.onnx": 1}}
    listed = {entry["path"] for entry in built[1].manifest.files}
    assert listed == {f.relative_to(root).as_posix() for f in root.rglob("*") if f.is_file()} - {"deepseek.json"}
    assert built[1].size_bytes > graph_files(root)[1][0].stat().st_size
    assert built[1].manifest.readers == ("deepseek", "transformers.js")
    assert "python -m http.server" in (root / "README.md").read_text()
    subprocess.run([sys.executable, root / "check.py"], check=True, stdout=subprocess.DEVNULL)


def test_the_self_test_is_what_the_model_itself_goes_on_with(built: tuple[ModelHandle, Bundle]) -> None:
    test = json.loads((built[1].root / "chat.json").read_text())["self_test"]
    session, fed, found = open_session(built[0], threads=1), test["prompt"], []
    for _ in test["tokens"]:
        fed = [int(session.feed(fed)[0].argmax())]
        found += fed
    assert found == test["tokens"] and found


def test_one_changed_bit_fails_and_names_its_tensor(built: tuple[ModelHandle, Bundle], copy: Path) -> None:
    for name, part in (("model.layers.1.mlp.down_proj", "codes"), ("model.embed_tokens", "scales")):
        weights = GraphWeights(graph_files(copy)[0])
        where = {entry.key: entry.value for entry in weights.initializers[f"{name}.{part}"].external_data}
        with (copy / "onnx" / where["location"]).open("r+b") as file:
            file.seek(int(where["offset"]) + 2)
            byte = file.read(1)[0]
            file.seek(int(where["offset"]) + 2)
            file.write(bytes([byte ^ 1]))
        found = verify.verify(WEB, built[0], copy, "weights", 1)
        assert (found["level"], found["failed"]) == ("L0", True)
        assert f"{name}.weight" in found["checks"][-1]["differing"]


def test_what_transformers_js_would_not_understand_fails_at_the_structure(built: tuple[ModelHandle, Bundle], copy: Path) -> None:
    graph = graph_files(copy)[0]
    held = onnx.load(graph, load_external_data=False)
    next(v for v in held.graph.input if v.name == "input_ids").type.tensor_type.shape.dim[0].dim_param = "batch"
    graph.write_bytes(held.SerializeToString())
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rope_theta": 5.0}))
    (copy / "lib" / "index.js").unlink()
    assert WEB.unexpected(built[0], copy, 1) == ["config.json: rope_theta", "input_ids", "lib/index.js"]


@pytest.mark.parametrize("format", [True, {"../model.onnx": 1}, {"model.bin": 1}, {"model.onnx": "1"}])
def test_a_config_that_names_no_graph_is_refused(built: tuple[ModelHandle, Bundle], copy: Path, format: Any) -> None:
    (copy / "config.json").write_text(json.dumps({"transformers.js_config": {"use_external_data_format": format}}))
    with pytest.raises(ModelCorrupt, match="names no graph"):
        WEB.unexpected(built[0], copy, 1)


@needs_node
def test_a_graph_that_cannot_run_is_named_with_the_reason(built: tuple[ModelHandle, Bundle], copy: Path) -> None:
    data = graph_files(copy)[1][0]
    data.write_bytes(data.read_bytes()[:5000])
    with pytest.raises(ModelCorrupt, match=r"copy cannot be run: .+"):
        WEB.open_folder(copy, built[1].config, 8, 1, True)
    data.unlink()
    with pytest.raises(ModelCorrupt, match="no such file"):
        WEB.open_folder(copy, built[1].config, 8, 1, True)


def test_other_families_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnsupported, match="deepseek_v3") as caught:
        deployed(open_model("nano", Store(tmp_path)), tmp_path)
    assert "--target cpu" in caught.value.hint


@pytest.mark.parametrize(
    ("limit", "said"), [("MOST_BYTES", "WebAssembly holds"), ("MOST_FILE_BYTES", "embed_tokens.weight would")]
)
def test_a_model_larger_than_a_browser_holds_is_refused(
    built: tuple[ModelHandle, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, said: str
) -> None:
    monkeypatch.setattr(web, limit, 1000)
    with pytest.raises(ModelUnsupported, match=said) as caught:
        deployed(built[0], tmp_path, "weights")
    assert caught.value.exit_code == 3


def test_options_of_other_caches_are_refused(built: tuple[ModelHandle, Bundle], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="keeps its own cache"):
        deploy(built[0], DeploySpec("web", kv="fp16"), Store(tmp_path), tmp_path / "bundle")


class Warnings(Reporter):
    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, message: str, **facts: object) -> None:
        self.said.append(message.format(**facts))


def test_without_the_library_the_page_loads_it_from_elsewhere(
    built: tuple[ModelHandle, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_packages, "FOLDER", tmp_path / "none")
    with pytest.raises(MissingExtra) as caught:
        deployed(built[0], tmp_path)
    assert caught.value.exit_code == 4
    command = f"npm install --ignore-scripts --prefix '{tmp_path / 'none'}' @huggingface/transformers@4.3.1"
    assert command in fill(caught.value.hint, caught.value.facts) and node_packages.verifier() == command
    heard = Warnings()
    assert deployed(built[0], tmp_path, "weights", heard)["level"] == "L1"
    address = f"cdn.jsdelivr.net/npm/@huggingface/transformers@{node_packages.VERSION}"
    assert address in (tmp_path / "bundle" / "lib" / "index.js").read_text()
    assert address in (tmp_path / "bundle" / "README.md").read_text()
    assert any("cdn.jsdelivr.net" in warning for warning in heard.said)


def test_another_version_of_the_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "node_modules" / node_packages.LIBRARY
    folder.mkdir(parents=True)
    (folder / "package.json").write_text('{"version": "3.0.0"}')
    monkeypatch.setattr(node_packages, "FOLDER", tmp_path)
    with pytest.raises(MissingExtra) as caught:
        node_packages.package()
    assert caught.value.facts["instead"] == " (3.0.0)"


@pytest.mark.parametrize(("said", "expected"), [("echo v16.1.0", "Node is v16.1.0"), ("exit 1", "Node is not installed")])
def test_an_old_node_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, expected: str) -> None:
    (tmp_path / "node").write_text(f"#!/bin/sh\n{said}\n")
    (tmp_path / "node").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtra) as caught:
        node_packages.node()
    assert expected in fill(caught.value.message, caught.value.facts)


@pytest.fixture
def address(copy: Path) -> Iterator[str]:
    """The bundle, as its own server serves it."""
    server = subprocess.Popen(
        [sys.executable, copy / "serve.py", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert server.stdout
    yield server.stdout.readline().strip().replace("localhost", "127.0.0.1")
    server.kill()
    server.wait()
    server.stdout.close()


def ask(page: Page, text: str) -> None:
    page.evaluate(f"window.question.value = {text!r}; window.question.oninput(); window.send.click()")


@needs_node
@needs_browser
def test_the_page_answers_as_the_model_does(built: tuple[ModelHandle, Bundle], address: str, tmp_path: Path) -> None:
    tokenizer, session = open_tokenizer(built[0].root), open_session(built[0], threads=1)
    fed = tokenizer.encode_chat(tokenizer.chat([{"role": "user", "content": "Hi?"}]))
    expected: list[int] = []
    while len(expected) < 20:
        fed = [int(session.feed(fed)[0].argmax())]
        expected += fed
    with Page(tmp_path, "--accept-lang=en-US", "--lang=en-US") as page:
        page.open(address)
        page.wait_for("ready")
        assert "WebAssembly" in page.text and built[0].name in page.text
        ask(page, "Hi?")
        page.wait_for("ready")
        answer = page.evaluate("document.querySelector('.assistant').firstChild.textContent")
        assert answer.startswith(tokenizer.decode(expected).rstrip("\ufffd"))
        assert page.evaluate("[...document.querySelectorAll('.note')].every((note) => note.hidden)")
        assert not [line for line in page.console if "No available adapters" not in line]


@needs_node
@needs_browser
def test_the_page_says_when_it_computes_something_else(copy: Path, address: str, tmp_path: Path) -> None:
    chat = json.loads((copy / "chat.json").read_text())
    chat["self_test"]["tokens"][-1] ^= 1
    (copy / "chat.json").write_text(json.dumps(chat | {"name": "<img src=x onerror=document.title=1>"}))
    with Page(tmp_path, "--accept-lang=zh-CN", "--lang=zh-CN") as page:
        page.open(address)
        page.wait_for("ready")
        assert "结果与部署时不同" in page.text
        ask(page, "Hi?")
        page.wait_for("busy", "ready")
        assert "结果与部署时不同" in page.text
        assert page.evaluate("document.title") == "<img src=x onerror=document.title=1>"
