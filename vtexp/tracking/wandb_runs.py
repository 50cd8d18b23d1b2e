"""Runs in the form of Weights & Biases: logged on this machine, uploaded by W&B's own command.

Logging needs no network. The upload is a process of its own, killed when its time is up: whatever
the network does, it costs no more, and what was logged stays for a later try. A run keeps its id,
so that W&B never has it twice.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

import vtexp
from vtexp.config.schema import TrackingConfig
from vtexp.data.sample import Sample
from vtexp.errors import DataError
from vtexp.runs.records import Result, flat_values, read_result
from vtexp.utils import files
from vtexp.utils.extras import require_extra
from vtexp.utils.text import public
from vtexp.utils.typed import Misfit, from_json

if TYPE_CHECKING:
    import wandb

#: File of a run folder that says what W&B was told of the run.
MIRRORED = "wandb.json"
#: Folder of a sweep's that holds W&B's own files.
WANDB = "wandb"
#: Rows of a table: W&B shows no more. The rest is in the run folder.
MOST_ROWS = 10_000
#: Rows of a table that have their image, and its longest side there.
MOST_IMAGES = 32
THUMBNAIL_PX = 320
#: Characters of a cell.
MOST_CHARACTERS = 2000
#: The project where neither the config nor the environment names one.
PROJECT = "vtexp"
#: Runs that are uploaded together.
BATCH = 10
#: Variables by which W&B takes a new run for another, such as that of the agent of a W&B sweep that
#: started vtexp: all runs of a sweep would have its id and overwrite each other.
_OF_ANOTHER_RUN = (
    *("WANDB_RUN_ID", "WANDB_RESUME", "WANDB_RESUME_FROM", "WANDB_FORK_FROM"),
    *("WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH"),
)
# Once imported, `wandb` reports its own errors to its makers' server, even offline. Only uploads
# may use the network.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")


@dataclass(frozen=True)
class Mirrored:
    """What W&B was told: under which id, logged in which folder, whether uploaded.

    content: fingerprint of what was logged. The folder is absolute, as W&B's files name others by
    their place: of a sweep that was moved or copied, what is not uploaded is logged again.
    """

    id: str
    content: str
    folder: str
    uploaded: bool = False

    def is_logged_in(self, sweep: Path) -> bool:
        """Whether its folder is there, and is W&B's of this sweep.

        A file that came with a sweep may name any folder, which is neither deleted nor uploaded.
        """
        folder = Path(self.folder)
        with suppress(OSError, ValueError, RuntimeError):  # such as a link to itself
            own = folder.resolve().parent == (sweep / WANDB).resolve()
            return own and folder.is_dir()
        return False


@dataclass(frozen=True)
class About:
    """How a run is filed in W&B; its group is the sweep."""

    id: str
    name: str
    job_type: str
    tags: Sequence[str]
    config: dict[str, Any]


def destination(tracking: TrackingConfig) -> tuple[str | None, str]:
    """Entity (None: the user's default) and project: those configured, else those of W&B's own
    environment variables."""
    entity = tracking.entity or os.environ.get("WANDB_ENTITY") or None
    return entity, tracking.project or os.environ.get("WANDB_PROJECT") or PROJECT


def read_mirrored(path: Path) -> Mirrored | None:
    """What W&B was told, None if nothing or nothing that this version wrote."""
    with suppress(DataError, Misfit):
        return from_json(Mirrored, files.read_json(path))
    return None


def log_run(tracking: TrackingConfig, folder: Path, samples: Iterable[Sample] = ()) -> Mirrored:
    """Log a finished run folder: config, summary, environment and the table of samples.

    `samples` give the table its images. A run that was logged as it is now is not logged again.
    """
    result, sweep = read_result(folder), folder.parent
    values = public(summary(result))
    config = public(files.read_config(folder))
    config["hardware"].pop("slurm", None)  # of no number, and its shell lines are nobody's business
    config |= {"environment": public(files.read_json(folder / files.ENVIRONMENT))}
    config["knob_number"] = knob_number(result.knob_value)
    tags = [result.model, result.dataset, result.hardware, *tracking.tags]
    about = About(result.run_id, result.run, result.knob, tags, config)

    def fill(run: wandb.Run) -> None:
        run.summary.update(values)
        run.log({"samples": _samples_table(folder, samples)})

    return log(tracking, sweep, folder / MIRRORED, about, values, fill)


def knob_number(value: str) -> float | None:
    """A knob's value as a number, by which W&B sorts: of a size HxW its pixels, None of others.

    >>> knob_number("560x336"), knob_number("12")
    (188160.0, 12.0)
    """
    parts = value.split("x")
    return float(math.prod(map(int, parts))) if all(map(str.isdecimal, parts)) else None


def log(
    tracking: TrackingConfig,
    sweep: Path,
    path: Path,
    about: About,
    content: Any,
    fill: Callable[[wandb.Run], None],
) -> Mirrored:
    """Log a run to a folder of the sweep, as `path` then says.

    Skipped if this content is already there for the same project.
    """
    told = json.dumps([destination(tracking), content])
    fingerprint = hashlib.sha256(told.encode()).hexdigest()[:16]
    before = read_mirrored(path)
    if before is not None:
        there = before.is_logged_in(sweep)
        if before.content == fingerprint and (there or before.uploaded):
            return before
        if there:  # replaced: uploading both would be for nothing
            shutil.rmtree(before.folder, ignore_errors=True)
    own_id = sweep_id(sweep)
    about = replace(about, id=f"{about.id}-{own_id}", config=about.config | {"sweep_id": own_id})
    folder = _log_offline(tracking, sweep, about, fill)
    mirrored = Mirrored(about.id, fingerprint, str(folder))
    files.write_json(path, asdict(mirrored))
    return mirrored


def _log_offline(
    tracking: TrackingConfig, sweep: Path, about: About, fill: Callable[[wandb.Run], None]
) -> Path:
    """Log a run on this machine; the folder with its `.wandb` file."""
    require_extra("wandb", f"tracking={tracking.name}")
    import wandb

    os.environ.update(_folders(sweep))
    entity, project = destination(tracking)
    with _a_run_of_its_own():
        run = wandb.init(
            project=project,
            entity=entity,
            group=sweep.name,
            job_type=about.job_type,
            name=about.name,
            id=about.id,
            tags=list(dict.fromkeys(about.tags)),
            config=about.config,
            dir=sweep,
            mode="offline",
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                save_code=False,
                # The run is over: this process's load, arguments and user are not its.
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
            ),
        )
    try:
        fill(run)
    finally:
        run.finish()
    return Path(run.dir).resolve().parent


@contextmanager
def _a_run_of_its_own() -> Iterator[None]:
    """W&B's library is not told of the run that this process may be a part of."""
    names = [name for name in _OF_ANOTHER_RUN if name in os.environ]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _folders(sweep: Path) -> dict[str, str]:
    """Environment in which W&B writes into the sweep's folder and never into the home directory."""
    folder = sweep / WANDB
    folder.mkdir(exist_ok=True)
    return {"WANDB_DIR": str(sweep), "WANDB_DATA_DIR": str(folder), "WANDB_CACHE_DIR": str(folder)}


def sweep_id(sweep: Path) -> str:
    """8 hex digits that are this sweep's alone, for good: names can be taken twice.

    Raises DataError where the file that keeps them is damaged.
    """
    path = sweep / WANDB / "sweep_id"
    if not path.is_file():
        own = uuid.uuid4().hex[:8]
        partial = path.with_name(f"{path.name}.{own}.partial")
        files.write_text(partial, own)
        with suppress(FileExistsError):  # of several processes, the first names the sweep
            os.link(partial, path)
        partial.unlink()
    found = path.read_bytes()
    if not re.fullmatch(rb"[0-9a-f]{8}", found):
        said = "is not 8 hex digits; delete it, and W&B gets the sweep once more under a new id"
        raise DataError(f"{path}: {said}")
    return found.decode()


def summary(result: Result) -> dict[str, Any]:
    """A result under the names of comparison.csv's columns; of it only what is None is left out."""
    return {key: value for key, value in flat_values(result).items() if value is not None}


def _samples_table(folder: Path, samples: Iterable[Sample]) -> wandb.Table:
    rows = public(list(islice(files.rows_of(folder / files.SAMPLES), MOST_ROWS)))
    shown = {row["sample_id"] for row in rows[:MOST_IMAGES]}
    images = {s.sample_id: _thumbnail(s) for s in samples if s.sample_id in shown}
    if not images:
        return table(rows)
    import wandb

    drawn = {key: wandb.Image(image, file_type="jpg") for key, image in images.items() if image}
    return table([{"image": drawn.get(row["sample_id"])} | row for row in rows])


def _thumbnail(sample: Sample) -> Image.Image | None:
    """The image of a sample, small; None where it cannot be read."""
    try:
        image = Image.fromarray(sample.pixels())
    except DataError:
        return None
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return image


def table(rows: Sequence[dict[str, Any]]) -> wandb.Table:
    """Rows as a table of W&B's; their keys can differ."""
    import wandb

    columns: list[Any] = list(dict.fromkeys(column for row in rows for column in row))
    own = [_one_kind([_cell(row.get(column)) for row in rows]) for column in columns]
    return wandb.Table(columns=columns, data=[list(cells) for cells in zip(*own, strict=True)])


def _one_kind(cells: list[Any]) -> list[Any]:
    """Cells of a column, as text where they are of several kinds: W&B takes no such column."""
    kinds = {float if type(cell) is int else type(cell) for cell in cells if cell is not None}
    if len(kinds) <= 1:
        return cells
    return [None if cell is None else str(cell) for cell in cells]


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        value = "; ".join(map(str, value))
    return value[:MOST_CHARACTERS] if isinstance(value, str) else value


def upload(sweep: Path, paths: Sequence[Path], timeout_s: float) -> str | None:
    """Upload what `paths` (files as of `log`) say is not uploaded; why not all is, None if it is.

    Runs that are uploaded, by this or by hand, are skipped. The first is tried alone, for at most
    `timeout_s` seconds, to see whether W&B takes any; the others get as much each. Nothing is
    uploaded from folders elsewhere: `log` logs such a run here.
    """
    logged = {path: found for path in paths if (found := read_mirrored(path)) is not None}
    waiting = [path for path, found in logged.items() if not found.uploaded]
    for path in waiting:
        if not logged[path].is_logged_in(sweep):
            return f"{path}: its folder of W&B is not one of this sweep"
    batches = [waiting[:1], *(waiting[i : i + BATCH] for i in range(1, len(waiting), BATCH))]
    for batch in filter(None, batches):
        folders = [logged[path].folder for path in batch]
        said, refused = _sync(sweep, folders, timeout_s * len(batch))
        for path in batch:
            folder = Path(logged[path].folder)
            marks = list(folder.glob("*.synced"))  # W&B's
            if reason := refused.get(folder):
                for mark in marks:
                    mark.unlink()
                return said or reason
            if not marks:
                return said or "not all was taken"
            files.write_json(path, asdict(replace(logged[path], uploaded=True)))
    return None


def _sync(sweep: Path, folders: Sequence[str], timeout_s: float) -> tuple[str, dict[Path, str]]:
    """Call W&B's own command; the line of its error, and what was refused of which folder.

    It reports files that a server refuses only in its log, and marks their run as uploaded.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as logs:
        command = [sys.executable, "-m", "wandb", "sync", *folders]
        said = attend(command, sweep, timeout_s, {"WANDB_DIR": logs})
        refused: dict[Path, str] = {}
        for log in Path(logs).rglob("debug-sync*.log"):
            for line in log.read_text().splitlines():
                with suppress(ValueError, KeyError):  # of the client itself, or cut short
                    row = json.loads(line)
                    if row["level"] == "ERROR" and "failed" in row["msg"]:
                        refused[Path(row["sync_path"]).parent] = row["msg"]
    return said, refused


def attend(
    command: Sequence[str], sweep: Path, timeout_s: float, settings: Mapping[str, str] | None = None
) -> str:
    """Run a command that uses the network; its last line of an error, "" if it had none.

    `settings`: further environment variables. Killed after `timeout_s` seconds, or when this
    process is asked to stop.
    """
    path = os.pathsep.join((str(Path(vtexp.__file__).parents[1]), *sys.path[1:]))
    environment = os.environ | _folders(sweep) | {"WANDB_MODE": "online", "PYTHONPATH": path}
    environment |= settings or {}
    environment = {key: own for key, own in environment.items() if key not in _OF_ANOTHER_RUN}
    with tempfile.TemporaryFile("w+", errors="replace") as output:  # a pipe could outlive it
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return f"no answer within {timeout_s:g} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        lines = [line.strip() for line in output if re.search(r"error\b", line, re.IGNORECASE)]
        return lines[-1].removeprefix("wandb: ").removeprefix("ERROR ") if lines else ""
