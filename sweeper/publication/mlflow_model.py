"""Log a policy as a model of MLflow: with a signature and an input example, registered if asked for."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sweeper.errors import SweeperError, UserError
from sweeper.layout import STATE
from sweeper.machines.machine import usable_cache
from sweeper.masking import safe_uri
from sweeper.records.checkpoints import Source
from sweeper.records.sweep_state import SweepState, read_sweep
from sweeper.text import describe_value
from sweeper.tracking.client import OutageError, attempt, one_line, quieten
from sweeper.tracking.state import read_state
from sweeper.tracking.tracker import tracking_uri
from trainables import registry
from trainables.interface import EvaluationContext, ExportsFormats, FormatOptions, silent

__all__ = ["LoggedPolicy", "log_policy"]

FORMAT = "torch"
VARIABLE = "MLFLOW_TRACKING_URI"
PACKAGES = ("mlflow", "numpy", "torch")
NOTE, VERSIONS = "mlflow.note.content", "mlflow.modelVersions"
"""MLflow's tags for the description of a model, and for the versions as which it was registered."""


@dataclass(frozen=True)
class LoggedPolicy:
    """A policy that was logged.

    Attributes:
        uri: Address of the model, for ``mlflow.pyfunc.load_model``.
        tracking_uri: The server or database, without a password.
        registered: ``name/version`` in the registry; empty if it was not registered.
    """

    uri: str
    tracking_uri: str
    registered: str = ""

    def to_json(self) -> dict[str, str]:
        """The same as JSON values."""
        return asdict(self)


def log_policy(
    source: Source, *, ema: bool = True, register: str | None = None, progress: Callable[[str], None] = silent
) -> LoggedPolicy:
    """Log a policy of a sweep as a model of its trial's run.

    Args:
        source: The policy.
        ema: Use averaged weights if there are any.
        register: The name of a registered model that gets a new version; None for none.
        progress: Receives a message for each step.

    Raises:
        UserError: If the policy is of no sweep, MLflow does not have its run, or its trainable
            cannot write it.
        SweeperError: If MLflow does not answer or refuses the model.
    """
    if source.folder is None or source.trial is None:
        raise UserError("--mlflow: only the policy of a trial can be logged. Name its sweep: SWEEP:TRIAL.")
    trainable = registry.load(source.trainable)
    if not isinstance(trainable, ExportsFormats) or FORMAT not in trainable.formats:
        raise UserError(f"--mlflow: {source.trainable} cannot write the format {FORMAT}, which it needs.")
    sweep = read_sweep(source.folder.parents[1])
    state = read_state(sweep.folder / STATE)
    run = None if state is None else state.runs.get(str(source.trial))
    if state is None or run is None:
        raise UserError(
            f"--mlflow: MLflow has no run of trial {source.trial}. `sweeper sync {sweep.name}` uploads it."
        )
    with tempfile.TemporaryDirectory(prefix="sweeper-model-") as place:
        folder = Path(place) / "policy"
        options = FormatOptions(FORMAT, ema=ema, setting=source.setting)
        context = EvaluationContext(usable_cache(), progress=progress)
        trainable.export_format(source.checkpoint.absolute(), folder, options, context)
        progress("logging the model")
        quieten()
        # The steps are shown by ``progress``: no bar of files, and no word about the check of the example.
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
        uri = tracking_uri(sweep.folder, sweep.spec["tracking"]["uri"])
        return _log(sweep, source, (state.experiment_id, run), folder, uri, register)


def _log(
    sweep: SweepState, source: Source, where: tuple[str, str], folder: Path, uri: str, register: str | None
) -> LoggedPolicy:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    experiment, run = where
    about = f"{source.chosen[:1].upper()}{source.chosen[1:]}."
    try:
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        known = attempt(
            lambda: client.create_logged_model(
                experiment,
                f"policy-{source.trial}",
                source_run_id=run,
                tags=_tags(sweep, source) | {NOTE: about},
                params={name: describe_value(value) for name, value in _searched(sweep, source).items()},
            )
        )
        saved = folder.parent / "model"
        _save(folder, saved, run, known.model_id)
        attempt(lambda: client.log_model_artifacts(known.model_id, str(saved)))
        attempt(lambda: client.finalize_logged_model(known.model_id, "READY"))
        address = f"models:/{known.model_id}"
        with _tracking_at(uri):  # the registry looks for the model there
            version = (
                ""
                if register is None
                else attempt(lambda: _register(client, register, address, run, about, _tags(sweep, source)))
            )
    except OutageError as error:
        raise SweeperError(f"MLflow at {safe_uri(uri)} does not answer: {error}.") from error
    except MlflowException as error:
        raise SweeperError(f"MLflow at {safe_uri(uri)} refused the model: {one_line(error)}.") from error
    return LoggedPolicy(address, safe_uri(uri), version)


@contextlib.contextmanager
def _tracking_at(uri: str) -> Iterator[None]:
    """Let MLflow's functions that take no address use this one."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = uri
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        os.environ |= {} if before is None else {VARIABLE: before}


def _register(client: Any, name: str, address: str, run: str, about: str, tags: dict[str, str]) -> str:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    model = address.rpartition("/")[2]
    version = client.create_model_version(name, address, run, tags, description=about, model_id=model)
    # The page of the model names the versions of this tag.
    client.set_logged_model_tags(model, {VERSIONS: json.dumps([{"name": name, "version": version.version}])})
    return f"{name}/{version.version}"


def _searched(sweep: SweepState, source: Source) -> Mapping[str, Any]:
    """The values of the searched parameters."""
    return {} if source.trial is None else sweep.trial(source.trial).values


def _tags(sweep: SweepState, source: Source) -> dict[str, str]:
    tags = {"sweep.name": sweep.name, "sweep.id": sweep.sweep_id, "sweep.trial": str(source.trial)}
    return tags | {f"tuned.{name}": str(value) for name, value in source.setting.items()}


def _save(folder: Path, saved: Path, run: str, model_id: str) -> None:
    """Write the model as MLflow stores it."""
    import mlflow
    from mlflow.models import Model

    example, signature = _signature(folder, json.loads((folder / "report.json").read_text()))
    mlflow.pyfunc.save_model(
        str(saved),
        python_model=str(Path(__file__).with_name("mlflow_policy.py")),
        artifacts={"policy": str(folder)},
        signature=signature,
        input_example=(example, {"seed": 0}),
        pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in PACKAGES],
        mlflow_model=Model(run_id=run, model_id=model_id),
    )


def _signature(folder: Path, report: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """The first example of the export, and the types and shapes of a batch of any size."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    values = np.load(folder / "example.npz")
    example = {one["name"]: values[one["name"]][:1] for one in report["observations"]}
    inputs = [TensorSpec(array.dtype, (-1, *array.shape[1:]), name) for name, array in example.items()]
    single, width = np.dtype("float32"), report["action_dim"]
    outputs = [
        TensorSpec(single, (-1, report["n_action_steps"], width), "action"),
        TensorSpec(single, (-1, report["horizon"], width), "horizon"),
    ]
    params = ParamSchema([ParamSpec("seed", "long", -1)])
    return example, ModelSignature(Schema(inputs), Schema(outputs), params)
