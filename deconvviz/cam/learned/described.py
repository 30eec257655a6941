"""The JSON file beside a trained explainer, which says what it is: read without torch, before any work."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Collection
from typing import Any

from deconvviz.errors import CamError, DataError
from deconvviz.results.files import one_line
from deconvviz.types import Pathlike

FORMAT, SCHEMA = "deconvviz-explainer", 1


def json_beside(path: Pathlike) -> pathlib.Path:
    """Return the path of the JSON file of an explainer.

    >>> json_beside("explainers/lcam.pth").as_posix()
    'explainers/lcam.json'
    """
    return pathlib.Path(path).with_suffix(".json")


def described(path: Pathlike) -> dict[str, Any]:
    """Return what the JSON file beside an explainer says of it.

    Args:
        path: of the explainer's weights.

    Raises:
        DataError: one of the files is missing, or is something else; the message says what it is where that is known.
    """
    path, beside = pathlib.Path(path), json_beside(path)
    if not path.is_file():
        what = f"{path} is a folder" if path.is_dir() else f"no file {path}"
        raise DataError(f"{what}; give the explainer that `deconvviz train-cam` wrote")
    if not beside.is_file():
        from deconvviz.cam.learned.recognised import recognised

        what = recognised(path)
        if what:
            raise DataError(f"{path} is no trained explainer but {what}; give what `deconvviz train-cam` wrote")
        raise DataError(f"no {beside}, which says what {path} explains; keep both files together")
    try:
        config = json.loads(beside.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{beside} cannot be read ({one_line(error)}); train the explainer again") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise DataError(f"{beside} does not describe an explainer; give what `deconvviz train-cam` wrote")
    if not isinstance(config.get("schema"), int) or config["schema"] > SCHEMA:
        raise DataError(f"{beside} has schema {config.get('schema')}; this deconvviz reads up to {SCHEMA}: update it")
    return config


def require_explainer_of(path: Pathlike, methods: Collection[str]) -> str:
    """Return the method of an explainer's file, which must be one of some methods.

    Raises:
        DataError: it is no explainer, see `described`.
        CamError: it is one of another method.
    """
    method = str(described(path).get("method"))
    if method not in methods:
        listed = f"method is {', '.join(methods)}" if len(methods) == 1 else f"methods are {', '.join(methods)}"
        raise CamError(f"{path} is an explainer of {method}, and the {listed}; ask for {method}, or give another file")
    return method
