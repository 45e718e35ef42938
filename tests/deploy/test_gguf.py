"""The gguf target: our codes in ggml's blocks, read alike by ggml's own package, and run by llama.cpp."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from deepseek_cli.deploy import find_target, verify
from deepseek_cli.deploy.engine import deploy
from deepseek_cli.deploy.gguf_layout import gguf_name
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.errors import MissingExtra, ModelUnsupported
from deepseek_cli.formats.gguf import read_gguf
from deepseek_cli.formats.gguf_writer import encode, kind_of, unfit
from deepseek_cli.handle import Bundle, ModelHandle, open_any, open_model
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.runtime import llamacpp
from deepseek_cli.runtime.gguf_session import MODEL, open_folder
from deepseek_cli.runtime.llamacpp import LlamaCpp
from deepseek_cli.runtime.session import open_session
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.store import Store
from deepseek_cli.tensors import QuantizedTensor, dense, pack
from tests.gguf_toys import MERGES, write_toy
from tests.toys import DEPLOYABLE, SCALINGS, byte_tokenizer, make_toy

TEXTS = ["a b ab  ab", "It's 2024,\n\n and   ½ 你好 🙂\t", " ab</s>ab", "don't <extra>a b"]


def merging_tokenizer() -> Tokenizer:
    """The toys' tokenizer with merges, without which llama.cpp reads none."""
    tokenizer = byte_tokenizer()
    vocabulary = tokenizer.get_vocab()
    pairs = [tuple(merge.split()) for merge in MERGES]
    vocabulary |= {"".join(pair): len(vocabulary) + i for i, pair in enumerate(pairs)}
    tokenizer.model = models.BPE(vocab=vocabulary, merges=pairs, unk_token="<unk>")
    tokenizer.add_tokens(["<extra>"])
    return tokenizer


def model(
    folder: Path, family: str = "llama", scheme: str = "int4-g32", tokenizer: Tokenizer | None = None, **settings: Any
) -> ModelHandle:
    """A toy, quantized."""
    make_toy(folder / "toy", family, **{**DEPLOYABLE, **settings})
    (tokenizer or merging_tokenizer()).save(str(folder / "toy" / "tokenizer.json"))
    store = Store(folder)
    quantize(open_model(str(folder / "toy"), store), QuantizeSpec(scheme=scheme, report=False), store, folder / "quantized")
    return open_model(str(folder / "quantized"), store)


def deployed(handle: ModelHandle, folder: Path, level: Any = "weights") -> Bundle:
    done = deploy(handle, DeploySpec(target="gguf", verify=level), Store(folder), folder / "bundle", threads=1)
    assert not done.verification["failed"], done.verification
    bundle = open_any(str(folder / "bundle"), Store(folder))
    assert isinstance(bundle, Bundle)
    return bundle


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelHandle, Bundle]:
    folder = tmp_path_factory.mktemp("built")
    handle = model(folder, tie_word_embeddings=True)
    return handle, deployed(handle, folder)


SCHEMES = ["int4-g32", "int4-g64", "int4-g32-asym", "int8", "int8-g32", "bf16"]
CASES = [("llama", scheme) for scheme in SCHEMES] + [(f, s) for f in ("qwen2", "qwen3") for s in ("int4-g32-asym", "int8")]


@pytest.mark.parametrize(("family", "scheme"), CASES)
def test_a_bundle_is_verified_to_its_tokens(tmp_path: Path, family: str, scheme: str) -> None:
    settings: dict[str, Any] = {"attention_bias": True, "mlp_bias": True} if family == "llama" else {}
    settings |= {"tie_word_embeddings": scheme == "int8", "intermediate_size": 128, "num_hidden_layers": 1}
    bundle = deployed(model(tmp_path, family, scheme, **settings), tmp_path, "tokens")
    found = bundle.manifest.verification
    assert found
    assert [c["level"] for c in found["checks"]] == ["L0", "L1", "L2", "L3", "L3"]
    assert (found["level"], found["dense_fallbacks"]) == ("L3", [])
    assert bundle.target == "gguf"
    assert {f.name for f in tmp_path.iterdir()} <= {"toy", "quantized", "bundle", "models"}  # the passing copy is gone


@pytest.mark.parametrize("blocks", ["Q5_0", "Q5_1"])
def test_ggmls_own_blocks_are_carried(tmp_path: Path, blocks: str) -> None:
    sizes = {**DEPLOYABLE, "num_hidden_layers": 1}
    toy = make_toy(tmp_path / "toy", "llama", **sizes)
    file = write_toy(tmp_path / "toy.gguf", toy, "llama", matrices=gguf.GGMLQuantizationType[blocks])
    found = deployed(open_model(str(file), Store(tmp_path)), tmp_path, "tokens").manifest.verification
    assert found
    assert (found["level"], found["dense_fallbacks"]) == ("L3", [])


@pytest.mark.parametrize("scaling", SCALINGS[1:], ids=lambda s: s["rope_type"])
def test_every_rotary_scaling_of_llama_is_held(tmp_path: Path, scaling: dict[str, Any]) -> None:
    rope = {"rope_theta": 1e4, **scaling}
    bundle = deployed(model(tmp_path, rope_parameters=rope, num_hidden_layers=1), tmp_path, "logits")
    assert bundle.manifest.verification
    assert bundle.manifest.verification["level"] == "L2"
    again = open_model(str(bundle.root / MODEL), Store(tmp_path)).config.rope
    np.testing.assert_allclose(again.inverse_frequency, bundle.config.rope.inverse_frequency, rtol=1e-5)
    assert again.factor == pytest.approx(bundle.config.rope.factor)


@pytest.mark.parametrize("scaling", SCALINGS[3:5], ids=["usual", "every key"])
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_yarn_is_held_where_divisors_are_not_read(tmp_path: Path, family: str, scaling: dict[str, Any]) -> None:
    rope = {"rope_theta": 1e4, **scaling}
    bundle = deployed(model(tmp_path, family, rope_parameters=rope, num_hidden_layers=1), tmp_path, "logits")
    assert bundle.manifest.verification
    assert bundle.manifest.verification["level"] == "L2"
    again = open_model(str(bundle.root / MODEL), Store(tmp_path)).config.rope
    np.testing.assert_allclose(again.inverse_frequency, bundle.config.rope.inverse_frequency, rtol=1e-5)
    assert again.factor == pytest.approx(bundle.config.rope.factor)


def test_scalings_that_a_family_has_no_place_for_are_refused(tmp_path: Path) -> None:
    handle = model(tmp_path, "qwen2", rope_parameters={"rope_theta": 1e4, **SCALINGS[2]})
    with pytest.raises(ModelUnsupported, match="qwen2 does not hold its rotary scaling"):
        deployed(handle, tmp_path)


@pytest.mark.parametrize("scheme", ["int4-g32", "int4-g32-asym", "int8"])
def test_ggmls_own_package_reads_the_same_values(tmp_path: Path, scheme: str) -> None:
    handle = model(tmp_path, "qwen2", scheme)
    reader = gguf.GGUFReader(deployed(handle, tmp_path).root / MODEL)
    theirs = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    assert theirs.keys() == {gguf_name(name) for name in handle.weights}
    for name, ref in handle.weights.items():
        np.testing.assert_array_equal(theirs[gguf_name(name)], dense(ref.read()).float().numpy(), err_msg=name)


def test_one_changed_bit_fails_and_names_its_tensor(built: tuple[ModelHandle, Bundle], tmp_path: Path) -> None:
    copy = shutil.copytree(built[1].root, tmp_path / "copy")
    offset = read_gguf(copy / MODEL).tensors["blk.1.attn_k.weight"].offset
    data = bytearray((copy / MODEL).read_bytes())
    data[offset + 2] ^= 1
    (copy / MODEL).write_bytes(data)
    found = verify.verify(find_target("gguf"), built[0], copy, "weights", 1)
    assert found["checks"][-1]["differing"] == ["model.layers.1.self_attn.k_proj.weight"]


def test_a_file_of_another_model_fails_at_its_structure(built: tuple[ModelHandle, Bundle], tmp_path: Path) -> None:
    other = model(tmp_path, rms_norm_eps=1e-3, tie_word_embeddings=False)
    assert find_target("gguf").unexpected(other, built[1].root, 1) == [
        "llama.attention.layer_norm_rms_epsilon",
        "output.weight",
    ]


def test_llama_cpp_tokenizes_as_we_do(built: tuple[ModelHandle, Bundle]) -> None:
    theirs, ours = LlamaCpp(built[1].root / MODEL, 64, 1), open_tokenizer(built[1].root)
    for text in TEXTS:
        assert theirs.tokenize(text) == ours.encode(text)
        assert theirs.tokenize(text, special=True) == ours.encode(text, special=True)


def change(kind: str) -> Tokenizer:
    tokenizer = merging_tokenizer()
    if kind == "splits":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    elif kind == "changes":
        tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer if kind != "merges" else byte_tokenizer()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("splits", "splits texts"), ("changes", "changes texts"), ("merges", "is not byte-level BPE with merges")],
)
def test_a_tokenizer_that_llama_cpp_would_not_follow_is_refused(tmp_path: Path, kind: str, reason: str) -> None:
    handle = model(tmp_path, tokenizer=change(kind))
    with pytest.raises(ModelUnsupported, match=f"The tokenizer of toy.* it {reason}"):
        deployed(handle, tmp_path)


def test_the_session_rewinds_counts_and_keeps(built: tuple[ModelHandle, Bundle]) -> None:
    session = open_folder(built[1].root, built[1].config, 64, 1, True)
    tokens = [5, 70, 71, 72, 73]
    whole = session.feed(tokens, keep=0).copy()
    assert (session.position, whole.shape) == (5, (5, DEPLOYABLE["vocab_size"]))
    assert session.kv_bytes == 5 * 2 * 2 * 2 * 16 * 4
    session.rewind(2)
    np.testing.assert_allclose(session.feed(tokens[2:], keep=2), whole[-2:], rtol=1e-4, atol=1e-4)
    with pytest.raises(Exception, match="do not fit in a context of 64"):
        session.feed([1] * 60)


def test_prompts_longer_than_a_batch_are_fed_in_parts(built: tuple[ModelHandle, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [3 + i % 250 for i in range(100)]
    session = open_folder(built[1].root, built[1].config, 128, 1, True)
    whole = session.feed(tokens, keep=40).copy()
    monkeypatch.setattr("deepseek_cli.runtime.gguf_session.BATCH", 32)
    session.rewind(0)
    np.testing.assert_allclose(session.feed(tokens, keep=40), whole, atol=1e-4 * np.ptp(whole))


def weight(scale: float, *, inputs: int = 64, bits: int = 4, zero: int | None = None, group: int = 32) -> QuantizedTensor:
    codes = (torch.arange(2 * inputs).view(2, inputs) % (1 << bits)).to(torch.uint8)
    scales = torch.full((2, -(-inputs // group)), scale)
    zeros = None if zero is None else torch.full_like(scales, zero, dtype=torch.uint8)
    return QuantizedTensor(pack(codes, bits), scales, bits, group, zeros)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (weight(2.0**-24), ""),  # float16's least number
        (weight(2.0**-25), "scales"),
        (weight(65536.0), "scales"),
        (weight(1 + 2.0**-11), "scales"),
        (weight(1 + 2.0**-10, zero=3), "zero points"),
        (weight(32768.0, zero=3), "zero points"),
        (weight(0.0, zero=3), "zero points"),
        (weight(0.5, zero=15), ""),
        (weight(0.5, bits=8, zero=3), "8-bit"),
        (weight(0.5, inputs=48), "multiples of 32"),
        (weight(0.5, group=16), "multiples of 32"),
    ],
)
def test_codes_are_carried_only_where_that_is_exact(found: QuantizedTensor, reason: str) -> None:
    assert reason in unfit(found)
    assert bool(unfit(found)) == bool(reason)
    if not reason:
        kind = gguf.GGMLQuantizationType[kind_of(found).upper()]
        values = gguf.quants.dequantize(encode(found, kind_of(found)).numpy(), kind)
        np.testing.assert_array_equal(values, found.dequantize().numpy())


def test_what_does_not_fit_stays_dense_and_is_listed(tmp_path: Path) -> None:
    handle = model(tmp_path, scheme="int8-g32-asym")
    warnings: list[str] = []

    class Listening:
        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda message, *_, **facts: warnings.append(message.format(**facts)) if name == "warn" else None

    done = deploy(
        handle, DeploySpec(target="gguf", verify="tokens"), Store(tmp_path), tmp_path / "b", threads=1, reporter=Listening()
    )
    assert done.verification["level"] == "L3", done.verification["checks"]
    assert "model.layers.0.mlp.gate_proj.weight" in done.verification["dense_fallbacks"]
    assert any("GGUF has no 8-bit format with zero points" in warning for warning in warnings)


def test_other_families_are_refused_by_name(tmp_path: Path) -> None:
    handle = model(tmp_path)
    with pytest.raises(ModelUnsupported, match="architecture mamba are not written yet"):
        deployed(replace(handle, architecture=replace(handle.architecture, name="mamba")), tmp_path)


def test_without_its_runtime_a_bundle_is_only_written(
    built: tuple[ModelHandle, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    monkeypatch.setattr(importlib.metadata, "version", absent)
    llamacpp.load_library.cache_clear()
    deployed(built[0], tmp_path)
    for act in (lambda: open_session(built[1]), lambda: deployed(built[0], tmp_path / "other", "tokens")):
        with pytest.raises(MissingExtra, match=r"xllamacpp is not installed.*deepseek-cli\[gguf\]") as caught:
            act()
        assert caught.value.exit_code == 4


def test_the_readme_says_how_to_run_it(built: tuple[ModelHandle, Bundle]) -> None:
    text = (built[1].root / "README.md").read_text()
    assert "llama-server -m model.gguf" in text
    assert "quantization_config" not in json.loads((built[1].root / "config.json").read_text())
