"""Temporary."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

from tokenizers import Tokenizer as Fast


class Stream:
    def __init__(self, t): self.t, self.ids, self.done = t, [], ""
    def push(self, token):
        self.ids.append(token)
        text = self.t.decode(self.ids)
        if text.endswith("�"): return ""
        piece, self.done = text[len(self.done):], text
        return piece
    def finish(self): return ""


class Tokenizer:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fast = Fast.from_file(str(folder / "tokenizer.json"))
        self.config = json.loads((folder / "tokenizer_config.json").read_text())
        e = self.fast.token_to_id(self.config.get("eos_token") or "")
        self.eos = frozenset([e] if e is not None else [])
    def encode(self, text, special=False): return self.fast.encode(text, add_special_tokens=special).ids
    def decode(self, ids): return self.fast.decode(ids, skip_special_tokens=False)
    def stream(self): return Stream(self)
    def chat(self, messages): 
        return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages) + "<|im_start|>assistant\n"
    def save(self, folder):
        for n in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
            if (self.folder / n).exists(): shutil.copyfile(self.folder / n, folder / n)


def open_tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer(folder)
