"""A hand-written study and its trackers, for a server that a test controls."""

from PIL import Image
from study_events import WrittenStudy, space_document, study_spec

from esam_tune import journal
from esam_tune.study.tracked_study import TrackedStudy
from esam_tune.tracking.spool import Tracker

DATASET = {"name": "digits", "digest": "0123456789abcdef", "profile": {"train": 1000, "val": 300}}


class ShippedStudy:
    """A study in ``folder`` and what ships it to the server at ``uri``."""

    def __init__(self, folder, uri, *, spec=None, **started):
        self.folder = folder
        self.uri = uri
        self.cursor = folder / "tracking.json"
        self.study = WrittenStudy(
            folder / "journal.jsonl",
            spec or study_spec(),
            **{"git_commit": "1a2b3c4", "device": "CPU", "dataset": DATASET} | started,
        )

    def tracker(self, cursor=None):
        return Tracker(self.uri, None, self.study.path, cursor or self.cursor, TrackedStudy())

    def ship(self, seconds=60):
        """Ship what there is and stop, as a study's process does at its end."""
        tracker = self.tracker()
        tracker.start()
        arrived = tracker.close(seconds)
        assert not tracker._thread.is_alive()
        return arrived

    def write_all(self):
        """Every kind of event: two processes, several seeds, a front that changes, all ends."""
        study = self.study
        study.trial(0.7, 1.0, params={"optimizer": "sgd"}, baseline=True, label="SGD")
        study.trial(0.8, 1.6, number=0)
        failed = study.start(number=1)
        study.end(failed, "failed", "it *broke* <b>")
        self.write_end("interrupted")
        study.writer.append(journal.STUDY_RESUME)
        space = {**study.spec.to_dict(), "trials": 5}
        study.writer.append(journal.BUDGET, space=space)
        pruned = study.start(number=2)
        study.epoch(pruned, 1, val_accuracy=0.1, val_loss=None, step_flops_ratio=1.5)
        study.writer.append(journal.WORKERS, trial_id=pruned, setup={"workers": 2})
        study.writer.append(journal.CHECKPOINT, trial_id=pruned, path="tune/000")
        study.end(pruned, "pruned", "behind")
        study.trial(0.9, 1.4, number=3)
        for seed, accuracy in ((1, 0.92), (2, 0.94)):
            run = study.replicate("0004", seed)
            for epoch in (1, 2):
                study.epoch(run, epoch, val_accuracy=accuracy, step_flops_ratio=1.4)
            study.end(run)
        self.write_end("done")

    def write_end(self, state):
        """The study's end, with two artifacts, one named from its folder."""
        write_artifacts(self.folder)
        artifacts = [str(self.folder / "front.csv"), "front.png"]
        self.study.writer.append(journal.STUDY_END, state=state, artifacts=artifacts)


def write_artifacts(folder):
    """A table and a picture."""
    (folder / "front.csv").write_text("trial_id\n")
    Image.new("RGB", (1800, 1200)).save(folder / "front.png")


def write_folder(storage, **changes):
    """A study's folder as the verbs find it in a storage, with nothing in it but its start."""
    name = space_document(**changes)["name"]
    (storage / name).mkdir(parents=True)
    return storage / name


def files_with(folder, text):
    """Files below a folder, by name, that hold a text."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return [path.name for path in paths if text.encode() in path.read_bytes()]
