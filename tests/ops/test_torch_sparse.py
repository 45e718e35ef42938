from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from deepseek_cli.errors import UsageError
from deepseek_cli.handle import open_model
from deepseek_cli.ops import AttentionSpec, LatentSpec, Rope, SparseSpec
from deepseek_cli.ops import torch_sparse as sparse
from deepseek_cli.ops.pages import PAGE, Attended
from deepseek_cli.ops.torch_ops import KVCache, TorchOps
from deepseek_cli.ops.torch_sparse import PagedCache, SparseOps
from deepseek_cli.runtime.session import open_session
from deepseek_cli.store import Store
from tests.toys import make_toy, random_deepseek_settings

CHANNELS = 10


def attention_spec(heads: int, kv_heads: int) -> AttentionSpec:
    return AttentionSpec(heads, kv_heads, CHANNELS, CHANNELS**-0.5, Rope((1.0,) * (CHANNELS // 2)))


def draw(heads: int, kv_heads: int, length: int, batch: int = 1, seed: int = 0) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(batch, n, length, CHANNELS) for n in (heads, kv_heads, kv_heads)]


def feed(
    ops_of: type, cache: KVCache, tensors: list[torch.Tensor], steps: list[int], spec: AttentionSpec, **more
) -> torch.Tensor:
    """What attention gives for a text that comes in pieces of `steps` tokens."""
    pieces = zip(*(t.split(steps, dim=2) for t in tensors), strict=True)
    outputs = []
    for q, k, v in pieces:
        outputs.append(ops_of({}, cache, **more).attend(q.clone(), k, v, 0, spec))
        cache.length += q.shape[2]
    return torch.cat(outputs, dim=2)


@pytest.mark.parametrize("steps", [[300], [1] * 20 + [280], [37, 3, 1, 200, 59], [96, 4, 200]], ids=str)
@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (3, 3), (4, 1)])
def test_enough_tokens_are_dense_attention(steps: list[int], heads: int, kv_heads: int) -> None:
    tensors, spec = draw(heads, kv_heads, 300, batch=2), attention_spec(heads, kv_heads)
    dense = feed(TorchOps, KVCache(300), tensors, steps, spec)
    torch.testing.assert_close(feed(SparseOps, PagedCache(300), tensors, steps, spec, sparse=SparseSpec(300)), dense)


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, allowed: torch.Tensor, scale: float) -> torch.Tensor:
    """One head: q [new, channels], allowed [new, total]."""
    return (q @ k.T * scale).masked_fill(~allowed, float("-inf")).softmax(-1) @ v


@pytest.mark.parametrize(("past", "new", "most"), [(0, 400, 128), (0, 330, 100), (7, 391, 144), (45, 300, 64), (320, 80, 200)])
def test_a_block_attends_to_the_pages_it_chose_and_nothing_else(
    past: int, new: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Choices are recorded, turned into masks, and attention is computed plainly under them."""
    heads, kv_heads, spec = 4, 2, attention_spec(4, 2)
    q, k, v = draw(heads, kv_heads, past + new)
    chosen: list[tuple[int, int, torch.Tensor]] = []
    choose = sparse.choose

    def spy(blocks, bounds, start, newest, most, scale):
        pages = choose(blocks, bounds, start, newest, most, scale)
        chosen.append((start, blocks.shape[3], pages))
        return pages

    monkeypatch.setattr(sparse, "choose", spy)
    cache = PagedCache(past + new)
    count = Attended()
    if past:
        feed(SparseOps, cache, [t[:, :, :past] for t in (q, k, v)], [past], spec, sparse=SparseSpec(most))
        chosen.clear()
    own = q[:, :, past:].clone()
    found = SparseOps({}, cache, sparse=SparseSpec(most), attended=count).attend(own, k[:, :, past:], v[:, :, past:], 0, spec)
    assert found.data_ptr() == own.data_ptr()
    causal = torch.ones(new, past + new, dtype=torch.bool).tril(past)
    allowed = causal.expand(kv_heads, -1, -1).clone()
    for start, block, pages in chosen:
        for head in range(kv_heads):
            for i, row in enumerate(pages[head]):
                assert len(set(row.tolist())) == len(row) <= most // PAGE and 0 in row
                first = start - past + i * block
                keys = torch.zeros(past + new + PAGE, dtype=torch.bool)
                keys[(row[:, None] * PAGE + torch.arange(PAGE)).flatten()] = True
                allowed[head, first : first + block] &= keys[: past + new]
    for head in range(heads):
        wanted = plain(q[0, head, past:], k[0, head // 2], v[0, head // 2], allowed[head // 2], spec.scale)
        torch.testing.assert_close(found[0, head], wanted)
    assert count.pairs == 2 * int(allowed.sum())
    assert (count.of, count.queries) == (heads * int(causal.sum()), heads * new)
    assert int(allowed.sum(-1).max()) <= most
    assert chosen


def test_one_query_attends_to_the_pages_that_promise_most() -> None:
    """A page that holds exactly what the query looks for is found, wherever it is."""
    spec, total = attention_spec(2, 1), 40 * PAGE
    k, v = torch.randn(1, 1, total, CHANNELS) * 0.1, torch.randn(1, 1, total, CHANNELS)
    q = torch.full((1, 2, 1, CHANNELS), 3.0)
    k[:, :, 17 * PAGE + 5] = 3.0
    cache = PagedCache(total)
    found = feed(
        SparseOps,
        cache,
        [torch.zeros(1, 2, total - 1, CHANNELS), k[:, :, :-1], v[:, :, :-1]],
        [total - 1],
        spec,
        sparse=SparseSpec(64),
    )
    found = SparseOps({}, cache, sparse=SparseSpec(64)).attend(q.clone(), k[:, :, -1:], v[:, :, -1:], 0, spec)
    torch.testing.assert_close(found[0, :, 0], v[0, :, 17 * PAGE + 5].expand(2, -1), atol=1e-3, rtol=0)


def test_several_new_tokens_give_what_one_after_another_does() -> None:
    """So a guess that is checked beside its token changes nothing."""
    tensors, spec = draw(6, 2, 203), attention_spec(6, 2)
    one = feed(SparseOps, PagedCache(203), tensors, [200, 1, 1, 1], spec, sparse=SparseSpec(80))
    all_at_once = feed(SparseOps, PagedCache(203), tensors, [200, 3], spec, sparse=SparseSpec(80))
    torch.testing.assert_close(all_at_once, one)


def test_bounds_follow_what_is_rewound_and_appended_again() -> None:
    tensors, spec = draw(2, 2, 150), attention_spec(2, 2)
    straight, rewound = PagedCache(150), PagedCache(150)
    feed(SparseOps, straight, tensors, [150], spec, sparse=SparseSpec(64))
    feed(SparseOps, rewound, draw(2, 2, 150, seed=1), [150], spec, sparse=SparseSpec(64))
    rewound.length = 0
    feed(SparseOps, rewound, tensors, [5, 1, 60, 84], spec, sparse=SparseSpec(64))
    torch.testing.assert_close(rewound.bounds[0][:, :, : 150 // PAGE], straight.bounds[0][:, :, : 150 // PAGE])


def test_the_bounds_take_an_eighth_of_the_keys() -> None:
    cache = PagedCache(64)
    cache.append(0, torch.zeros(1, 2, 5, 8), torch.zeros(1, 2, 5, 8))
    keys = 2 * 8 * 4
    assert cache.bytes_per_token == 2 * keys + keys // 8


def test_the_least_active_heads_give_nothing() -> None:
    tensors, spec = draw(6, 2, 256), attention_spec(6, 2)
    tensors[0][:, 4] *= 0  # attends to everything alike, so to little in the mean
    dense = feed(TorchOps, KVCache(256), tensors, [256], spec)
    count = Attended()
    found = feed(SparseOps, PagedCache(256), tensors, [256], spec, sparse=SparseSpec(heads=0.8), attended=count)
    silent = [head for head in range(6) if not found[0, head].any()]
    assert silent == [4]
    kept = [head for head in range(6) if head != 4]
    torch.testing.assert_close(found[:, kept], dense[:, kept])
    assert count.pairs == count.of * 5 // 6


def latent_spec() -> LatentSpec:
    return LatentSpec(4, 6, 4, 5, 12, 0.3, Rope((1.0, 0.1)), 1e-6)


def test_decoding_chooses_latents() -> None:
    torch.manual_seed(0)
    spec, cache = latent_spec(), PagedCache(200)
    up, q = torch.randn(4 * 11, 12), torch.randn(1, 4, 1, 10)
    (rows,) = cache.append(0, torch.randn(1, 1, 200, 16))
    count = Attended()

    def attend(tokens: int) -> torch.Tensor:
        ops = SparseOps({}, cache, sparse=SparseSpec(tokens), attended=count)
        return ops.attend_latents(q, rows, up, 0, spec, None)

    dense = TorchOps({}, cache).attend_latents(q, rows, up, 0, spec, None)
    torch.testing.assert_close(attend(200), dense)
    assert not torch.allclose(attend(64), dense)
    assert (count.pairs, count.of) == (4 * (200 + 64), 4 * 400)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("tokens=256", SparseSpec(256)),
        ("heads=0.75", SparseSpec(heads=0.75)),
        ("heads=.5, tokens=64", SparseSpec(64, 0.5)),
        ("heads=1", SparseSpec()),
    ],
)
def test_options(text: str, spec: SparseSpec) -> None:
    assert SparseSpec.parse(text) == spec


@pytest.mark.parametrize(
    "text",
    [
        "",
        "256",
        "tokens",
        "tokens=many",
        "tokens=10",
        "heads=0",
        "heads=2",
        "heads=nan",
        "keys=3",
        "tokens=64,tokens=80",
        "tokens=64,",
    ],
)
def test_mistakes(text: str) -> None:
    with pytest.raises(UsageError, match="--sparse-attention"):
        SparseSpec.parse(text)


def test_the_reference_is_what_pytorch_computes() -> None:
    q, k, v = (t[0, 0] for t in draw(1, 1, 20))
    causal = torch.ones(20, 20, dtype=torch.bool).tril()
    torch.testing.assert_close(plain(q, k, v, causal, 0.3), F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3))


@pytest.mark.parametrize("family", ["deepseek_v2", "deepseek_v32"])
def test_latent_models_run_and_keep_their_heads(tmp_path: Path, family: str) -> None:
    make_toy(tmp_path / "toy", family, **random_deepseek_settings(family, 3))
    model = open_model(str(tmp_path / "toy"), Store(tmp_path / "home"))
    dense, some = (open_session(model, sparse=spec) for spec in (None, SparseSpec(64)))
    for session in (dense, some):
        session.feed(list(range(3, 60)) * 2)
    first, second = (torch.tensor(session.feed([5])) for session in (dense, some))
    assert bool(torch.allclose(first, second, atol=1e-5)) == (family == "deepseek_v32")  # whose own indexer chooses
    with pytest.raises(UsageError, match="keeps all its heads"):
        open_session(model, sparse=SparseSpec(heads=0.5))
