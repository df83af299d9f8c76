"""Where one host finds model and data set: in folders, on the hub, or in the hub's cache."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from raffm_mpi.doctor.intent import Intent

_TIMEOUT_S = 5.0
_BUILT_IN = "digits"


@dataclass(frozen=True)
class Sources:
    """``absent`` folders, names ``on_hub``, and those of these names that are ``not_cached`` in the ``cache``.

    ``reachable`` is None where the hub was not asked: the run needs nothing from it, or the libraries are offline.
    """

    endpoint: str
    cache: str
    offline: bool = False
    reachable: bool | None = None
    absent: tuple[str, ...] = ()
    on_hub: tuple[str, ...] = ()
    not_cached: tuple[str, ...] = ()


def look_for_sources(intent: Intent) -> Sources:
    """Look for the model, tokenizer and data set of an intent; one without a model asks whether the hub answers."""
    from huggingface_hub import constants

    settings = intent.settings
    models = {name for name in (settings.model.name, settings.data.tokenizer) if name}
    data_sets = {settings.data.path} - {_BUILT_IN}
    absent = sorted(name for name in models | data_sets if _is_folder(name) and not Path(name).is_dir())
    models, data_sets = ({name for name in names if not _is_folder(name)} for names in (models, data_sets))
    cached = {name for name in models if _has_model(name)} | {name for name in data_sets if _has_data_set(name)}
    on_hub = models | data_sets
    asked = not constants.HF_HUB_OFFLINE and (bool(on_hub) or not intent.has_model)
    return Sources(
        endpoint=constants.ENDPOINT,
        cache=str(constants.HF_HUB_CACHE),
        offline=bool(constants.HF_HUB_OFFLINE),
        reachable=_answers(constants.ENDPOINT) if asked else None,
        absent=tuple(absent),
        on_hub=tuple(sorted(on_hub)),
        not_cached=tuple(sorted(on_hub - cached)),
    )


def _is_folder(name: str) -> bool:
    """Whether the libraries take a name for a folder, which may not exist."""
    return name.startswith((".", "/", "~")) or name.count(os.sep) > 1 or Path(name).exists()


def _has_model(name: str) -> bool:
    """Whether the cache has the configuration file of a model or a tokenizer."""
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(name, file), str) for file in ("config.json", "tokenizer_config.json"))


def _has_data_set(name: str) -> bool:
    """Whether the cache has a data set, as it was downloaded or as the tables that ``datasets`` makes of it."""
    from huggingface_hub import constants

    tables = Path(os.environ.get("HF_DATASETS_CACHE", Path(constants.HF_HOME) / "datasets"))
    downloads = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}" / "snapshots"
    return (tables / name.replace("/", "___")).is_dir() or downloads.is_dir()


def _answers(endpoint: str) -> bool:
    """Whether the endpoint answers, if only with an error status."""
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
