"""What the work needs, what this machine could do, and files out of the page cache."""

from __future__ import annotations

import os

import pytest

from deepseek_cli.bench import starts
from deepseek_cli.bench.demand import demand, matrix
from deepseek_cli.bench.roofline import limits
from deepseek_cli.handle import open_model
from deepseek_cli.store import Store
from tests.toys import DEPLOYABLE, make_toy

ROOF = {"bytes_per_second": 1000, "matrix": {"fp32": {"operations_per_second": 100, "by": "x"}}}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "toy"
    make_toy(folder, **DEPLOYABLE)
    return open_model(str(folder), Store(folder.parent / "home"))


def test_a_token_reads_all_weights_but_the_embedding_and_the_cache(toy):
    needs = demand(toy, (8,), (4,), (0, 8), sparse=False)["needs"]
    embedding = toy.weights["model.embed_tokens.weight"]
    tied = toy.config.tied
    read = toy.size_bytes - (0 if tied else embedding.size_bytes * (1 - 1 / toy.config.vocabulary))
    token = 2 * toy.config.layers * toy.config.kv_heads * toy.config.head_dim * 4
    assert needs["decode@0"]["bytes"] == pytest.approx(read + 2 * token, abs=1)
    assert needs["decode@8"]["bytes"] - needs["decode@0"]["bytes"] == 8 * token
    assert needs["prefill@8"]["operations"] > 7 * needs["decode@0"]["operations"] * 0.5
    assert matrix(toy) == "fp32"


def test_sparse_attention_is_not_counted_and_says_so(toy):
    found = demand(toy, (8,), (4,), (0,), sparse=True)
    assert (found["needs"], list(found["missing"])) == ({}, ["touched@0"])


def test_the_slower_of_two_limits_binds():
    needs = {
        "decode@0": {"tokens": 1, "bytes": 100, "operations": 1},
        "prefill@8": {"tokens": 8, "bytes": 100, "operations": 80},
    }
    found = limits(needs, "fp32", ROOF, {"decode@0": 5.0, "prefill@8": 8.0})
    assert {name: (f["binds"], f["limit"], f["share"]) for name, f in found.items()} == {
        "decode@0": ("bandwidth", 10.0, 0.5),
        "prefill@8": ("fp32", 10.0, 0.8),
    }
    assert limits(needs, "int8", ROOF, {"prefill@8": 8.0})["prefill@8"]["binds"] == "bandwidth"


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system has no such call")
def test_a_dropped_file_is_out_of_the_page_cache_or_that_is_said(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(os.urandom(1 << 20))
    assert starts.drop([file]) in ("", starts.KEPT) or "upported" in starts.drop([file])
    assert starts.drop([]) == starts.KEPT


def test_a_system_without_the_call_says_so(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    assert starts.drop([tmp_path]) == starts.ELSEWHERE


def test_a_name_that_is_no_model_has_no_files(tmp_path):
    assert starts.files_of("nowhere", tmp_path) == []
