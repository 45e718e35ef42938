"""What each unit matters is what a model with only that unit rounded shows; and schemes chosen by it lose less at one size."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from deepseek_cli.deploy.engine import deploy
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.errors import ModelCorrupt, UsageError
from deepseek_cli.evaluate import HandlePredictor, compare, cut_windows
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.quantize.engine import Quantized, quantize
from deepseek_cli.quantize.plan import make_plan
from deepseek_cli.quantize.sensitivity import Measured, measure, options, rounded, size_of
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.reporter import Silent
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.runtime.torch_session import TorchSession
from deepseek_cli.schemes import parse_scheme
from deepseek_cli.store import Store
from deepseek_cli.tensors import TensorRef, dense
from tests.fp8_toys import DEEPSEEK
from tests.toys import DEPLOYABLE, make_toy

G64 = parse_scheme("int4-g64")
TOKENS = torch.arange(3, 195).view(3, 64)

pytestmark = pytest.mark.usefixtures("one_thread")


class Steps(Silent):
    """Notes the steps of the work; stops it at one of them, where asked."""

    def __init__(self, stop: str = "") -> None:
        self.seen: set[str] = set()
        self.stop = stop

    def progress(self, step: str, done: int, total: int, unit: str = "") -> None:
        self.seen.add(step)
        if step == self.stop:
            raise KeyboardInterrupt


@pytest.fixture
def llama(tmp_path: Path) -> ModelHandle:
    make_toy(tmp_path / "toy", **{**DEPLOYABLE, "tie_word_embeddings": False})
    return open_model(str(tmp_path / "toy"), Store(tmp_path))


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> ModelHandle:
    return open_model("nano", Store(tmp_path_factory.mktemp("store")))


def run(handle: ModelHandle, out: Path, reporter: Any = None, force: bool = False, **settings: Any) -> Quantized:
    spec = QuantizeSpec(**{"algorithm": "rtn", "report": False, **settings})
    return quantize(handle, spec, Store(out.parent), out, force=force, reporter=reporter or Silent())


def replaced(handle: ModelHandle, weights: dict[str, Tensor]) -> ModelHandle:
    def holding(ref: TensorRef, weight: Tensor) -> TensorRef:
        return dataclasses.replace(ref, read=lambda: weight)

    new = {f"{name}.weight": holding(handle.tensors[f"{name}.weight"], weight) for name, weight in weights.items()}
    return dataclasses.replace(handle, tensors={**handle.tensors, **new})


def divergence(handle: ModelHandle, measured: Measured, scheme: Any, tokens: Tensor) -> float:
    """Of a whole model whose files hold the unit rounded."""
    originals = {name: dense(handle.tensors[f"{name}.weight"].read()).float() for name in measured.unit}
    weights = {name: rounded(weight, scheme, measured.importance.get(name)) for name, weight in originals.items()}
    ours, theirs = HandlePredictor(handle, tokens), HandlePredictor(replaced(handle, weights), tokens)
    total = 0.0
    for window in range(len(tokens)):
        p, q = (model.logits(window, 0, tokens.shape[1]).log_softmax(-1) for model in (ours, theirs))
        total += (p.exp() * (p - q)).sum(-1).mean().item() / len(tokens)
    return total


@pytest.mark.parametrize("family", ["llama", "tied", "deepseek_v3"])
def test_a_unit_matters_what_the_model_with_it_rounded_shows(tmp_path: Path, family: str) -> None:
    settings = DEEPSEEK if family == "deepseek_v3" else {**DEPLOYABLE, "tie_word_embeddings": family == "tied"}
    make_toy(tmp_path / "toy", "llama" if family == "tied" else family, **settings)
    handle = open_model(str(tmp_path / "toy"), Store(tmp_path))
    units = make_plan(handle, QuantizeSpec()).units
    tokens = TOKENS % handle.config.vocabulary
    found = measure(handle, units, tokens, G64)
    assert [measured.unit for measured in found] == list(units)
    for measured in found:
        wanted = divergence(handle, measured, G64, tokens)
        assert wanted > 1e-5
        assert measured.kl == pytest.approx(wanted, rel=1e-3)
    head = "lm_head" if "lm_head.weight" in handle.tensors else "model.embed_tokens"
    assert sum(head in measured.importance for measured in found) == 1  # its inputs count, too


def test_inputs_count_by_their_mean_square(llama: ModelHandle) -> None:
    name = "model.layers.0.self_attn.q_proj"
    (measured,) = measure(llama, [[name]], TOKENS, G64)
    x = dense(llama.tensors["model.embed_tokens.weight"].read())[TOKENS]
    norm = dense(llama.tensors["model.layers.0.input_layernorm.weight"].read())
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + llama.config.norm_eps) * norm
    assert torch.allclose(measured.importance[name], x.square().mean((0, 1)), rtol=1e-4)


def test_units_are_what_shares_a_scheme_and_no_rule_holds(tmp_path: Path) -> None:
    make_toy(tmp_path / "toy", **{**DEPLOYABLE, "tie_word_embeddings": False})
    handle = open_model(str(tmp_path / "toy"), Store(tmp_path))
    units = make_plan(handle, QuantizeSpec(rule=("*.1.mlp.*=int8", "lm_head=int4"))).units
    layers = ["model.layers.0.{}", "model.layers.1.{}"]
    wanted = [{f"{layer}.{p}_proj" for p in "qkv"} for layer in (text.format("self_attn") for text in layers)]
    wanted += [{f"{layer}.o_proj"} for layer in (text.format("self_attn") for text in layers)]
    wanted += [{"model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"}, {"model.layers.0.mlp.down_proj"}]
    wanted += [{"model.embed_tokens"}]
    assert sorted(map(sorted, units)) == sorted(map(sorted, wanted))


def test_experts_of_a_layer_are_one_unit_and_what_is_protected_none(nano: ModelHandle) -> None:
    units = make_plan(nano, QuantizeSpec()).units
    named = [name for unit in units for name in unit]
    assert len(named) == len({*named})
    assert not any("kv_b_proj" in name or "layers.5" in name for name in named)  # 5 drafts: no divergence of the model's
    experts = [unit for unit in units if any(".experts." in name for name in unit)]
    assert [len(unit) for unit in experts] == [3 * 8] * 4


def test_divergence_grows_as_the_square_of_the_error(nano: ModelHandle) -> None:
    """What g64 was measured to cost says what others of 4 bits cost, within 40 %, and that 8 bits cost next to nothing."""
    tokens = cut_windows(open_tokenizer(nano.root), most=2).tokens
    units = [
        unit for unit in make_plan(nano, QuantizeSpec()).units if unit[0].endswith(("embed_tokens", "2.mlp.experts.0.gate_proj"))
    ]
    schemes = [parse_scheme(name) for name in ("int4-g128", "int4-g32", "int8-g32")]
    for measured in measure(nano, units, tokens, G64):
        for option in options(nano, measured, schemes):
            wanted = divergence(nano, measured, option.scheme, tokens)
            if option.scheme.bits == 4:
                assert 0.6 < option.kl / wanted < 1.4, (measured.unit[0], str(option.scheme))
            else:  # below all, tokens that change experts make the divergence larger than its law
                assert max(option.kl, wanted) < 0.05 * measured.kl
            assert option.size_bytes == size_of(nano, measured.unit, option.scheme)


def test_at_one_size_chosen_schemes_lose_less_than_one_for_all(nano: ModelHandle, tmp_path: Path) -> None:
    plain = run(nano, tmp_path / "plain", algorithm="imatrix", tokens=4096, scheme="int4-g32")
    chosen = run(nano, tmp_path / "chosen", algorithm="imatrix", tokens=4096, to_size=plain.size_bytes)
    assert plain.size_bytes * 0.99 < chosen.size_bytes <= plain.size_bytes
    windows = cut_windows(open_tokenizer(nano.root), most=4)
    reference = HandlePredictor(nano, windows.tokens)
    kl = [
        compare(reference, HandlePredictor(open_model(str(done.path), Store(tmp_path)), windows.tokens), windows)["kl"]
        for done in (plain, chosen)
    ]
    assert kl[1] < 0.9 * kl[0]  # type: ignore[operator]


def test_the_result_is_within_the_goal_and_says_how(llama: ModelHandle, tmp_path: Path) -> None:
    done = run(llama, tmp_path / "q", to_bpw=6.0, rule=("*.0.mlp.down_proj=int4-g32",))
    assert done.manifest is not None
    assert done.name.endswith("@6bpw-rtn")
    result = open_model(str(done.path), Store(tmp_path))
    assert 5.5 < 8 * result.size_bytes / result.parameters <= 6.0
    assert done.size_bytes == result.size_bytes
    record = done.manifest.steps[-1]["resolved"]["goal"]
    assert record["schemes"].keys() == {unit[0] for unit in done.plan.units}
    assert all(done.manifest.quantization[f"{name}.weight"] == scheme for name, scheme in record["schemes"].items())
    assert len({*record["schemes"].values()}) > 1
    assert done.manifest.quantization["model.layers.0.mlp.down_proj.weight"] == "int4-g32"
    assert [point["goal"] for point in done.frontier].count(True) == 1


def test_the_same_again_measures_nothing(llama: ModelHandle, tmp_path: Path) -> None:
    first = run(llama, tmp_path / "q", to_bpw=5.5)
    steps = Steps()
    again = run(llama, tmp_path / "q", steps, to_bpw=5.5)
    assert again.unchanged and not steps.seen
    assert again.plan == first.plan
    forced = run(llama, tmp_path / "q", Steps(), force=True, to_bpw=5.5)
    assert forced.manifest and first.manifest and forced.manifest.files == first.manifest.files
    with pytest.raises(UsageError, match="--force"):
        run(llama, tmp_path / "q", to_bpw=5.4)


def test_interrupted_work_goes_on_with_the_schemes_it_began_with(llama: ModelHandle, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"algorithm": "gptq", "tokens": 4096, "to_bpw": 5.5}
    with pytest.raises(KeyboardInterrupt):
        run(llama, tmp_path / "q", Steps(stop="calibrate"), **settings)
    begun = json.loads((tmp_path / "q.work" / "work.json").read_text())
    steps = Steps()
    done = run(llama, tmp_path / "q", steps, **settings)
    assert "calibrate" in steps.seen and "measure" not in steps.seen
    assert done.manifest and done.manifest.steps[-1]["resolved"]["goal"] == begun["goal"]


@pytest.mark.parametrize("settings", [{"to_bpw": 4.0}, {"to_bpw": 12.0}, {"to_size": 10_000}])
def test_a_goal_out_of_reach_names_what_is_in_it(llama: ModelHandle, tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="cannot be reached") as refused:
        run(llama, tmp_path / "q", **settings)
    facts: Any = refused.value.facts
    assert 4 < facts["least"] < facts["most"] < 10
    for edge in ("least", "most"):  # what is named is met, rounded inwards
        bits = facts[edge] + (1e-6 if edge == "least" else -1e-6)
        assert abs(8 * run(llama, tmp_path / edge, to_bpw=bits).size_bytes / llama.parameters - facts[edge]) < 0.05


def test_a_goal_with_nothing_to_choose_is_refused(llama: ModelHandle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="by a rule"):
        run(llama, tmp_path / "q", to_bpw=5.0, rule=("*=int4",))


def test_a_damaged_weight_is_named(llama: ModelHandle, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj"
    damaged = replaced(llama, {name: torch.full(llama.tensors[f"{name}.weight"].shape, torch.nan)})
    with pytest.raises(ModelCorrupt) as refused:
        run(damaged, tmp_path / "q", to_bpw=5.0)
    assert refused.value.facts["tensor"] == f"{name}.weight"


@pytest.mark.parametrize("scheme", ["int4", "int4-asym", "int4-pos"])
def test_a_mixed_model_deploys_bit_for_bit(llama: ModelHandle, tmp_path: Path, scheme: str) -> None:
    done = run(llama, tmp_path / "q", to_bpw=6.5, scheme=scheme)
    assert len({str(item.scheme) for item in done.plan.items if not item.kept}) > 1
    assert all(str(i.scheme).endswith(scheme.removeprefix("int4")) for i in done.plan.items if not i.kept)
    bundle = deploy(
        open_model(str(done.path), Store(tmp_path)), DeploySpec(verify="tokens"), Store(tmp_path), tmp_path / "b", threads=1
    )
    assert (bundle.verification["level"], bundle.verification["failed"]) == ("L3", False)


def test_transformers_reads_a_mixed_model_whose_embeddings_are_dense(llama: ModelHandle, tmp_path: Path) -> None:
    done = run(llama, tmp_path / "q", to_bpw=9.5, embeddings="bf16")
    assert done.manifest and "transformers" in done.manifest.readers
    assert len({*done.manifest.quantization.values()}) > 1
    tokens = torch.arange(3, 60)[None]
    with torch.inference_mode():
        wanted = AutoModelForCausalLM.from_pretrained(tmp_path / "q", dtype=torch.float32)(tokens).logits[0]
    session = TorchSession(open_model(str(tmp_path / "q"), Store(tmp_path)), 64)
    found = torch.from_numpy(session.feed(tokens[0].tolist(), keep=0))
    assert (found - wanted).abs().max() <= 1e-5 * (wanted.max() - wanted.min())
