"""The openvino target: folders that prove themselves in OpenVINO, load in openvino_genai as they are, and betray every change."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai
import pytest
import torch

from deepseek_cli.deploy import find_target, outputs, verify
from deepseek_cli.deploy.engine import deploy
from deepseek_cli.deploy.openvino_tokenizer import DIGITS, difference, isolated, write_tokenizer
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.errors import MissingExtra, ModelCorrupt, ModelUnsupported, UsageError
from deepseek_cli.evaluate import TEXT
from deepseek_cli.formats.openvino import hold, restore
from deepseek_cli.handle import Bundle, ModelHandle, open_model
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.runtime.gguf_tokenizer import GPT_2
from deepseek_cli.runtime.openvino_session import EXACT
from deepseek_cli.runtime.session import open_folder, open_session
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.store import Store
from deepseek_cli.tensors import QuantizedTensor, TensorRef, dense, pack
from tests.deploy.bundles import PROMPT, built_from
from tests.imported_toys import to_gptq
from tests.toys import DEPLOYABLE, SCALINGS, make_toy

OPENVINO = find_target("openvino")
LLAMA3: dict[str, Any] = {"rope_theta": 1e4, **SCALINGS[2]}
YARN: dict[str, Any] = {"rope_theta": 1e4, **SCALINGS[4]}  # its factor on cos and sin is its own
GENAI = {**EXACT, "INFERENCE_NUM_THREADS": 1}


def model(folder: Path, family: str = "llama", scheme: str = "int4-g32", **settings: Any) -> ModelHandle:
    """A toy, quantized; with embeddings in int8, as by default."""
    make_toy(folder / "toy", family, **{**DEPLOYABLE, **settings})
    store, spec = Store(folder), QuantizeSpec(scheme=scheme, report=False, algorithm="rtn")
    quantize(open_model(str(folder / "toy"), store), spec, store, folder / "quantized")
    return open_model(str(folder / "quantized"), store)


def deployed(handle: ModelHandle, folder: Path, level: Any = "tokens", **options: Any) -> dict[str, Any]:
    return deploy(handle, DeploySpec("openvino", level, **options), Store(folder), folder / "bundle", threads=1).verification


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelHandle, Bundle]:
    folder = tmp_path_factory.mktemp("built")
    return built_from(model(folder, tie_word_embeddings=True), folder, DeploySpec("openvino", "weights"))


@pytest.fixture
def copy(built: tuple[ModelHandle, Bundle], tmp_path: Path) -> Path:
    return shutil.copytree(built[1].root, tmp_path / "copy")


@pytest.mark.parametrize(
    ("family", "scheme", "settings"),
    [
        ("llama", "int4-g32", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
        ("llama", "int4-g64", {"rope_parameters": YARN}),  # 96 inputs: groups of 32 hold those of 64
        ("llama", "int8", {"rope_parameters": LLAMA3, "num_key_value_heads": 4}),
        ("qwen2", "int4-g32-asym", {}),
        ("qwen3", "int8-g32-asym", {"tie_word_embeddings": True}),
        ("qwen3", "bf16", {}),
    ],
)
def test_a_bundle_is_verified_to_its_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, scheme: str, settings: dict[str, Any]
) -> None:
    monkeypatch.setattr(outputs, "NEW_TOKENS", 12)
    found = deployed(model(tmp_path, family, scheme, **settings), tmp_path)
    assert (found["level"], found["failed"], found["dense_fallbacks"]) == ("L3", False, [])
    assert [check["level"] for check in found["checks"]] == ["L0", "L1", "L2", "L3", "L3"]
    assert found["checks"][2]["largest_difference"] < 1e-5
    assert found["runtime"] == f"openvino {metadata.version('openvino')}"


@pytest.mark.parametrize("backend", ["PA", "SDPA"])
def test_openvino_genai_generates_our_tokens(built: tuple[ModelHandle, Bundle], backend: str) -> None:
    """Through paged attention, which it puts in the place of ours, and through the graph as it is."""
    pipeline = openvino_genai.LLMPipeline(str(built[1].root), "CPU", ATTENTION_BACKEND=backend, **GENAI)
    theirs = generate(pipeline, [PROMPT])[0]
    session = open_folder("openvino", built[1].root, built[1].config, 64, 1, exact=True)
    ours: list[int] = []
    fed = PROMPT
    for _ in theirs:
        fed = [int(session.feed(fed)[-1].argmax())]
        ours += fed
    assert ours == theirs and len(ours) == 16


def generate(pipeline: Any, prompts: list[list[int]], **options: Any) -> list[list[int]]:
    """Tokens behind prompts, the shorter ones padded on the left; greedy unless `options` say otherwise."""
    longest = max(map(len, prompts))
    ids = np.array([[0] * (longest - len(p)) + p for p in prompts])
    mask = np.array([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(mask))
    config = openvino_genai.GenerationConfig(max_new_tokens=16, do_sample=False, ignore_eos=True, **options)
    return [list(row) for row in pipeline.generate(inputs, config).tokens]


def test_rows_of_a_batch_may_differ_in_length(built: tuple[ModelHandle, Bundle]) -> None:
    pipeline = openvino_genai.LLMPipeline(str(built[1].root), "CPU", ATTENTION_BACKEND="SDPA", **GENAI)
    prompts = [PROMPT, PROMPT[:2]]
    assert generate(pipeline, prompts) == [generate(pipeline, [prompt])[0] for prompt in prompts]


def test_beams_take_their_caches_along(built: tuple[ModelHandle, Bundle]) -> None:
    """Paged attention, which copies pages and does not know `beam_idx`, is the oracle."""
    paged, plain = (
        openvino_genai.LLMPipeline(str(built[1].root), "CPU", ATTENTION_BACKEND=backend, **GENAI) for backend in ("PA", "SDPA")
    )
    found = generate(plain, [PROMPT], num_beams=3, num_return_sequences=3)
    assert len(found) == 3 and found == generate(paged, [PROMPT], num_beams=3, num_return_sequences=3)


def test_openvino_genai_answers_text(built: tuple[ModelHandle, Bundle]) -> None:
    pipeline = openvino_genai.LLMPipeline(str(built[1].root), "CPU", **GENAI)
    tokenizer = open_tokenizer(built[0].root)
    assert pipeline.get_tokenizer().encode("Hello 17").input_ids.data.tolist() == [tokenizer.encode("Hello 17", special=True)]
    assert pipeline.get_generation_config().eos_token_id in tokenizer.eos
    assert isinstance(pipeline.generate("Hello", max_new_tokens=4), str)


def test_the_plugin_fuses_what_we_wrote(built: tuple[ModelHandle, Bundle]) -> None:
    """Products with codes, norms, rotations and caches: nothing is unpacked, and nothing computed piecemeal."""
    compiled = openvino.Core().compile_model(built[1].root / "openvino_model.xml", "CPU", GENAI)
    kinds = Counter(str(op.get_rt_info()["layerType"].value) for op in compiled.get_runtime_model().get_ops())
    assert {kind: kinds[kind] for kind in ("FullyConnected", "RMS", "RoPE", "ScaledDotProductAttention", "MatMul")} == {
        "FullyConnected": 2 * 7 + 1,
        "RMS": 2 * 2 + 1,
        "RoPE": 2 * 2,
        "ScaledDotProductAttention": 2,
        "MatMul": 0,
    }


@pytest.mark.parametrize("told", [None, "AVX2"])
def test_what_pytorch_and_workers_compute_with_is_left_alone(
    built: tuple[ModelHandle, Bundle], monkeypatch: pytest.MonkeyPatch, told: str | None
) -> None:
    """Their oneDNN reads the same variable: without AMX it rounds otherwise than in a process that has begun with it."""
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if told:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", told)
    assert not difference(open_tokenizer(built[0].root), built[1].root)
    open_folder("openvino", built[1].root, built[1].config, 8, 1, exact=True)
    assert os.environ.get("ONEDNN_MAX_CPU_ISA") == told


def test_a_session_forgets_and_counts(built: tuple[ModelHandle, Bundle]) -> None:
    session = open_folder("openvino", built[1].root, built[1].config, 8, 1, exact=True)
    whole = session.feed(PROMPT, keep=0).copy()
    assert whole.shape == (len(PROMPT), DEPLOYABLE["vocab_size"]) and whole.dtype == np.float32
    assert session.kv_bytes == 2 * 2 * 2 * 16 * 4 * len(PROMPT)
    session.rewind(3)
    assert session.position == 3
    np.testing.assert_allclose(session.feed(PROMPT[3:], keep=2), whole[3:], atol=1e-4)
    with pytest.raises(UsageError, match="do not fit in a context of 8"):
        session.feed(PROMPT)
    session.rewind(0)
    np.testing.assert_allclose(session.feed(PROMPT)[0], whole[-1], atol=1e-4)


def test_long_prompts_come_in_chunks(built: tuple[ModelHandle, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    session = open_folder("openvino", built[1].root, built[1].config, 32, 1, exact=True)
    whole = session.feed(PROMPT * 3, keep=0).copy()
    monkeypatch.setattr("deepseek_cli.runtime.openvino_session.CHUNK", 4)
    for keep in (0, 1, 6):
        session.rewind(0)
        np.testing.assert_allclose(session.feed(PROMPT * 3, keep), whole[-keep:], atol=1e-4)


def test_the_bundle_is_complete(built: tuple[ModelHandle, Bundle]) -> None:
    root = built[1].root
    parts = {f"openvino_{part}.{end}" for part in ("model", "tokenizer", "detokenizer") for end in ("xml", "bin")}
    assert {*parts, "tokenizer.json", "check.py"} < {file.name for file in root.iterdir()}
    assert "openvino_genai" in (root / "README.md").read_text()
    assert built[1].manifest.readers == ("deepseek", "openvino", "openvino-genai")
    assert not {"auto_map", "quantization_config"} & json.loads((root / "config.json").read_text()).keys()
    graph = openvino.Core().read_model(root / "openvino_model.xml")
    constants = [op for op in graph.get_ops() if op.get_type_name() == "Constant"]
    types = {op.get_friendly_name(): op.get_element_type().get_type_name() for op in constants}
    assert types["model.layers.0.mlp.down_proj.weight"] == "i4" and types["model.embed_tokens.weight"] == "i8"
    assert not any("lm_head" in name for name in types)  # tied: the embedding's own constant


@pytest.mark.parametrize("part", ["", "/scale"])
def test_one_changed_bit_fails_and_names_its_tensor(built: tuple[ModelHandle, Bundle], copy: Path, part: str) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    graph = (copy / "openvino_model.xml").read_text()
    offset = int(graph.split(f'name="{name}{part}"')[1].split('offset="')[1].split('"')[0])
    data = bytearray((copy / "openvino_model.bin").read_bytes())
    data[offset] ^= 1
    (copy / "openvino_model.bin").write_bytes(data)
    found = verify.verify(OPENVINO, built[0], copy, "weights", 1)
    assert (found["level"], found["failed"], found["checks"][-1]["differing"]) == ("L0", True, [name])


def test_changed_files_fail_at_the_structure(built: tuple[ModelHandle, Bundle], copy: Path, tmp_path: Path) -> None:
    assert OPENVINO.unexpected(built[0], copy, 1) == []
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"auto_map": {}, "rms_norm_eps": 5.0}))
    graph = (copy / "openvino_model.xml").read_text()
    (copy / "openvino_model.xml").write_text(graph.replace("beam_idx", "beams"))
    assert OPENVINO.unexpected(built[0], copy, 1) == ["beam_idx", "beams", "config.json: auto_map", "config.json: rms_norm_eps"]
    (copy / "openvino_detokenizer.xml").unlink()
    assert "openvino_detokenizer.xml" in OPENVINO.unexpected(built[0], copy, 1)


def test_another_models_tokenizer_fails_at_the_structure(built: tuple[ModelHandle, Bundle], copy: Path, tmp_path: Path) -> None:
    write_tokenizer(open_tokenizer(open_model("nano", Store(tmp_path)).root), copy, "nano")
    assert OPENVINO.unexpected(built[0], copy, 1) == ["openvino_tokenizer.xml"]
    (copy / "openvino_tokenizer.bin").write_bytes(b"")
    assert OPENVINO.unexpected(built[0], copy, 1) == ["openvino_tokenizer.xml"]


def test_a_cut_file_is_corrupt(built: tuple[ModelHandle, Bundle], copy: Path) -> None:
    (copy / "openvino_model.bin").write_bytes((copy / "openvino_model.bin").read_bytes()[:-500])
    with pytest.raises(ModelCorrupt, match=r"openvino_model\.xml cannot be loaded"):
        OPENVINO.open_folder(copy, built[1].config, 8, 1, True)


@pytest.mark.parametrize("first", DIGITS)
@pytest.mark.parametrize("spelled_out", [False, True])
def test_a_beginning_that_a_config_asks_for_and_single_digits_are_kept(
    tmp_path: Path, first: dict[str, Any], spelled_out: bool
) -> None:
    """Both are what the converter by itself leaves out."""
    make_toy(tmp_path / "toy", **DEPLOYABLE)
    tokenizer = json.loads((tmp_path / "toy" / "tokenizer.json").read_text())
    spaces = tokenizer["model"]["vocab"] | {"ĊĊ": 259, "ĠĠ": 260}  # which show where white space was cut
    tokenizer["model"] |= {"vocab": spaces, "merges": [["Ċ", "Ċ"], ["Ġ", "Ġ"]]}
    byte_level = tokenizer["pre_tokenizer"]
    rest = [isolated(GPT_2), byte_level | {"use_regex": False}] if spelled_out else [byte_level]
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [first, *rest]}
    (tmp_path / "toy" / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    (tmp_path / "toy" / "tokenizer_config.json").write_text(json.dumps(settings))
    ours = open_tokenizer(tmp_path / "toy")
    write_tokenizer(ours, tmp_path, "toy")
    encode = openvino.Core().compile_model(tmp_path / "openvino_tokenizer.xml", "CPU")
    text = TEXT.read_text(encoding="utf-8") + "\n\n1  2\n\nx  y"
    found = encode([text])["input_ids"][0].tolist()
    assert found == ours.encode(text, special=True)
    assert found[0] == 1 and 259 in found and 260 in found
    assert difference(ours, tmp_path) == ""


def test_a_tokenizer_that_openvino_does_not_follow_is_refused(tmp_path: Path) -> None:
    make_toy(tmp_path / "toy", **DEPLOYABLE)
    tokenizer = json.loads((tmp_path / "toy" / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "UnicodeScripts"}, tokenizer["pre_tokenizer"]]}
    (tmp_path / "toy" / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelUnsupported, match="tokenizer of toy cannot be carried to OpenVINO: the conversion fails") as caught:
        deployed(open_model(str(tmp_path / "toy"), Store(tmp_path)), tmp_path, "weights")
    assert caught.value.exit_code == 3 and "--target cpu" in str(caught.value)


def test_codes_in_an_order_of_their_own_are_dense_and_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "NEW_TOKENS", 4)
    make_toy(tmp_path / "toy", **DEPLOYABLE)
    to_gptq(tmp_path / "toy", act_order=True)
    found = deployed(open_model(str(tmp_path / "toy"), Store(tmp_path)), tmp_path)
    assert found["level"] == "L3"
    assert len(found["dense_fallbacks"]) == 14


@pytest.mark.parametrize(("bits", "group", "inputs"), [(4, 32, 96), (4, 96, 96), (8, 64, 96), (4, 128, 96), (8, 48, 48)])
@pytest.mark.parametrize("zero", [False, True])
def test_weights_come_back_bit_for_bit(bits: int, group: int, inputs: int, zero: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    groups = -(-inputs // group)
    codes = torch.randint(0, 1 << bits, (5, inputs), generator=draw, dtype=torch.uint8)
    zeros = torch.randint(0, 1 << bits, (5, groups), generator=draw, dtype=torch.uint8) if zero else None
    weight = QuantizedTensor(pack(codes, bits), torch.rand(5, groups, generator=draw), bits, group, zeros)
    held = hold(TensorRef("w", (5, inputs), "int", 0, lambda: weight))
    assert held.scale is not None and held.scale.dtype == torch.float32  # 24 bits, which float16 has not
    found = restore(held.codes, held.dtype, held.grouped, held.scale, held.zero)
    assert verify.same_bits(weight, found)
    assert torch.equal(dense(found), dense(weight))


def test_latent_attention_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnsupported, match=r"cannot hold latent attention yet\. Deploy it with --target cpu") as caught:
        deployed(open_model("nano", Store(tmp_path)), tmp_path, "weights")
    assert caught.value.exit_code == 3
    assert not (tmp_path / "bundle").exists()


def test_its_runtime_is_an_extra_and_may_be_too_old(
    built: tuple[ModelHandle, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    for level in ("weights", "tokens"):
        with pytest.raises(MissingExtra, match=r"openvino is not installed.*deepseek-cli\[openvino\]") as caught:
            deployed(built[0], tmp_path, level)
        assert caught.value.exit_code == 4
    with pytest.raises(MissingExtra, match="openvino is not installed"):
        open_session(built[1])
    monkeypatch.setattr(metadata, "version", lambda name: "2025.4.0")
    with pytest.raises(MissingExtra, match=r"openvino 2025\.4\.0 is installed, and ==2026\.4\.\* is needed"):
        deployed(built[0], tmp_path, "weights")


def test_options_of_other_caches_are_refused(built: tuple[ModelHandle, Bundle], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="chooses its own cache"):
        deployed(built[0], tmp_path, kv="fp16")
