from __future__ import annotations

import json

from deepseek_cli.profile import report
from deepseek_cli.profile.advice import advise
from deepseek_cli.profile.whatif import cache_bytes
from tests.profile.documents import MIB, document, first_schema, what_if


def found(**changes: object) -> dict[str, list[int]]:
    made: dict[str, list[int]] = {}
    for advice in advise({**document(), **changes}):
        made.setdefault(advice["kind"], []).append(advice["saves_bytes"])
    return made


def test_savings_are_exact_and_largest_first() -> None:
    model, advice = what_if(3), advise(document())
    sizes = [a["saves_bytes"] for a in advice]
    assert sizes == sorted(sizes, reverse=True)
    full, narrow = (cache_bytes(model, 800, kv) for kv in ("fp32", "int8"))
    assert found()["kv"] == [full - narrow, full // 2]
    assert found()["scheme"] == [8 * MIB]  # int4-g32; int8 would take more than the model does
    assert found()["load"] == [60 * MIB]
    assert found()["prepacked"] == [9 * MIB + 7]


def test_a_dense_embedding_and_pytorch_are_advised_on() -> None:
    dense = {"name": "embed", "layer": "embedding", "form": "f32", "parameters": 10 * MIB, "bytes": 40 * MIB}
    assert found(tensors=[dense])["dense_embedding"] == [30 * MIB]
    model = {**document()["model"], "runtime": "PyTorch"}
    assert found(model=model)["bundle"] == [20 * MIB + 7 - 600_256]


def test_nothing_is_advised_on_what_was_not_measured() -> None:
    assert found(moments=[], phases=[], kv=None, what_if=None, tensors=[]) == {}
    assert {a["kind"] for a in advise(first_schema())} <= {"load", "transient", "prepacked"}


def test_every_kind_has_a_sentence() -> None:
    texts = json.loads((report.TEMPLATES / "texts.json").read_text(encoding="utf-8"))["en"]
    every = {"scheme", "bundle", "dense_embedding", "dense_head", "kv", "load"}
    every |= {"prepacked", "arena_slack", "heap_free", "transient", "logits"}
    assert every == {key.removeprefix("advice.") for key in texts if key.startswith("advice.")} - {"lede"}
    assert set(found()) <= every
