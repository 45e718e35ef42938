"""Self-speculative decoding gives the very tokens of plain decoding, and the draft is the layer that transformers builds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DeepseekV3ForCausalLM
from transformers.modeling_layers import MtpLayer

from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.handle import ModelHandle, open_model
from deepseek_cli.ops.onnx_ops import emit
from deepseek_cli.ops.torch_ops import TorchOps
from deepseek_cli.runtime.generate import Generation, generate_tokens
from deepseek_cli.runtime.onnx_session import OnnxSession
from deepseek_cli.runtime.sampling import Sampling
from deepseek_cli.runtime.session import Session
from deepseek_cli.runtime.speculate import Drafter
from deepseek_cli.runtime.torch_session import TorchSession
from deepseek_cli.store import Store
from tests.conftest import Outcome
from tests.toys import make_toy, random_deepseek_settings

PROMPT = list(range(3, 20))


def with_draft(folder: Path, quiet: bool = False) -> ModelHandle:
    """A toy with a drafting layer. In a `quiet` one both mostly follow the newest token's embedding, and guesses come true."""
    settings = random_deepseek_settings("deepseek_v3", 5) | {"num_nextn_predict_layers": 1, "tie_word_embeddings": False}
    make_toy(folder, "deepseek_v3", 5, **settings)
    weights = load_file(folder / "model.safetensors")
    last, hidden = settings["num_hidden_layers"], settings["hidden_size"]
    block = {n.replace(f"layers.{last - 1}.", f"layers.{last}."): t.clone() for n, t in weights.items() if f".{last - 1}." in n}
    draft = {f"model.layers.{last}.{name}.weight": torch.ones(hidden) for name in ("enorm", "hnorm", "shared_head.norm")}
    draft[f"model.layers.{last}.eh_proj.weight"] = 0.2 * torch.randn(
        hidden, 2 * hidden, generator=torch.Generator().manual_seed(9)
    )
    weights |= {**block, **draft}
    if quiet:
        weights |= {n: 0.02 * t for n, t in weights.items() if n.endswith(("o_proj.weight", "down_proj.weight"))}
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].roll(1, 0).contiguous()
        weights[f"model.layers.{last}.eh_proj.weight"] = torch.cat((torch.eye(hidden), torch.zeros(hidden, hidden)), 1)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return open_model(str(folder), Store(folder))


class Ticks:
    """A clock that says that a row more costs a quarter of a step, whatever the machine does meanwhile."""

    def __init__(self, session: Session) -> None:
        self.session, self.seconds, self.position = session, 0.0, 0

    def __call__(self) -> float:
        """Read before and after each feed."""
        rows = self.session.position - self.position
        self.position = self.session.position
        self.seconds += 0.75 + 0.25 * rows if rows > 0 else 0.0
        return self.seconds


def decode(handle: ModelHandle, drafts: bool, sampling: Sampling, most: int, context: int = 128) -> tuple[list[int], Generation]:
    session = TorchSession(handle, context, drafts=drafts)
    made = Generation()
    tokens = [token for token, _ in generate_tokens(session, PROMPT, most, sampling, made=made)]
    assert session.position == len(PROMPT) + len(tokens) - 1  # no guess stays behind
    return tokens, made


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.8, seed=3), Sampling(repetition_penalty=1.3)])
def test_tokens_are_those_of_plain_decoding(tmp_path: Path, quiet: bool, sampling: Sampling) -> None:
    handle = with_draft(tmp_path, quiet)
    plain, _ = decode(handle, False, sampling, 64)
    drafted, made = decode(handle, True, sampling, 64)
    assert drafted == plain and made.drafted > 0
    if quiet and not sampling.temperature:
        assert made.accepted > made.drafted // 4


@pytest.mark.parametrize("context", [20, 21, 30])
def test_a_full_context_ends_both_alike(tmp_path: Path, context: int) -> None:
    handle = with_draft(tmp_path, quiet=True)
    plain, drafted = (decode(handle, drafts, Sampling(), 64, context) for drafts in (False, True))
    assert plain[0] == drafted[0] and plain[1].finish == drafted[1].finish == "context"


def open_runtime(handle: ModelHandle, runtime: str) -> Session:
    if runtime == "torch":
        return TorchSession(handle, 256)
    emit(handle.architecture, handle.config, handle.weights, handle.root / "model.onnx", 256)
    return OnnxSession(handle.root, handle.config, 256, 1)


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.8, top_k=9, seed=3), Sampling(repetition_penalty=1.3), Sampling(top_p=0.9)]
)
def test_guesses_from_the_text_change_nothing(tmp_path: Path, runtime: str, quiet: bool, sampling: Sampling) -> None:
    handle = with_draft(tmp_path, quiet)
    prompt = [*range(4, 40), *range(4, 12)]  # a quiet one counts
    plain, drafted = (open_runtime(handle, runtime) for _ in range(2))
    made, drafter = Generation(), Drafter(Ticks(drafted))
    wanted = [token for token, _ in generate_tokens(plain, prompt, 96, sampling)]
    assert [token for token, _ in generate_tokens(drafted, prompt, 96, sampling, made=made, drafter=drafter)] == wanted
    assert drafted.position == plain.position
    assert drafter.lookup.text == [*prompt, *wanted[:-1]]
    if quiet and sampling == Sampling():
        assert made.accepted >= 20


def test_it_guesses_from_earlier_turns_and_forgets_what_was_taken_back(tmp_path: Path) -> None:
    handle = with_draft(tmp_path, quiet=True)
    session = TorchSession(handle, 256)
    drafter, made = Drafter(Ticks(session)), Generation()
    first = [token for token, _ in generate_tokens(session, PROMPT, 20, Sampling(), drafter=drafter)]
    again = [token for token, _ in generate_tokens(session, PROMPT, 20, Sampling(), made=made, drafter=drafter)]
    assert made.accepted > 0 and again[-1] == first[-1]
    session.rewind(5)
    assert list(generate_tokens(session, [40], 1, Sampling(), drafter=drafter))
    assert drafter.lookup.text == [*PROMPT[:5], 40]


def test_drafts_do_not_depend_on_how_the_text_came(tmp_path: Path) -> None:
    handle = with_draft(tmp_path)
    whole, pieces = TorchSession(handle, 64, drafts=True), TorchSession(handle, 64, drafts=True)
    whole.feed(PROMPT)
    for token, following in zip(PROMPT, [*PROMPT[1:], None], strict=True):
        pieces.feed([token])
        if following is not None:
            pieces.draft(following)
    whole.feed([7, 8, 9])
    whole.rewind(len(PROMPT))
    assert whole.draft(7) == pieces.draft(7)
    torch.testing.assert_close(whole.draft_cache.rows[3][0][:, :, :17], pieces.draft_cache.rows[3][0][:, :, :17])


def test_the_draft_is_what_transformers_computes(tmp_path: Path) -> None:
    session = TorchSession(with_draft(tmp_path), 64, drafts=True)
    last = session.config.layers
    model = DeepseekV3ForCausalLM.from_pretrained(tmp_path, experts_implementation="eager").eval()
    longer = DeepseekV3ForCausalLM.from_pretrained(tmp_path, num_hidden_layers=last + 1, experts_implementation="eager").eval()
    layer = MtpLayer(model.config, lambda config, i: longer.model.layers[i], type(model.model.norm), last)
    weights = load_file(tmp_path / "model.safetensors")
    for ours, theirs in {"enorm": "enorm", "hnorm": "hnorm", "eh_proj": "eh_proj", "shared_head.norm": "post_norm"}.items():
        getattr(layer, theirs).weight.data = weights[f"model.layers.{last}.{ours}.weight"]
    tokens, following = torch.tensor([PROMPT]), torch.tensor([[*PROMPT[1:], 5]])
    positions = torch.arange(len(PROMPT))[None]
    with torch.inference_mode():
        hidden = model.model(tokens).last_hidden_state
        rotary = model.model.rotary_emb(hidden, positions)
        normed = layer(model.model.embed_tokens(following), hidden, rotary, None, positions, None)
        wanted = model.lm_head(normed)[0]
        found = session.architecture.draft(TorchOps(session.weights), session.config, following, hidden)
        found = session.architecture.head(TorchOps(session.weights), session.config, found)[0]
    assert (found - wanted).abs().max() <= 1e-4 * (wanted.max() - wanted.min())
    session.feed(PROMPT)
    assert session.draft(5) == int(wanted[-1].argmax())


def test_a_model_without_the_layer_says_so(tmp_path: Path) -> None:
    make_toy(tmp_path, "deepseek_v3", 5, **random_deepseek_settings("deepseek_v3", 5))
    with pytest.raises(ModelUnsupported):
        TorchSession(open_model(str(tmp_path), Store(tmp_path)), 64, drafts=True)


def test_run_says_how_many_guesses_were_right(tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    with_draft(tmp_path, quiet=True)
    plain = cli("run", tmp_path, "ab", "--raw", "--max-tokens", 8)
    drafted = cli("run", tmp_path, "ab", "--raw", "--max-tokens", 8, "--draft", "-v")
    assert drafted.out == plain.out and "guesses were right" in drafted.err
