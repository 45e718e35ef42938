"""What a bug report needs to know about this machine, and whether anything here would keep the tool from working."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from deepseek_cli import __version__
from deepseek_cli.settings import Settings
from deepseek_cli.spec import format_size

PACKAGES = {  # distribution: the least version that works
    "filelock": "3.15",
    "httpx2": "2.12",
    "huggingface_hub": "2.0",
    "jinja2": "3.1.6",
    "numpy": "2.0",
    "onnx": "1.20",
    "onnx-ir": "1.0",
    "onnxruntime": "1.31",
    "packaging": "24.0",
    "psutil": "7.0",
    "rich": "14.0",
    "safetensors": "0.6",
    "tokenizers": "0.22",
    "tomli": "2.2",
    "torch": "2.6",
    "typer": "0.27",
}
RUNTIMES = (
    "onnxruntime",
    "onnxruntime_genai",
    "openvino",
    "openvino_genai",
    "executorch",
    "mlx",
    "vllm",
    "tensorrt",
)  # module names
INSTRUCTIONS = ("avx2", "f16c", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm", "sve")
LEAST_DISK = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Check:
    """Without a `problem` all is well."""

    name: str
    value: str
    problem: str = ""
    remedy: str = ""


def examine(settings: Settings) -> list[Check]:
    """Every check, none of which imports a heavy package or touches the network."""
    return [*_machine(), *_packages(), *_places(settings), *_runtimes()]


def _machine() -> Iterator[Check]:
    import psutil

    yield Check("deepseek", __version__)
    yield Check("python", f"{platform.python_version()} ({platform.python_implementation()})")
    yield Check("system", f"{platform.system()} {platform.release()} {platform.machine()}")
    model, flags = _processor(Path("/proc/cpuinfo"))
    yield Check("processor", model or platform.processor() or "?")
    yield Check("instructions", " ".join(f for f in INSTRUCTIONS if f in flags) or "?")
    yield Check("cores", f"{os.cpu_count()}")
    memory = psutil.virtual_memory()
    yield Check("memory", f"{format_size(memory.total)}, {format_size(memory.available)} available")


def _processor(file: Path) -> tuple[str, set[str]]:
    """Name and instruction sets, where the system is Linux."""
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.M)
    return name[1] if name else "", set(flags[1].split()) if flags else set()


def _packages() -> Iterator[Check]:
    for package, least in PACKAGES.items():
        try:
            found = metadata.version(package)
        except metadata.PackageNotFoundError:
            yield Check(package, "missing", "it is needed", f'pip install "{package}>={least}"')
            continue
        old = numbers(found) < numbers(least)
        yield Check(package, found, f"older than {least}" if old else "", f'pip install "{package}>={least}"' if old else "")


def numbers(version: str) -> list[int]:
    """The leading numbers of a version: "2.13.0+cpu" is [2, 13, 0]."""
    return [int(part) for part in re.findall(r"\d+", re.split(r"[^\d.]", version)[0])]


def _places(settings: Settings) -> Iterator[Check]:
    home, environ = settings.home, settings.environ
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    yield Check("home", f"{home} ({settings.home_origin})", *_unwritable(existing))
    low = free < LEAST_DISK
    yield Check(
        "free disk", format_size(free), "less than 1 GB" if low else "", "Free some space, or set DEEPSEEK_HOME." if low else ""
    )
    cache = hub_folder(environ) / "hub" if not environ.get("HF_HUB_CACHE") else Path(environ["HF_HUB_CACHE"])
    yield Check("model cache", f"{cache} ({len(list(cache.glob('models--*')))} models)")
    yield Check("hub token", "present" if _has_token(environ) else "absent")
    yield Check("hub", environ.get("HF_ENDPOINT") or "https://huggingface.co")
    yield Check("settings", ", ".join(file.shown for file in settings.files) or "none")


def _unwritable(folder: Path) -> tuple[str, str]:
    return (
        ("", "") if os.access(folder, os.W_OK) else (f"{folder} is not writable", "Change its permissions, or set DEEPSEEK_HOME.")
    )


def hub_folder(environ: Mapping[str, str]) -> Path:
    """Where huggingface_hub keeps its cache and token."""
    cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(environ.get("HF_HOME") or cache / "huggingface")


def _has_token(environ: Mapping[str, str]) -> bool:
    """Whether there is one; its value is never read out."""
    file = Path(environ.get("HF_TOKEN_PATH") or hub_folder(environ) / "token")
    return bool(environ.get("HF_TOKEN")) or (file.is_file() and file.stat().st_size > 0)


def _runtimes() -> Iterator[Check]:
    for module in RUNTIMES:
        if importlib.util.find_spec(module):
            yield Check(f"runtime {module}", "installed")
