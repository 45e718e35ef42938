"""The house stands as its plan says: imports point one way, only the sink prints, and start-up stays light."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "deepseek_cli"
FILES = sorted(file for file in PACKAGE.rglob("*.py") if "templates" not in file.parts)  # which go into bundles as they are
# From the ground up. A module may import from its own layer and from those below.
LAYERS = (
    {"errors", "reporter", "blocks", "e4m3", "messages_zh"},
    {"spec", "schemes", "fields", "plugins", "i18n"},
    {"settings", "refs", "tensors", "memory", "score", "ahead", "cluster", "vector_math"},
    {"formats"},
    {"ops"},
    {"architectures"},
    {"manifest", "store", "handle", "sources"},
    {"runtime", "verify"},
    {"evaluate"},
    {"quantize", "eval_engine"},
    {"deploy"},
    {"profile", "bench", "serve"},
    {"profile", "bench", "serve"},
    {"compress", "tune"},
    {"api", "demo"},
    {"progress", "output"},
    {"commands", "completion", "doctor"},
    {"main", "__main__"},
)
RANK = {name: i for i, layer in enumerate(LAYERS) for name in layer}
HEAVY = {
    "torch",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "openvino",
    "numpy",
    "ray",
    "huggingface_hub",
    "rich",
    "jinja2",
    "safetensors",
    "tokenizers",
    "typer",
    "optuna",
    "cmaes",
}
START_UP = ("main", "output", "progress", "settings", "spec", "i18n", "errors", "reporter", "schemes", "plugins")
START_UP += ("manifest", "store", "doctor", "completion", "sources", "commands")
SPEAKERS = {"main.py", "output.py"}
READS_ENVIRONMENT = {"main.py", "output.py", "i18n.py", "plugins.py", "api.py"}
READS_ENVIRONMENT |= {"demo.py"}  # hands it on to the commands that it starts
READS_ENVIRONMENT |= {"cluster.py"}  # tells Ray to be quiet, and knocks at RAY_ADDRESS, in the variables that are Ray's own
READS_ENVIRONMENT |= {"origins.py"}  # the variables that choose the hub and ModelScope, and their tokens, are those clients' own
READS_ENVIRONMENT |= {"openvino_session.py"}  # oneDNN takes the instructions that it may use from its own variable alone


def layer_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names, with `from deepseek_cli import x` as deepseek_cli.x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """What runs on import: not functions, not `if TYPE_CHECKING`."""
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.If, ast.Try)):
            yield node


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "file", [f for f in FILES if f.parent != PACKAGE or f.name != "__init__.py"], ids=lambda f: str(f.relative_to(PACKAGE))
)
def test_imports_point_one_way(file: Path) -> None:
    own = layer_of(file)
    assert own in RANK, f"{own} stands in no layer: give it its place in LAYERS"
    ours = {name.split(".")[1] for name in imports(parse(file)) if name.startswith("deepseek_cli.")} - {"__version__"}
    assert {name for name in ours if RANK.get(name, 99) > RANK[own]} == set()


@pytest.mark.parametrize("file", [f for f in FILES if layer_of(f) in START_UP], ids=lambda f: str(f.relative_to(PACKAGE)))
def test_start_up_imports_nothing_heavy(file: Path) -> None:
    assert {name.split(".")[0] for node in module_level(parse(file)) for name in imports(node)} & HEAVY == set()


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_only_the_sink_prints_or_exits(file: Path) -> None:
    if file.name in SPEAKERS and file.parent == PACKAGE:
        return
    calls = {ast.unparse(node.func) for node in ast.walk(parse(file)) if isinstance(node, ast.Call)}
    assert calls & {"print", "sys.exit", "exit", "quit", "os._exit", "sys.stdout.write", "sys.stderr.write"} == set()


@pytest.mark.parametrize("file", [f for f in FILES if f.name not in READS_ENVIRONMENT], ids=lambda f: str(f.relative_to(PACKAGE)))
def test_the_engine_does_not_read_the_environment(file: Path) -> None:
    used = {ast.unparse(node) for node in ast.walk(parse(file)) if isinstance(node, ast.Attribute)}
    assert used & {"os.environ", "os.getenv"} == set()


def test_every_registered_command_exists() -> None:
    from deepseek_cli.commands import COMMANDS, load

    for name in COMMANDS:
        module = load(name)
        assert callable(module.run), name
