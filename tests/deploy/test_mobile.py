"""The mobile target: programs that prove themselves in ExecuTorch, run in its own runner, and betray every change."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepseek_cli.deploy import find_target, mobile, outputs, verify
from deepseek_cli.deploy.engine import deploy
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.errors import MemoryShort, MissingExtra, ModelCorrupt, ModelUnsupported, UsageError
from deepseek_cli.handle import Bundle, ModelHandle, open_model
from deepseek_cli.ops import executorch_constants, executorch_ops
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.runtime import executorch_session, onnx_session
from deepseek_cli.runtime.session import open_session
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.runtime.torch_session import TorchSession
from deepseek_cli.store import Store
from deepseek_cli.tensors import BlockTensor, QuantizedTensor, in_pieces
from tests.deploy.bundles import PROMPT, built_from, flip_bit
from tests.toys import DEPLOYABLE, make_toy

MOBILE = find_target("mobile")
NEW_TOKENS = 12


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "NEW_TOKENS", NEW_TOKENS)


def model(folder: Path, family: str, scheme: str, rule: tuple[str, ...] = (), **settings: Any) -> ModelHandle:
    """A toy of one layer, quantized."""
    make_toy(folder / "toy", family, **{**DEPLOYABLE, "num_hidden_layers": 1, **settings})
    store = Store(folder)
    spec = QuantizeSpec(scheme=scheme, level="fast", rule=rule, report=False)
    quantize(open_model(str(folder / "toy"), store), spec, store, folder / "quantized")
    return open_model(str(folder / "quantized"), store)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelHandle, Bundle]:
    folder = tmp_path_factory.mktemp("built")
    handle = model(folder, "llama", "int4-g64-pos", tie_word_embeddings=True, mlp_bias=True)
    return built_from(handle, folder, DeploySpec("mobile", "structure"))


@pytest.fixture(scope="module")
def session(built: tuple[ModelHandle, Bundle]) -> Any:
    return open_session(built[1], threads=1)


def checked(built: tuple[ModelHandle, Bundle], folder: Path, level: str = "weights") -> dict[str, Any]:
    return verify.verify(MOBILE, built[0], folder, level, 1)


def test_a_bundle_is_verified_to_its_tokens(built: tuple[ModelHandle, Bundle]) -> None:
    found = checked(built, built[1].root, "tokens")
    assert (found["level"], found["failed"]) == ("L3", False)
    assert [check["level"] for check in found["checks"]] == [*2 * ["L0"], *2 * ["L1"], *2 * ["L2", "L3", "L3"]]
    logits, tokens = found["checks"][4], found["checks"][5]
    assert logits["largest_difference"] < 1e-5
    assert (tokens["tokens"], tokens["equal"]) == (NEW_TOKENS, NEW_TOKENS)


def test_heads_with_norms_and_biases_and_what_is_not_tied(tmp_path: Path) -> None:
    """int8 by rows, beside rows of an embedding in int4."""
    scaling = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    rule = ("model.embed_tokens=int4-g32-pos", "lm_head=bf16")
    handle = model(tmp_path, "qwen3", "int8-channel-pos", rule, attention_bias=True, rope_parameters=scaling)
    found = built_from(handle, tmp_path, DeploySpec("mobile", "logits"))[1].manifest.verification
    assert found is not None and (found["level"], found["dense_fallbacks"]) == ("L2", [])


def test_a_session_continues_forgets_and_counts(built: tuple[ModelHandle, Bundle], session: Any) -> None:
    session.rewind(0)
    rows = session.feed(PROMPT, keep=0).copy()
    assert rows.shape == (len(PROMPT), DEPLOYABLE["vocab_size"]) and rows.dtype == np.float32
    assert (session.position, session.kv_bytes) == (len(PROMPT), 2 * 2 * 16 * 4 * len(PROMPT))
    session.rewind(2)
    np.testing.assert_allclose(session.feed(PROMPT[2:], keep=2), rows[-2:], atol=1e-4)
    session.rewind(0)
    np.testing.assert_allclose(session.feed(PROMPT), rows[-1:], atol=1e-4)  # at once, where `keep` goes token by token


def test_products_round_activations_as_they_would_in_pytorch(built: tuple[ModelHandle, Bundle], session: Any) -> None:
    """The same module, not lowered, is the oracle: PyTorch's own per-token rounding."""
    handle = built[0]
    executorch_ops.load_operators()
    decoder = filled(executorch_ops.Decoder(handle.architecture, handle.config, handle.weights, 16), handle)
    with torch.no_grad():
        rounded = decoder(torch.tensor([PROMPT]), torch.tensor([0]))[0].numpy()
    session.rewind(0)
    found = session.feed(PROMPT)
    whole = TorchSession(handle, 16, 1, device="cpu").feed(PROMPT)
    assert np.abs(found - rounded).max() < 0.2 * np.abs(found - whole).max()


def filled(decoder: executorch_ops.Decoder, handle: ModelHandle) -> executorch_ops.Decoder:
    """With the values that its operators compute with in PyTorch."""
    for name, ref in handle.weights.items():
        weight, stem = ref.read(), name.removesuffix(".weight")
        if not isinstance(weight, QuantizedTensor):
            decoder.get_buffer(name.replace(".", "__")).copy_(weight)
            continue
        codes = weight.codes.short() - (1 << weight.bits - 1)
        group = executorch_constants.common_group(weight)
        wide = weight.scale.repeat_interleave(weight.group // group, 1)[:, : weight.shape[1] // group]
        scale = wide if weight.bits == 4 else wide[:, 0]
        parts = {"codes": codes, "scale": scale, "zero": torch.zeros(1), "rows": codes, "rows_scale": wide}
        for part, values in parts.items():
            if (buffer := decoder.held(f"{stem}.{part}")) is not None:
                buffer.copy_(values)
    return decoder


def test_executorch_lowers_it_without_weights(built: tuple[ModelHandle, Bundle]) -> None:
    """What it holds has the size of a graph, and no weight was read for more than its form."""
    handle, read = built[0], list[str]()
    noted = lambda name, ref: replace(ref, read=lambda: read.append(name) or ref.read())  # noqa: E731
    refs = {name: noted(name, ref) for name, ref in handle.weights.items()}
    with executorch_ops.quiet():
        from deepseek_cli.ops import executorch_lower

        executorch_ops.load_operators()
        decoder = executorch_ops.Decoder(handle.architecture, handle.config, refs, 16)
        read.clear()
        held = executorch_lower.lower(decoder, 16, executorch_ops.methods(handle.config, 16), decoder.constants)
    assert not read and held.named_data is not None
    names = {buffer.decode() for buffer in held.named_data.buffers if isinstance(buffer, bytes) and buffer.isascii()}
    assert {"model.layers.0.mlp.up_proj.codes", "model.embed_tokens.scale", "model.layers.0.mlp.up_proj.bias"} <= names
    assert max(map(len, held.named_data.buffers)) < 100
    rows = [buffer.storage for buffer in held.program.constant_buffer]
    assert b"model.embed_tokens.rows" in rows and max(map(len, rows)) < 1000  # tables of the rotation
    with Path(os.devnull).open("wb") as nowhere:
        executorch_lower.write(held, decoder.constants, nowhere)
    assert set(read) == set(handle.weights)


def test_a_constant_is_made_some_rows_at_a_time(built: tuple[ModelHandle, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executorch_constants, "in_pieces", partial(in_pieces, most=1))
    found, _ = executorch_constants.constants(built[0].weights, tied=True)
    for name, constant in found.items():
        pieces = list(constant.pieces())
        assert sum(piece.nbytes for piece in pieces) == constant.size, name
        assert {len(piece) for piece in pieces} <= {0, 1}, name


def test_executorch_runs_it_with_its_own_runner(built: tuple[ModelHandle, Bundle], session: Any) -> None:
    with executorch_ops.quiet():
        from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner

    root, pieces = built[1].root, list[str]()
    prompt, ours = speakable(open_tokenizer(root), session)
    runner = TextLLMRunner(str(root / "model.pte"), str(root / "tokenizer.json"))
    runner.generate(prompt, GenerationConfig(max_new_tokens=3, temperature=0, echo=False), pieces.append)
    assert "".join(pieces) == ours


def speakable(tokenizer: Any, session: Any) -> tuple[str, str]:
    """A prompt that the toy, whose tokens are bytes, goes on from in ASCII: the runner hands strings to Python."""
    for prompt in map(chr, range(ord("A"), ord("z"))):
        session.rewind(0)
        tokens, fed = list[int](), tokenizer.encode(prompt)
        for _ in range(3):
            tokens.append(int(session.feed(fed)[-1].argmax()))
            fed = tokens[-1:]
        if (text := tokenizer.decode(tokens)).isascii() and len(text) == len(tokens):
            return prompt, text
    raise AssertionError("no prompt gives ASCII")


def test_the_onnx_part_runs_and_says_the_same(built: tuple[ModelHandle, Bundle]) -> None:
    handle, bundle = built
    session = onnx_session.open_folder(bundle.root / "onnx", bundle.config, 16, 1, True)
    expected = TorchSession(handle, 16, 1, device="cpu").feed(PROMPT, keep=0)
    np.testing.assert_allclose(session.feed(PROMPT, keep=0), expected, atol=1e-4)


def test_the_bundle_is_complete(built: tuple[ModelHandle, Bundle]) -> None:
    root = built[1].root
    text = (root / "README.md").read_text()
    assert "TextLLMRunner" in text and "256 tokens" in text and "{" not in text.split("```")[0].splitlines()[0]
    assert not (root / "onnx" / "README.md").exists()
    assert {"check.py", "config.json", "tokenizer.json", "model.pte"} <= {file.name for file in root.iterdir()}
    assert built[1].manifest.readers == ("deepseek", "executorch", "onnxruntime")


@pytest.mark.parametrize("name", ["model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.up_proj.bias"])
def test_one_changed_bit_of_the_program_names_its_tensor(built: tuple[ModelHandle, Bundle], tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(built[1].root, tmp_path / "copy")
    weight = built[0].weights[name].read()
    data = (weight.packed if isinstance(weight, QuantizedTensor) else weight.float()).numpy().tobytes()
    held = bytearray((copy / "model.pte").read_bytes())
    assert held.count(data) == 1  # our bits as they are
    held[held.index(data)] ^= 1
    (copy / "model.pte").write_bytes(held)
    found = checked(built, copy)
    assert (found["level"], found["checks"][2]["differing"]) == ("L0", [name])


def test_one_changed_bit_of_the_onnx_part_names_its_tensor(built: tuple[ModelHandle, Bundle], tmp_path: Path) -> None:
    copy = shutil.copytree(built[1].root, tmp_path / "copy")
    flip_bit(copy / "onnx", "model.layers.0.mlp.down_proj.codes")
    assert checked(built, copy)["checks"][-1]["differing"] == ["model.layers.0.mlp.down_proj.weight"]


def test_weights_too_many_or_too_few_are_named() -> None:
    names = lambda *found: [name for name, _ in mobile.paired(["a", "b"], iter(found))]  # noqa: E731
    assert names(torch.ones(2), torch.ones(2), torch.ones(2)) == ["a", "b", "one weight too many"]
    assert not dict(mobile.paired(["a", "b"], iter([torch.ones(2)])))["b"].numel()


def test_another_program_fails(built: tuple[ModelHandle, Bundle], tmp_path: Path) -> None:
    copy = shutil.copytree(built[1].root, tmp_path / "copy")
    (copy / "tokenizer.json").unlink()
    other = replace(built[0], config=replace(built[0].config, eos=(7, 8), vocabulary=300))
    assert MOBILE.unexpected(other, copy, 1) == ["get_eos_ids", "get_vocab_size", "tokenizer.json"]
    (copy / "model.pte").write_bytes(b"no program at all")
    with pytest.raises(ModelCorrupt, match=r"model.pte cannot be loaded"):
        MOBILE.open_folder(copy, built[1].config, 8, 1, False)
    with pytest.raises(ModelCorrupt, match=r"model.pte cannot be loaded"):
        executorch_session.read(copy / "model.pte")


def test_a_prompt_beyond_the_cache_is_refused(built: tuple[ModelHandle, Bundle], session: Any) -> None:
    session.rewind(0)
    with pytest.raises(UsageError, match="257 tokens do not fit in the 256 that the bundle's cache holds"):
        session.feed([5] * 257)
    with pytest.raises(UsageError, match="do not fit in a context of 4"):
        open_session(built[1], context=4, threads=1).feed(PROMPT)


def test_negative_scales_are_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    handle = model(tmp_path, "llama", "int4-g32")
    with pytest.raises(ModelUnsupported, match="negative scales") as caught:
        deploy(handle, DeploySpec("mobile"), Store(tmp_path), tmp_path / "bundle")
    assert caught.value.exit_code == 3 and not (tmp_path / "bundle").exists()
    assert f"deepseek quantize {tmp_path / 'toy'} --scheme int4-g32-pos" in str(caught.value)


def some(bits: int = 4, group: int = 32, inputs: int = 64, **other: Any) -> QuantizedTensor:
    groups = -(-inputs // group)
    packed = torch.zeros(2, inputs * bits // 8, dtype=torch.uint8)
    return replace(QuantizedTensor(packed, torch.ones(2, groups), bits, group), **other)


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        (some(), ""),
        (some(group=64, inputs=96), ""),  # a short last group: both in groups of 32
        (some(bits=8, group=64), ""),
        (some(scale=torch.tensor([[1.0, 1.0], [1.0, -1.0]])), "negative scales"),
        (some(scale=torch.full((2, 2), 1.001)), "bfloat16 does not hold its scales"),
        (some(zero=torch.zeros(2, 2, dtype=torch.uint8)), "zero points"),
        (some(permutation=torch.arange(64)), "act-order"),
        (some(group=16), "groups of 16 are no multiple of 32"),
        (some(bits=8), "int8 with one scale for a row"),
        (BlockTensor("q6_k", torch.zeros(2, 210, dtype=torch.uint8), (2, 256)), "no counterpart"),
    ],
)
def test_what_xnnpack_holds(weight: Any, says: str) -> None:
    assert mobile.unfit(weight) == "" if not says else says in mobile.unfit(weight)


def test_other_families_are_refused(tmp_path: Path) -> None:
    handle = open_model("nano", Store(tmp_path))
    with pytest.raises(ModelUnsupported, match="--target cpu"):
        deploy(handle, DeploySpec("mobile"), Store(tmp_path), tmp_path / "bundle")


def test_memory_is_looked_at_before_the_work(
    built: tuple[ModelHandle, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mobile, "free_bytes", lambda: 1000)
    with pytest.raises(MemoryShort, match=r"Exporting .* needs"):
        deploy(built[0], DeploySpec("mobile", "weights"), Store(tmp_path), tmp_path / "bundle")


def test_its_runtime_is_an_extra(built: tuple[ModelHandle, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(MissingExtra, match=r"is not installed.*deepseek-cli\[mobile\]") as caught:
        deploy(built[0], DeploySpec("mobile", "weights"), Store(tmp_path), tmp_path / "bundle")
    assert caught.value.exit_code == 4
    with pytest.raises(MissingExtra):
        open_session(built[1])
    monkeypatch.setattr(metadata, "version", lambda _: "1.4.0")
    with pytest.raises(MissingExtra, match=r"executorch 1\.4\.0 is installed.* 1\.5"):
        open_session(built[1])


def test_the_cache_is_moderate_unless_more_is_asked_for(built: tuple[ModelHandle, Bundle], tmp_path: Path) -> None:
    long = replace(built[0], config=replace(built[0].config, context=8192))
    plan = lambda **options: deploy(long, DeploySpec("mobile"), Store(tmp_path), tmp_path / "b", dry_run=True, **options)  # noqa: E731
    assert (plan().context, plan(context=4096).context) == (2048, 4096)


def test_the_manifest_names_what_verified_it(built: tuple[ModelHandle, Bundle]) -> None:
    manifest = json.loads((built[1].root / "deepseek.json").read_text())
    assert manifest["verification"]["runtime"] == f"executorch {metadata.version('executorch')}"
