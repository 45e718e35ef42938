"""Fewer tokens: those that the calibration text does not use go, and embedding and head with their rows.

With a share, so many go: of those that it does not use the ones that the tokenizer learned last, then those it uses least.

A text of used tokens alone is cut into the same tokens as before: every merge that makes a token that stays stays too.
Whatever else is written still has tokens, of single bytes in the end.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import pre_tokenizers
from torch import Tensor

from deepseek_cli.compress.shape import Context, Shape, picked
from deepseek_cli.compress.steps import Step, parse_share
from deepseek_cli.errors import ModelUnsupported, UsageError
from deepseek_cli.ops.cost import count as count_cost
from deepseek_cli.quantize.calibration import BUILTIN, read_calibration, read_text
from deepseek_cli.runtime.tokenizer import Tokenizer

BYTE = re.compile(r"<0x[0-9A-F]{2}>")
FEWEST_TOKENS = 1000  # of text, to say anything about which ones are used


def refuse(shape: Shape, amount: str) -> None:
    kind = json.loads(shape.tokenizer.fast.to_str())["model"].get("type")
    if kind != "BPE":
        raise ModelUnsupported(
            "The tokenizer of {model} is of the type {kind}, from which tokens cannot be taken.",
            hint="Leave vocabulary out of --steps.",
            model=shape.handle.name,
            kind=kind,
        )
    if amount:
        parse_share("vocabulary", amount)


def rank(shape: Shape, context: Context) -> Counter[int]:
    """How often the text uses each token."""
    text = read_text(BUILTIN if context.source == "builtin" else Path(context.source))
    ids = shape.tokenizer.encode(text)
    if len(ids) < FEWEST_TOKENS:
        raise UsageError(
            "The calibration text has {count} tokens, too few to say which ones are used.",
            hint="Give a longer text with --calibration, one that looks like what the model will read and write.",
            count=len(ids),
        )
    return Counter(ids) + Counter(shape.windows.flatten().tolist())


def cut(shape: Shape, rank: Counter[int], amount: str, context: Context) -> Shape:
    handle, stated = shape.handle, json.loads(shape.tokenizer.fast.to_str())
    size = handle.config.vocabulary
    most = round(size * (1 - parse_share("vocabulary", amount))) if amount else size
    parts = _parts(stated)
    wanted = [*sorted(rank, key=lambda token: (-rank[token], token)), *(parts if amount else ())]
    kept = sorted(_kept(wanted, parts, _always(stated, shape.tokenizer, handle.raw_config), most))
    place = {old: new for new, old in enumerate(kept)}
    tokenizer = _tokenizer(shape.tokenizer, stated, place)
    begins = _begins(stated["model"]["vocab"], place, tokenizer, size)
    rows = torch.tensor(kept)
    ends = {f"{name}.weight" for name in (*count_cost(handle.architecture, handle.config).embeddings, handle.config.head_name)}
    tensors = {name: picked(ref, rows) if name in ends else ref for name, ref in handle.stored.items()}
    decision = {"step": "vocabulary", "kept": len(kept), "dropped": size - len(kept)}
    smaller = shape.with_model(_config(handle.raw_config, place), tensors, decision)
    length = shape.windows.shape[1]
    windows = read_calibration(tokenizer, context.source, shape.windows.numel(), length).windows
    if shape.kept is not None and shape.begins is not None:
        rows, begins = shape.kept[rows], begins[shape.begins]
    return replace(smaller, tokenizer=tokenizer, windows=windows, kept=rows, begins=begins)


def _always(stated: Mapping[str, Any], tokenizer: Tokenizer, raw: Mapping[str, Any]) -> set[int]:
    """Special and added tokens, those that a config names, and bytes."""
    vocabulary = stated["model"]["vocab"]
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    ids = {token["id"] for token in stated["added_tokens"]} | set(tokenizer.eos) | set(_named(raw))
    ids |= {i for token, i in vocabulary.items() if token in alphabet or BYTE.fullmatch(token)}
    named = (stated["model"].get("unk_token"), tokenizer.bos, tokenizer.eos_text)
    return ids | {i for i in map(tokenizer.fast.token_to_id, filter(None, named)) if i is not None}


def _named(raw: Mapping[str, Any]) -> Iterator[int]:
    for field, value in raw.items():
        if field.endswith("_token_id"):
            yield from (i for i in (value if isinstance(value, list) else [value]) if isinstance(i, int))


def _parts(stated: Mapping[str, Any]) -> dict[int, list[int]]:
    """What each token is merged from, in the order in which the tokenizer learned them."""
    vocabulary = stated["model"]["vocab"]
    parts: dict[int, list[int]] = {}
    for left, right in _merges(stated):
        if left + right in vocabulary:
            parts.setdefault(vocabulary[left + right], []).extend((vocabulary[left], vocabulary[right]))
    return parts


def _begins(vocabulary: Mapping[str, int], place: Mapping[int, int], tokenizer: Tokenizer, size: int) -> Tensor:
    """See `Shape`; 0 for rows that no token has. `tokenizer` has the tokens that are left."""
    bare: dict[str, Any] = {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "added_tokens": []}
    merges = FastTokenizer.from_str(json.dumps({**json.loads(tokenizer.fast.to_str()), **bare}))
    gone = {text: token for text, token in vocabulary.items() if token not in place}
    begins = torch.zeros(size, dtype=torch.long)
    for token, written in zip(gone.values(), merges.encode_batch([*gone]), strict=True):
        begins[token] = next(iter(written.ids), 0)
    begins[torch.tensor([*place])] = torch.tensor([*place.values()])
    return begins


def _kept(wanted: Iterable[int], parts: Mapping[int, list[int]], always: set[int], most: int) -> set[int]:
    """`always` and the first that are wanted, with the tokens they are merged from: at most `most`, unless bytes are more."""
    kept = _closed(always, parts, set())
    for token in wanted:
        grown = _closed([token], parts, kept)
        if len(kept) + len(grown) <= most:
            kept |= grown
    return kept


def _closed(tokens: Iterable[int], parts: Mapping[int, list[int]], known: set[int]) -> set[int]:
    """What is not `known` of the tokens, and of all that any of their merges takes."""
    found, todo = set[int](), [*tokens]
    while todo:
        token = todo.pop()
        if token not in known and token not in found:
            found.add(token)
            todo += parts.get(token, ())
    return found


def _merges(stated: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Older files write "a b", newer ones ["a", "b"]."""
    for merge in stated["model"]["merges"]:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        yield left, right


def _tokenizer(tokenizer: Tokenizer, stated: Mapping[str, Any], place: Mapping[int, int]) -> Tokenizer:
    """The same with the tokens of `place` alone, under their new numbers."""
    vocabulary = {token: place[i] for token, i in stated["model"]["vocab"].items() if i in place}
    merges = [pair for pair in _merges(stated) if vocabulary.keys() >= {*pair, "".join(pair)}]
    added = [{**token, "id": place[token["id"]]} for token in stated["added_tokens"]]
    numbers = vocabulary | {token["content"]: token["id"] for token in added}
    whole = {
        **stated,
        "model": {**stated["model"], "vocab": vocabulary, "merges": merges},
        "added_tokens": added,
        "post_processor": _processor(stated["post_processor"], numbers),
    }
    fast = FastTokenizer.from_str(json.dumps(whole))
    return replace(tokenizer, fast=fast, eos=frozenset(place[end] for end in tokenizer.eos))


def _processor(stated: Any, vocabulary: Mapping[str, int]) -> Any:
    """Templates hold the numbers of their special tokens beside their text."""
    if isinstance(stated, list):
        return [_processor(part, vocabulary) for part in stated]
    if not isinstance(stated, dict):
        return stated
    if isinstance(stated.get("tokens"), list) and isinstance(stated.get("ids"), list):
        return {**stated, "ids": [vocabulary[token] for token in stated["tokens"]]}
    return {key: _processor(value, vocabulary) for key, value in stated.items()}


def _config(raw: Mapping[str, Any], place: Mapping[int, int]) -> dict[str, Any]:
    """The fields of config.json that count or name tokens; one that no tokenizer has is named no more."""
    changed: dict[str, Any] = {"vocab_size": len(place)}
    for field, value in raw.items():
        if field.endswith("_token_id") and isinstance(value, int):
            changed[field] = place.get(value)
        elif field.endswith("_token_id") and isinstance(value, list):
            changed[field] = [place[i] for i in value if i in place]
    return changed


STEP = Step(rank, cut, refuse)
