"""What a study's runs show and may change: state, description, marks, and the files beside them."""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from esam_tune.tracking.store import DESCRIPTION_LENGTH, log_tags

# Tags that come and go.
_MARKS = ("pareto", "chosen")
_NOTE = "mlflow.note.content"
_FRONT_PICTURE = "front.png"
# MLflow shows a picture in a description as large as it is: this is as wide as there is room.
_PICTURE_FOLDER, _PICTURE_WIDTH = "description", 720


class StudyPage:
    """Sends what differs from what the server shows, as far as that is known.

    Args:
        client: of MLflow.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._tags: dict[str, dict[str, str]] = {}
        self._status: dict[str, str] = {}

    def forget(self) -> None:
        """Take nothing for known."""
        self._tags, self._status = {}, {}

    def know(self, run_id: str, status: str, tags: Mapping[str, str]) -> None:
        """Take it that the server shows this."""
        self._status[run_id], self._tags[run_id] = status, dict(tags)

    def show_status(self, run_id: str, status: str, ended: int | None) -> None:
        """Set a run's state, and the time of its end in milliseconds, if it has ended."""
        if self._status.get(run_id) == status:
            return
        if ended is None:
            self._client.update_run(run_id, status=status)
        else:
            self._client.set_terminated(run_id, status, end_time=ended)
        self._status[run_id] = status

    def show_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set the marks of a run that differ, and clear those that it no longer has."""
        shown = self._tags.setdefault(run_id, {})
        new = {key: value for key, value in tags.items() if shown.get(key) != value}
        if new:
            log_tags(self._client, run_id, new)
            shown.update(new)
        for key in _MARKS:
            if key in shown and key not in tags:
                self._client.delete_tag(run_id, key)
                del shown[key]

    def show_description(self, run_id: str, text: str, artifacts: Iterable[str]) -> None:
        """Set a run's description, in Markdown, with the front's picture if that was logged."""
        picture = ""
        if any(Path(path).name == _FRONT_PICTURE for path in artifacts):
            # Relative to MLflow's page, whatever address that was opened at.
            path = f"{_PICTURE_FOLDER}/{_FRONT_PICTURE}"
            source = f"get-artifact?path={path}&run_uuid={run_id}"
            picture = f"\n\n![Accuracy against cost of all trials]({source})"
        text = text[: DESCRIPTION_LENGTH - len(picture)] + picture
        shown = self._tags.setdefault(run_id, {})
        if shown.get(_NOTE) != text:
            self._client.set_tag(run_id, _NOTE, text)
            shown[_NOTE] = text


def log_artifact(client: Any, run_id: str, folder: Path, listed: str) -> None:
    """Log a file or folder of a study; the front's picture also in the size of a description.

    Args:
        client: of MLflow.
        run_id: of the study's run.
        folder: of the study.
        listed: path from ``folder``, or absolute. What is gone is passed over.
    """
    path = folder / listed
    if not path.exists():
        # The storage may have been moved since.
        path = folder / path.name
    if path.is_dir():
        client.log_artifacts(run_id, str(path), path.name)
    elif path.exists():
        client.log_artifact(run_id, str(path))
        if path.name == _FRONT_PICTURE:
            _log_small(client, run_id, path)


def _log_small(client: Any, run_id: str, picture: Path) -> None:
    from PIL import Image

    with tempfile.TemporaryDirectory() as scratch:
        small = Path(scratch, picture.name)
        with Image.open(picture) as image:
            image.thumbnail((_PICTURE_WIDTH, image.height))
            image.save(small)
        client.log_artifact(run_id, str(small), _PICTURE_FOLDER)
