"""What is estimated, against what publishers state, files hold, caches take and processes were measured to hold."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepseek_cli.handle import open_model
from deepseek_cli.profile import weights
from deepseek_cli.profile.devices import DEVICES, THIS, Device, this_machine
from deepseek_cli.profile.estimate import estimate, kv_bytes, read_bytes
from deepseek_cli.profile.fit import Need, fit
from deepseek_cli.profile.sketch import Sketch, open_sketch, total
from deepseek_cli.quantize.plan import make_plan
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.runtime.torch_session import TorchSession
from deepseek_cli.sources.embedded import DATA
from deepseek_cli.store import Store
from tests.cli.processes import start
from tests.conftest import Outcome
from tests.toys import DEPLOYABLE, make_toy, random_deepseek_settings

CONFIGS = Path(__file__).parent / "configs"
NAMES = ("DeepSeek-V3", "DeepSeek-V2-Lite", "DeepSeek-R1-Distill-Qwen-1.5B")
V3, V2_LITE, R1_DISTILL = (CONFIGS / f"{name}.json" for name in NAMES)
GB, GIB, MIB = 10**9, 1 << 30, 1 << 20
Cli = Callable[..., Outcome]
FRESH = """
import json, sys, time
from deepseek_cli.main import main
code = main(sys.argv[1:])
from deepseek_cli.profile.memory import peak
print(json.dumps([code, peak(), time.process_time(), sorted({"torch", "numpy", "onnx", "onnxruntime"} & {*sys.modules})]))
"""


def sketch_at(path: Path, **options: Any) -> Sketch:
    return open_sketch(str(path), Store(path.parent / "home"), **options)


# published: parameters, bytes of the files that hold them, bytes of KV cache for a token in 16 bits
@pytest.mark.parametrize(
    ("config", "parameters", "files_gb", "token_bytes"),
    [
        (R1_DISTILL, 1_777_088_000, 3.55, 28_672),
        (V2_LITE, 15_706_484_224, 8.59 * 3 + 5.64, 31_104),
        (V3, 671_026_419_200, 688.6 - 15.4, 70_272),  # its drafting layer is 15.4 GB, which decoding does not load
    ],
    ids=lambda value: value.stem if isinstance(value, Path) else "",
)
def test_published_sizes(config: Path, parameters: int, files_gb: float, token_bytes: int) -> None:
    sketch = sketch_at(config)
    assert sketch.parameters == parameters
    assert total(sketch.weights) == pytest.approx(files_gb * GB, rel=0.002)
    assert kv_bytes(sketch, "fp16") == token_bytes


def test_the_latent_cache_of_v3_at_its_longest() -> None:
    assert estimate(sketch_at(V3), 131_072, bandwidth=GB)["kv"]["full_bytes"] / GIB == pytest.approx(8.58, abs=0.005)


def test_a_token_of_v3_reads_the_37_billion_parameters_that_are_active() -> None:
    sketch = sketch_at(V3)
    one, every = (read_bytes(sketch, sketch.weights, batch) for batch in (1, 100_000))
    assert one == pytest.approx(37.6e9, rel=0.03)  # a byte each: the embedding, not read, weighs as the head's second bytes
    assert every == pytest.approx(total(sketch.weights), rel=0.003)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is the system's own on Linux")
def test_v3_is_estimated_in_a_second_without_torch(tmp_path: Path) -> None:
    done = start("profile", str(V3), "--estimate", "--context", "131072", code=FRESH, cwd=tmp_path)
    assert "8.58 GiB" in done.stdout
    code, peak, seconds, heavy = json.loads(done.stdout.splitlines()[-1])
    assert (code, heavy) == (0, [])
    assert peak < 150 * MIB
    assert seconds < 1.0


@pytest.mark.parametrize("family", ["llama", "qwen2", "deepseek_v2", "deepseek_v3"])
def test_a_config_alone_says_what_the_files_hold(tmp_path: Path, family: str) -> None:
    make_toy(tmp_path, family, tokenizer=False, **(random_deepseek_settings(family, 1) if "deepseek" in family else DEPLOYABLE))
    known = sketch_at(tmp_path).weights
    (tmp_path / "model.safetensors").unlink()
    counted = sketch_at(tmp_path).weights
    assert total(counted) == total(known) > 0
    assert weights.by_layer(counted) == weights.by_layer(known)


def test_fp8_blocks_are_counted_from_the_config() -> None:
    alone, known = sketch_at(DATA / "nano" / "config.json"), sketch_at(DATA / "nano")
    counted, held = ([{**form, "tensors": 0} for form in weights.by_form(s.weights)] for s in (alone, known))
    assert counted == held


@pytest.mark.parametrize("scheme", ["int4-g32", "int4-g64-asym", "int8", "bf16", "q4_k_m"])
def test_a_scheme_takes_what_quantize_would_write(scheme: str) -> None:
    handle = open_model(str(DATA / "nano"), Store(DATA))
    plan = make_plan(handle, QuantizeSpec(scheme=scheme))
    items = {item.name: item for item in plan.items if item.name in handle.weights}
    planned = type(plan)(tuple(items.values()), plan.scheme, plan.fused).bytes_with(handle.stored)
    quantized = [i for i in items.values() if i.scheme.bits < 16 and not i.scheme.block]
    counted = total(sketch_at(DATA / "nano" / "config.json", shapes_only=True).in_scheme(scheme))
    assert counted + 16 * len(quantized) == planned  # where compressed-tensors notes each shape


@pytest.mark.parametrize("family", ["llama", "deepseek_v2", "deepseek_v3", "deepseek_v32"])
def test_the_cache_takes_what_a_session_holds(tmp_path: Path, family: str) -> None:
    make_toy(tmp_path, family, tokenizer=False, **(random_deepseek_settings(family, 2) if "deepseek" in family else DEPLOYABLE))
    session = TorchSession(open_model(str(tmp_path), Store(tmp_path)), context=32)
    session.feed(list(range(20)))
    assert kv_bytes(sketch_at(tmp_path), "fp32") * 20 == session.kv_bytes


def test_an_eight_bit_cache_holds_its_scales() -> None:
    distill, lite = sketch_at(R1_DISTILL), sketch_at(V2_LITE)
    assert kv_bytes(distill, "int8") == 28 * 2 * 2 * (128 + 4)  # layers, keys and values, heads
    assert kv_bytes(lite, "int8") == 27 * (576 + 4)


def test_the_longest_context_is_the_last_that_fits() -> None:
    need = Need("as it is", 3 * GIB, 100 * MIB, 30_000, 3 * GIB)
    device = Device("toy", "toy", 4 * GIB, 0.9, GB)
    found = fit(device, [need], 4096, 10**9).largest_context
    assert need.at(found) <= device.usable_bytes < need.at(found + 1)
    assert fit(device, [need], 4096, 1000).largest_context == 1000


@pytest.mark.parametrize(("gib", "verdict"), [(10, "fits"), (3.5, "tight"), (3.0, "does not fit")])
def test_verdicts(gib: float, verdict: str) -> None:
    need = Need("as it is", 3 * GIB, 0, 1, 3 * GIB)
    found = fit(Device("toy", "toy", int(gib * GIB), 0.9, 30 * GIB), [need], 1, 1)
    assert found.verdict == verdict
    assert found.tokens_per_second == (None if verdict == "does not fit" else pytest.approx(10))


def test_the_scheme_that_fits_is_the_one_of_most_bits() -> None:
    sizes = {"as it is": 10, "int8": 6, "int4-g32": 3, "int4-g128": 2}
    needs = [Need(name, size * GIB, 0, 1, GIB) for name, size in sizes.items()]
    names = [fit(Device("toy", "toy", gib * GIB, 1.0, None), needs, 1, 1).scheme for gib in (12, 7, 4, 1)]
    assert names == ["as it is", "int8", "int4-g32", ""]


def test_more_bits_and_rows_and_tokens_take_more() -> None:
    sketch = sketch_at(R1_DISTILL)
    sizes = [estimate(sketch, 1024, scheme=s, bandwidth=GB)["total_bytes"] for s in ("int4-g128", "int4-g32", "int8", "bf16")]
    assert sizes == sorted(sizes)
    one, rows, tokens = (estimate(sketch, n, b, bandwidth=GB)["parts"][1]["bytes"] for n, b in ((1024, 1), (1024, 8), (8192, 1)))
    assert rows == tokens == 8 * one


def test_devices_have_names_of_their_own_and_sane_figures() -> None:
    assert len({device.name for device in DEVICES}) == len(DEVICES)
    assert all(d.memory_bytes >= GIB and 0 < d.usable <= 1 and 10 * GB <= (d.bandwidth or 0) < 10**14 for d in DEVICES)


def test_this_machine_is_measured() -> None:
    import psutil

    machine = this_machine()
    assert machine.memory_bytes <= psutil.virtual_memory().total
    assert GB < (machine.bandwidth or 0) < 5000 * GB
    assert this_machine(7).bandwidth == 7


def test_the_command_as_json(cli: Cli) -> None:
    done = cli("profile", V2_LITE, "--estimate", "--scheme", "int4", "--context", 8192, "--kv", "int8", "--batch", 2, "--json")
    assert done.code == 0
    found = done.json
    assert found["schema"] == "deepseek.estimate/1"
    assert {form["form"] for form in found["weights"]} == {"int4-g64", "int8-channel", "bf16"}
    cache = {"kind": "int8", "bytes_per_token": 15_660, "context": 8192, "batch": 2}
    assert found["kv"] == cache | {"full_bytes": 2 * 8192 * 15_660}
    devices = {row["device"]: row for row in found["devices"]}
    assert THIS in devices
    assert devices["iPhone 16, 8 GB"]["verdict"] == "does not fit"
    assert devices["RTX 4090, 24 GB"]["verdict"] == "fits"


def test_the_command_for_people(cli: Cli) -> None:
    done = cli("profile", R1_DISTILL, "--estimate", "--set", "bandwidth=35.5GB")
    assert done.code == 0
    assert "DeepSeek-R1-Distill-Qwen-1.5B needs" in done.out
    assert "at this machine's 36 GB/s" in done.out
    assert "8 × H200" in done.out


def test_quiet_is_the_total(cli: Cli) -> None:
    total_bytes = cli("profile", R1_DISTILL, "--estimate", "--json").json["total_bytes"]
    assert cli("profile", R1_DISTILL, "--estimate", "-q").out == f"{total_bytes}\n"


def test_the_peak_can_be_a_gate(cli: Cli) -> None:
    assert cli("profile", R1_DISTILL, "--estimate", "--max-peak", "8GiB").code == 0
    assert " is above 2.00 GiB." in cli("profile", R1_DISTILL, "--estimate", "--max-peak", "2GiB").out
    assert cli("profile", R1_DISTILL, "--estimate", "--max-peak", "2GiB").code == 1


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"hidden_size": -7168}, "hidden_size"),
        ({"n_routed_experts": 65536, "num_hidden_layers": 4096}, "268,304,384 experts"),
        ({"hidden_size": 1 << 20, "moe_intermediate_size": 1 << 22}, "parameters, which no machine holds"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "from the config alone"),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [0, 128]}}, "from the config alone"),
        ({"model_type": "nonesuch"}, "nonesuch"),
    ],
)
def test_absurd_configs_are_refused_at_once(tmp_path: Path, cli: Cli, change: dict[str, Any], word: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(V3.read_text()) | change))
    begun = time.process_time()
    done = cli("profile", path, "--estimate")
    assert done.code == 3
    assert word in done.err
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--scheme", "int5"], "int5"),
        (["--context", "1000000"], "--context"),
        (["--batch", "0"], "--batch"),
        (["--kv", "int2"], "int2"),
        (["--save", "x.json"], "--save"),
    ],
)
def test_options_that_an_estimate_cannot_have(cli: Cli, options: list[str], word: str) -> None:
    done = cli("profile", R1_DISTILL, "--estimate", *options)
    assert done.code == 2
    assert word in done.err


def test_options_of_an_estimate_need_one(cli: Cli) -> None:
    done = cli("profile", "nano", "--scheme", "int4")
    assert done.code == 2
    assert "--scheme is for --estimate" in done.err


def test_a_hub_model_is_known_by_the_config_in_the_cache(tmp_path: Path) -> None:
    snapshot = tmp_path / "hf" / "hub" / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(R1_DISTILL.read_text())
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    environ = {"HF_HOME": str(tmp_path / "hf"), "DEEPSEEK_HOME": str(tmp_path / "home"), "DEEPSEEK_LANG": "en"}
    found = start("profile", "hf:org/name", "--estimate", "--offline", "--json", env=environ, cwd=tmp_path)
    assert json.loads(found.stdout)["parameters"] == 1_777_088_000
    missing = start("profile", "hf:org/other", "--estimate", "--offline", env=environ, cwd=tmp_path)
    assert missing.returncode == 3
    assert "The config of hf:org/other is not on this machine." in missing.stderr
