from __future__ import annotations

from pathlib import Path

import pytest

from deepseek_cli.errors import UsageError
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.quantize.plan import make_plan
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.store import Store
from tests.toys import DEPLOYABLE, make_toy


def toy(tmp_path: Path, **settings: object) -> ModelHandle:
    make_toy(tmp_path, tokenizer=False, **{**DEPLOYABLE, **settings})
    return open_model(str(tmp_path), Store(tmp_path))


def schemes(handle: ModelHandle, **options: object) -> dict[str, str]:
    plan = make_plan(handle, QuantizeSpec(**options))  # type: ignore[arg-type]
    return {i.name.removesuffix(".weight"): "kept" if i.kept else str(i.scheme) for i in plan.items}


def test_defaults_quantize_linears_protect_the_ends_and_keep_norms(tmp_path: Path) -> None:
    found = schemes(toy(tmp_path, tie_word_embeddings=False))
    assert found["model.embed_tokens"] == found["lm_head"] == "int8-channel"
    assert found["model.layers.0.self_attn.q_proj"] == found["model.layers.1.mlp.down_proj"] == "int4-g32"
    assert found["model.norm"] == found["model.layers.0.input_layernorm"] == "kept"


def test_the_ends_are_as_fine_as_a_body_of_eight_bits(tmp_path: Path) -> None:
    model = toy(tmp_path)
    assert {*schemes(model, int8=True).values()} == {"int8-g32", "kept"}
    assert {*schemes(model, int8=True, group="channel").values()} == {"int8-channel", "kept"}
    assert schemes(model, int8=True, embeddings="int8-g64")["model.embed_tokens"] == "int8-g64"


def test_later_rules_win(tmp_path: Path) -> None:
    found = schemes(toy(tmp_path), rule=("*.mlp.*=int8", "*.layers.1.mlp.*=int4-g64"))
    assert found["model.layers.0.mlp.gate_proj"] == "int8-channel"
    assert found["model.layers.1.mlp.gate_proj"] == "int4-g64"


def test_a_rule_for_the_head_of_a_tied_model_means_its_embedding(tmp_path: Path) -> None:
    assert schemes(toy(tmp_path, tie_word_embeddings=True), rule=("lm_head=int4",))["model.embed_tokens"] == "int4-g32"


def test_a_rule_that_splits_fused_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"q_proj.*different schemes"):
        schemes(toy(tmp_path), rule=("*.q_proj=int8",))


def test_a_rule_that_matches_nothing_suggests_a_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"matches no weight.*down_proj"):
        schemes(toy(tmp_path), rule=("*.down_prj=int8",))


def test_a_rule_without_a_scheme_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="PATTERN=SCHEME"):
        schemes(toy(tmp_path), rule=("lm_head",))


def test_inputs_that_no_target_can_lay_out_stay_dense_with_their_reason(tmp_path: Path) -> None:
    handle = toy(tmp_path, intermediate_size=100)
    plan = make_plan(handle, QuantizeSpec())
    assert [i.name for i in plan.fallbacks] == [f"model.layers.{n}.mlp.down_proj.weight" for n in (0, 1)]
    assert "100 inputs" in plan.fallbacks[0].reason


def test_bf16_quantizes_nothing(tmp_path: Path) -> None:
    assert set(schemes(toy(tmp_path), scheme="bf16").values()) == {"bf16", "kept"}


def test_options_that_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="--int4 and --int8"):
        QuantizeSpec(int4=True, int8=True)
    with pytest.raises(UsageError, match="--group and --scheme"):
        QuantizeSpec(scheme="int4", group="64")


def test_the_default_group_follows_the_size() -> None:
    assert str(QuantizeSpec().resolve(999_999_999)) == "int4-g32"
    assert str(QuantizeSpec().resolve(1_000_000_000)) == "int4-g64"
    assert str(QuantizeSpec(int8=True).resolve(999_999_999)) == "int8-g32"
    assert str(QuantizeSpec(int8=True).resolve(1_000_000_000)) == "int8-channel"
    assert str(QuantizeSpec(int8=True, group="64").resolve(1)) == "int8-g64"
