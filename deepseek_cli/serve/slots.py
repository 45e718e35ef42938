"""Many conversations in one ONNX graph: a KV cache with a slot for each, and one run that takes all a token further."""

from __future__ import annotations

import ctypes
import functools
import mmap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepseek_cli.ops.drafting import HIDDEN
from deepseek_cli.ops.pages import PAGE
from deepseek_cli.runtime.memory_plan import MemoryPlan, release_pages
from deepseek_cli.runtime.onnx_session import (
    CACHE_DTYPES,
    GRAPH,
    KEEP,
    LATENT,
    cache_kinds,
    load,
    mapped_files,
    reserve,
    session_options,
)

CHUNK = 128  # most tokens of a prompt in one run
GRAIN = 64  # of latents that are attended as they lie
BOUND = 64  # ranges of slots whose buffers stay bound
WIDE = 8  # answers at once that are computed by the form for many


class Slots:
    """`lengths[slot]` tokens of each slot are cached. A slot's rows lie together, so that a run over neighbouring slots binds
    the cache as it is: past and present are the same memory.

    Latents that are attended as they lie know one length for a whole batch: `batches` is then false, and slots run in turn.
    How many of a prompt's tokens are computed together changes their last bits there. So that an answer does not depend on
    what else is served, all prompts are cut, and reused, at multiples of `grain`; elsewhere it is 1.

    `wide` is the folder of another form of the same weights, which prompts and steps of WIDE slots or more run through.
    `before_run` is called when all is ready for the model to run.
    """

    def __init__(
        self,
        folder: Path,
        config: Any,
        count: int,
        context: int,
        threads: int | None = None,
        plan: MemoryPlan | None = None,
        wide: Path | None = None,
    ) -> None:
        plan = plan or MemoryPlan()
        options = session_options(threads, prepack=plan.prepack)
        self.session = load(folder / GRAPH, options, rewrite=with_hidden)
        self.wide = load(wide / GRAPH, session_options(threads)) if wide else self.session
        self.released_bytes = release_pages(mapped_files(folder)) if plan.release else 0
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.context = min(context, int(metadata.get("context", context)))
        self.vocabulary, self.hidden, self.count = config.vocabulary, config.hidden, count
        self.kinds = cache_kinds(self.session)
        self.batches = self.kinds != LATENT
        self.chunk = min(CHUNK, plan.chunk or CHUNK)
        self.grain = 1 if self.batches else min(GRAIN, self.chunk)
        self.lengths = [0] * count
        self.written = [0] * count  # rows that may be resident
        self.cache = self._reserve(config)
        self.token_bytes = self.cache[:, :, 0, :, 0].nbytes
        self.keep = np.ones(1, np.int64)
        self.before_run: Callable[[], object] = lambda: None
        self.bound: dict[tuple[Any, ...], Bound] = {}  # what was not used for longest first
        self.logits = np.empty((count, 1, self.vocabulary), np.float32)
        self.logits_of = [self.logits[:n] for n in range(count + 1)]  # the same arrays at every step: they stay bound
        self.fed_to = [np.empty((n, 1), np.int64) for n in range(count + 1)]
        self.ones, self.places = np.ones((1, self.context), np.int64), np.arange(self.context)[None]

    def _reserve(self, config: Any) -> np.ndarray:
        """[layers, kinds, slots, heads, rows, channels]; of latents, which are keys and values at once, one kind and one head."""
        rows = -(-self.context // PAGE) * PAGE
        dtype = next(CACHE_DTYPES[v.type] for v in self.session.get_inputs() if v.name.startswith("past_key_values"))
        latent = getattr(config, "latent", None)
        if latent:
            return reserve((config.layers, 1, self.count, 1, rows, latent.cached), dtype)
        return reserve((config.layers, 2, self.count, config.kv_heads, rows, config.head_dim), dtype)

    def extend(self, slot: int, tokens: Sequence[int]) -> np.ndarray:
        """Append at most `chunk` tokens to one slot; float32 logits [vocabulary] of the last, valid until the next run."""
        self._run(self.wide, slot, np.array([tokens], np.int64), {"logits": self.logits_of[1]})
        self.lengths[slot] += len(tokens)
        return self.logits[0, 0]

    def extend_hidden(self, slot: int, tokens: Sequence[int]) -> np.ndarray:
        """Append at most `chunk` tokens to one slot; their last hidden states, float32 [tokens, hidden]."""
        states = np.empty((1, len(tokens), self.hidden), np.float32)
        self._run(self.session, slot, np.array([tokens], np.int64), {HIDDEN: states})
        self.lengths[slot] += len(tokens)
        return states[0]

    def step(self, tokens: dict[int, int]) -> dict[int, np.ndarray]:
        """Append a token to each of these slots; logits of each, valid until the next run.

        Slots between them are computed too, which costs time and nothing else: their lengths stay.
        """
        if not self.batches:
            return {slot: self._step_alone(slot, token) for slot, token in tokens.items()}
        first, last = min(tokens), max(tokens)
        row = self.fed_to[last - first + 1]
        row[:] = 0
        for slot, token in tokens.items():
            row[slot - first] = token
        session = self.wide if len(row) >= WIDE else self.session
        self._run(session, first, row, {"logits": self.logits_of[len(row)]})
        for slot in tokens:
            self.lengths[slot] += 1
        return {slot: self.logits[slot - first, 0] for slot in tokens}

    def _step_alone(self, slot: int, token: int) -> np.ndarray:
        logits = self.logits[slot : slot + 1]
        self._run(self.session, slot, np.array([[token]], np.int64), {"logits": logits})
        self.lengths[slot] += 1
        return logits[0, 0]

    def copy(self, source: int, target: int, length: int) -> None:
        """The first `length` tokens of `source` become all that `target` holds."""
        self.cache[:, :, target, :, :length] = self.cache[:, :, source, :, :length]
        self.lengths[target] = length
        self.written[target] = max(length, self.written[target])

    def exchange(self, a: int, b: int) -> None:
        rows = max(self.lengths[a], self.lengths[b])
        held = self.cache[:, :, a, :, :rows].copy()
        self.cache[:, :, a, :, :rows] = self.cache[:, :, b, :, :rows]
        self.cache[:, :, b, :, :rows] = held
        self.lengths[a], self.lengths[b] = self.lengths[b], self.lengths[a]
        self.written[a] = self.written[b] = max(self.written[a], self.written[b])

    def cut(self, slot: int, length: int) -> None:
        """Forget the tokens behind `length`, and give their memory back where the system takes it."""
        self.lengths[slot] = length = min(length, self.lengths[slot])
        if self.written[slot] <= length:
            return
        self.written[slot] = length
        for kinds in self.cache[:, :, slot]:
            for heads in kinds:
                for rows in heads:
                    _give_back(rows[length:])

    def _run(self, session: Any, first: int, tokens: np.ndarray, outputs: dict[str, np.ndarray]) -> None:
        """tokens int64 [slots, new], for neighbouring slots from `first` on"""
        count, new = tokens.shape
        lengths = [min(length + new, self.context) for length in self.lengths[first : first + count]]  # one between may be full
        self.written[first : first + count] = map(max, lengths, self.written[first : first + count])
        mask = self._mask(lengths)
        bound = self._bound(session, first, count, *outputs)
        bound.inputs(input_ids=tokens, attention_mask=mask, **{KEEP: self.keep})
        bound.outputs(**outputs)
        for layer, kinds in enumerate(self.cache[:, :, first : first + count] if self.kinds == LATENT else ()):
            bound.cache(layer, LATENT[0], kinds[0, :, 0, : mask.shape[1]])  # the rows that the graph is shown grow
        self.before_run()
        session.run_with_iobinding(bound.binding)

    def _mask(self, lengths: list[int]) -> np.ndarray:
        """int64 [slots, longest]"""
        places = self.places[:, : max(lengths)]
        return self.ones[:, : max(lengths)] if len(lengths) == 1 else (places < np.array(lengths)[:, None]).astype(np.int64)

    def _bound(self, session: Any, first: int, count: int, *outputs: str) -> Bound:
        """Buffers of neighbouring slots. To bind all layers takes longer than all else beside a step: what was bound stays so."""
        key = (session is self.wide, first, count, *outputs)
        bound = self.bound.pop(key, None) or self._bind(session, first, count)
        self.bound[key] = bound
        if len(self.bound) > BOUND:
            del self.bound[next(iter(self.bound))]
        return bound

    def _bind(self, session: Any, first: int, count: int) -> Bound:
        bound = Bound(session)
        for layer, kinds in enumerate(self.cache[:, :, first : first + count]):
            for i, kind in enumerate(() if self.kinds == LATENT else self.kinds):
                bound.cache(layer, kind, kinds[min(i, len(kinds) - 1)])
        return bound


class Bound:
    """What ONNX Runtime is told of arrays once, and again only where it is another one."""

    def __init__(self, session: Any) -> None:
        self.binding = session.io_binding()
        self.arrays: dict[str, np.ndarray] = {}

    def inputs(self, **arrays: np.ndarray) -> None:
        for name, array in arrays.items():
            self._tell(self.binding.bind_input, name, array)

    def outputs(self, **arrays: np.ndarray) -> None:
        for name, array in arrays.items():
            self._tell(self.binding.bind_output, name, array)

    def cache(self, layer: int, kind: str, rows: np.ndarray) -> None:
        """As what is there and as what will be: the graph appends in place."""
        self._tell(self.binding.bind_input, f"past_key_values.{layer}.{kind}", rows)
        self._tell(self.binding.bind_output, f"present.{layer}.{kind}", rows)

    def _tell(self, bind: Callable[..., None], name: str, array: np.ndarray) -> None:
        if self.arrays.get(name) is not array:
            bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            self.arrays[name] = array


def with_hidden(model: Any) -> None:
    """Make what the head is fed from an output too: the last hidden states of all tokens, [batch, sequence, hidden]."""
    if any(value.name == HIDDEN for value in model.graph.output):  # of a bundle that drafts
        return
    import onnx

    negated = next(node.output[0] for node in model.graph.node if node.op_type == "Neg" and KEEP in node.input)
    kept = next(node for node in model.graph.node if node.op_type == "Slice" and negated in node.input)
    model.graph.node.append(onnx.helper.make_node("Identity", [kept.input[0]], [HIDDEN]))
    shape = ["batch", "sequence", "hidden"]
    model.graph.output.append(onnx.helper.make_tensor_value_info(HIDDEN, onnx.TensorProto.FLOAT, shape))


def _give_back(rows: np.ndarray) -> None:
    """Whole pages of anonymous memory, which read as zeros from then on."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    start = -(-rows.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    size = (rows.ctypes.data + rows.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - start
    if size > 0:
        _madvise()(start, size, mmap.MADV_DONTNEED)


@functools.cache
def _madvise() -> Any:
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return madvise
