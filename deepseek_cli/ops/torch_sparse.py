"""Dynamic sparse attention for models that were trained without it, computed with PyTorch: queries attend to some pages of keys.

A page is 16 keys. Quest (arXiv 2406.10774, section 3.3) bounds what a query can find in one by the extremes that each channel
takes there: Σ_c max(q_c · min_c, q_c · max_c) = q · (max + min) / 2 + |q| · (max - min) / 2. As measured, pages are chosen better
with their mean for the middle and a quarter of the half-range. The first page (the attention sink, arXiv 2309.17453) and the
newest are always attended to.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from deepseek_cli.ops import AttentionSpec, LatentSpec, SparseSpec
from deepseek_cli.ops.pages import PAGE, RECENT, TRUST, Attended, pairs
from deepseek_cli.ops.torch_latent import absorb_queries, absorbed
from deepseek_cli.ops.torch_ops import KVCache, TorchOps, causal_mask

BLOCK = 32  # queries that share their pages; more are faster, and choose worse
VOTERS = 8  # queries whose mean votes for pages
GATHERED = 1 << 17  # values of chosen keys at once, for each thread
SPAN = 1024  # queries that choose at once
SHORT = 4  # up to so many queries choose alone, so that a guess checked beside its token changes nothing
SAMPLE = 64  # one query in so many tells how active a head is


class PagedCache(KVCache):
    """A KV cache with bounds for every full page of a layer's keys: [batch, heads, pages, mean | TRUST * half-range]."""

    def __init__(self, context: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        super().__init__(-(-context // PAGE) * PAGE, dtype, device)
        self.bounds: dict[Hashable, Tensor] = {}

    @property
    def bytes_per_token(self) -> int:
        return super().bytes_per_token + sum(t.nbytes // self.context for t in self.bounds.values())

    def append(self, layer: Hashable, *new: Tensor) -> list[Tensor]:
        rows = super().append(layer, *new)
        keys = rows[0]
        if not isinstance(layer, int):  # what an indexer keeps
            return rows
        if layer not in self.bounds:
            shape = (*keys.shape[:2], self.context // PAGE, 2 * keys.shape[3])
            self.bounds[layer] = torch.empty(shape, dtype=self.dtype, device=self.device)
        first, full = self.length // PAGE, keys.shape[2] // PAGE
        if full > first:
            filled = keys[:, :, first * PAGE : full * PAGE].unflatten(2, (-1, PAGE))
            radius = (filled.amax(3) - filled.amin(3)).mul_(TRUST / 2)
            self.bounds[layer][:, :, first:full] = torch.cat((filled.mean(3), radius), dim=-1)
        return rows


class SparseOps(TorchOps):
    """Leaves out keys and heads as `sparse` says. It computes only: q is overwritten, so nothing can be trained through it."""

    def __init__(
        self,
        weights: Callable[[str], Tensor | None] | Mapping[str, Tensor],
        cache: KVCache | None = None,
        keep: int = 0,
        *,
        sparse: SparseSpec,
        attended: Attended | None = None,
    ) -> None:
        super().__init__(weights, cache, keep)
        self.sparse, self.attended = sparse, attended or Attended()

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int, spec: AttentionSpec) -> Tensor:
        cache = self.cache or PagedCache(k.shape[2], k.dtype, str(k.device))
        assert isinstance(cache, PagedCache)
        cache.append(layer, k, v)
        keys, values = cache.rows[layer]
        return attend(q, keys, values, cache.bounds[layer], cache.length, spec.scale, self.sparse, self.attended)

    def attend_latents(
        self, q: Tensor, rows: Tensor, up: Tensor, layer: int, spec: LatentSpec, selected: Tensor | None
    ) -> Tensor:
        """Few queries choose rows of latents, each for all heads at once; many see them all, as does a model with an indexer."""
        past, new, most = rows.shape[2] - q.shape[2], q.shape[2], self.sparse.tokens or rows.shape[2]
        bounds = self.cache.bounds[layer] if isinstance(self.cache, PagedCache) else None
        few = bounds is not None and selected is None and new <= SHORT
        self.attended.expect(spec.heads * len(q), past, new)
        self.attended.pairs += spec.heads * len(q) * pairs(past, new, most if few else past + new)
        if bounds is None or not few:
            return super().attend_latents(q, rows, up, layer, spec, selected)
        each = [attend_latent(q[:, :, i : i + 1], rows[:, 0, : past + i + 1], bounds, up, most, spec) for i in range(new)]
        return torch.cat(each, dim=2)


def attend(
    q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, past: int, scale: float, sparse: SparseSpec, count: Attended
) -> Tensor:
    """q [batch, heads, new, channels], overwritten by what is given back; k, v [batch, kv_heads, context, channels].

    bounds [batch, kv_heads, context / PAGE, 2 * channels]. The queries stand at `past`, and their own keys are in k.
    """
    batch, heads, new, _ = q.shape
    group, most = heads // k.shape[1], sparse.tokens or past + new
    count.expect(batch * heads, past, new)
    if new <= SHORT:
        count.pairs += batch * heads * pairs(past, new, most)
        for i in range(new):
            q[:, :, i] = attend_one(q[:, :, i], k, v, bounds, past + i + 1, most, scale)
        return q
    for b in range(batch):
        active = active_heads(q[b], k[b, :, : past + new], v[b], past, scale, sparse.heads)
        if active is None:
            count.pairs += attend_many(q[b], k[b], v[b], bounds[b], past, most, scale)
            continue
        q[b, ~active] = 0
        for head, own in enumerate(active.view(-1, group)):
            if own.any():
                at, one = head * group + own.nonzero()[:, 0], slice(head, head + 1)
                kept = q[b, at]
                count.pairs += attend_many(kept, k[b, one], v[b, one], bounds[b, one], past, most, scale)
                q[b, at] = kept
    return q


def attend_one(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, total: int, most: int, scale: float) -> Tensor:
    """One query, at `total` - 1, each group of heads with pages of its own: q [batch, heads, channels] to the same shape."""
    batch, kv_heads, _, channels = k.shape
    q = q.unflatten(1, (kv_heads, -1))  # [batch, kv_heads, group, channels]
    if total <= most:
        return F.scaled_dot_product_attention(q, k[:, :, :total], v[:, :, :total], scale=scale).flatten(1, 2)
    pages, width = choose_for_one(q, bounds, total, most, scale)
    flat = pages + torch.arange(batch * kv_heads, device=q.device).view(batch, kv_heads, 1) * bounds.shape[2]
    take = lambda t: F.embedding(flat, t.view(-1, PAGE * channels)).view(batch, kv_heads, -1, channels)[:, :, :width]  # noqa: E731
    return F.scaled_dot_product_attention(q, take(k), take(v), scale=scale).flatten(1, 2)


def attend_latent(q: Tensor, rows: Tensor, bounds: Tensor, up: Tensor, most: int, spec: LatentSpec) -> Tensor:
    """One query q [batch, heads, 1, nope + rope] over the latents it chooses of rows [batch, total, rank + rope]."""
    if rows.shape[1] > most:
        met = absorb_queries(q, up, spec)[0][:, None, :, 0]  # [batch, 1, heads, rank + rope]
        pages, width = choose_for_one(met, bounds, rows.shape[1], most, spec.scale)
        keys = (pages[:, 0, :, None] * PAGE + torch.arange(PAGE, device=q.device)).flatten(1)[:, :width]
        rows = rows.gather(1, keys[..., None].expand(-1, -1, rows.shape[2]))
    return absorbed(q, rows, up, spec, None)


def choose_for_one(q: Tensor, bounds: Tensor, total: int, most: int, scale: float) -> tuple[Tensor, int]:
    """Pages [batch, kv_heads, pages], the newest last, and how many of their keys are there already."""
    last = (total - 1) // PAGE
    votes = (torch.cat((q, q.abs()), dim=-1) @ bounds[:, :, : last - RECENT].mT * scale).softmax(-1).sum(2)
    votes[..., 0] = float("inf")
    best = votes.topk(most // PAGE - RECENT - 1, sorted=False).indices
    newest = torch.arange(last - RECENT, last + 1, device=q.device).expand(*best.shape[:2], -1)
    return torch.cat((best, newest), dim=-1), (best.shape[-1] + RECENT) * PAGE + (total - 1) % PAGE + 1


def attend_many(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, past: int, most: int, scale: float) -> int:
    """q [heads, new, channels] overwritten; k, v [kv_heads, context, channels]. Gives back the pairs attended to."""
    new, block = q.shape[1], BLOCK if most >= 4 * BLOCK else BLOCK // 2
    dense = min(new, max(0, most - past) // block * block) if past + new > most else new
    if dense:  # queries that see no more than `most` keys anyway
        end, early = past + dense, q[None, :, :dense]
        mask = causal_mask(early, k[None, :, :end])
        q[:, :dense] = F.scaled_dot_product_attention(
            early, k[None, :, :end], v[None, :, :end], attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
        )[0]
    done = len(q) * pairs(past, dense, past + dense)
    for first, last, size in spans(dense, new, block):
        done += attend_blocks(q[:, first:last], k, v, bounds, past + first, size, most, scale)
    return done


def spans(first: int, end: int, block: int) -> Iterator[tuple[int, int, int]]:
    """(first, last, block) of runs of equal blocks; what is left is a smaller block."""
    whole = first + (end - first) // block * block
    for start in range(first, whole, SPAN):
        yield start, min(start + SPAN, whole), block
    if whole < end:
        yield whole, end, end - whole


def attend_blocks(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, start: int, block: int, most: int, scale: float) -> int:
    """Queries at `start`, q [heads, blocks * block, channels]; each block of each group of heads has pages of its own."""
    kv_heads, channels, shift = k.shape[0], k.shape[2], start % PAGE
    blocks = (
        q.unflatten(1, (-1, block)).unflatten(0, (kv_heads, -1)).transpose(1, 2)
    )  # [kv_heads, blocks, group, block, channels]
    newest = -(-(shift + block) // PAGE) + RECENT  # pages
    pages = choose(blocks, bounds, start, newest, most, scale)  # [kv_heads, blocks, pages]
    width = (pages.shape[2] - newest + RECENT) * PAGE + shift + block
    future = torch.full((block, block), float("-inf"), dtype=q.dtype, device=q.device).triu(1)
    for head, own in enumerate(blocks):
        keys, values = k[head].view(-1, PAGE * channels), v[head].view(-1, PAGE * channels)
        step = -(-len(own) // -(-pages[head].numel() * PAGE * channels // (GATHERED * torch.get_num_threads())))
        for part, index in zip(own.split(step), pages[head].split(step), strict=True):
            attend_pages(part, keys, values, index, width, future, scale)
    return pages.shape[1] * len(q) * (block * (width - block) + block * (block + 1) // 2)


def attend_pages(q: Tensor, k: Tensor, v: Tensor, pages: Tensor, width: int, future: Tensor, scale: float) -> None:
    """q [n, group, block, channels] overwritten; pages [n, pages], of whose keys the first `width` are attended to."""
    index = pages.flatten()
    gathered = k.index_select(0, index)
    keys = gathered.view(len(q), -1, q.shape[-1])[:, :width]
    scores = torch.baddbmm(keys.new_empty(1), q.flatten(1, 2), keys.mT, beta=0, alpha=scale)
    scores.unflatten(1, (-1, len(future)))[..., -len(future) :] += future
    torch.softmax(scores, -1, out=scores)
    torch.index_select(v, 0, index, out=gathered)  # values take the place of the keys
    q.copy_((scores @ keys).view(q.shape))


def choose(blocks: Tensor, bounds: Tensor, start: int, newest: int, most: int, scale: float) -> Tensor:
    """Pages [kv_heads, blocks, pages]: the first, those with most votes, and the `newest`, which end with a block's own."""
    kv_heads, count, _, block, _ = blocks.shape
    first = (start + block * torch.arange(count, device=bounds.device)).div(PAGE, rounding_mode="floor")[:, None] - RECENT
    votes = vote(blocks, bounds[:, : (start + block * count) // PAGE], first + newest, scale)
    votes.masked_fill_(torch.arange(votes.shape[-1], device=votes.device) >= first, -1.0)
    votes[..., 0] = 2.0
    best = votes.topk(most // PAGE - newest, sorted=False).indices
    local = (first + torch.arange(newest, device=votes.device)).expand(kv_heads, -1, -1)
    return torch.cat((best, local), dim=-1)


def vote(blocks: Tensor, bounds: Tensor, ends: Tensor, scale: float) -> Tensor:
    """What share of their attention the queries of each block expect in each page before its end: [kv_heads, blocks, pages].

    blocks [kv_heads, blocks, group, block, channels], ends [blocks, 1]
    """
    count, block = blocks.shape[1], blocks.shape[3]
    voters = VOTERS if block % VOTERS == 0 else 1
    mean = blocks.unflatten(3, (-1, voters)).sum(4)  # [kv_heads, blocks, group, block / voters, channels]
    rows = mean.flatten(1, 3)
    expected = (torch.cat((rows, rows.abs()), dim=-1) @ bounds.mT).mul_(scale / voters)
    expected = expected.unflatten(1, (count, -1))
    hidden = torch.arange(bounds.shape[1], device=bounds.device) >= ends
    return expected.masked_fill_(hidden[:, None], float("-inf")).softmax(-1).mean(2)


def active_heads(q: Tensor, k: Tensor, v: Tensor, past: int, scale: float, share: float | None) -> Tensor | None:
    """bool [heads]: those whose attention, of a sample of the queries, gives most. None for all, and for too few queries."""
    heads, new, _ = q.shape
    if share is None or new < SAMPLE:
        return None
    at = torch.arange(SAMPLE - 1, new, SAMPLE, device=q.device)
    some = q[:, at].unflatten(0, (k.shape[0], -1)).flatten(1, 2)  # [kv_heads, group * sample, channels]
    scores = (some @ k.mT * scale).unflatten(1, (-1, len(at)))
    scores.masked_fill_(torch.arange(k.shape[1], device=q.device) > past + at[:, None], float("-inf"))
    given = scores.softmax(-1).flatten(1, 2) @ v[:, : k.shape[1]]
    kept = given.norm(dim=-1).view(heads, -1).mean(-1).topk(max(1, round(share * heads))).indices
    return torch.zeros(heads, dtype=torch.bool, device=q.device).index_fill(0, kept, True)
