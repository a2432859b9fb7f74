"""The sampler's database in trouble: waited for while it may pass, made anew from the journal."""

import resource
import sqlite3
import threading

import pytest
from study_events import WrittenStudy, study_spec

from esam_tune.errors import RunFailedError
from esam_tune.study import optuna_storage, patience
from esam_tune.study.optuna_storage import open_optuna_storage
from esam_tune.study.patience import StoragePatience
from esam_tune.study.proposals import Proposals


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(patience, "_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(optuna_storage, "_LOCK_SECONDS", 0.05)


@pytest.fixture
def study(tmp_path):
    """A journal of three search trials, and the database that knows them, too."""

    class Study:
        written = WrittenStudy(tmp_path / "journal.jsonl", study_spec(trials=20))
        path = tmp_path / "optuna.db"

        def propose(self, index):
            number, params = self.open().ask(index, self.written.next_id)
            self.written.trial(0.5 + index / 10, 1.5, params=params, number=number)
            return params

        def open(self):
            proposals = Proposals(self.path, self.written.spec)
            proposals.settle(self.written.record())
            return proposals

    study = Study()
    for index in range(3):
        study.propose(index)
    study.open()
    return study


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "foreign":
        content[:] = b"not a database at all\n" * 400
    elif how == "pages":
        # From the second page on, where the tables are.
        content[4096 : 4096 * 4] = b"\xff" * (4096 * 3)
    elif how == "cut":
        del content[4096 * 3 + 17 :]
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["foreign", "pages", "cut", "missing"])
def test_a_damaged_database_is_put_aside_and_filled_anew_from_the_journal(study, how, caplog):
    whole = study.open().ask(3, "0003")
    if how == "missing":
        study.path.unlink()
    else:
        damage(study.path, how)
    again = study.open()
    # What it proposes next is what the whole one proposed: it knows the same.
    assert again.ask(3, "0003")[1] == whole[1]
    kept = study.path.with_name("optuna.db.damaged-0")
    assert kept.exists() == (how != "missing")
    assert ("is filled anew from the study's journal" in caplog.text) == (how != "missing")


def test_a_second_damage_keeps_the_first_ones_file(study):
    for _ in range(2):
        damage(study.path, "foreign")
        study.open()
    names = sorted(path.name for path in study.path.parent.glob("optuna.db*"))
    assert names == ["optuna.db", "optuna.db.damaged-0", "optuna.db.damaged-1"]


def test_a_database_that_another_program_holds_is_waited_for(study, caplog):
    other = sqlite3.connect(study.path, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    released = threading.Timer(0.5, other.rollback)
    waits = []

    def on_wait():
        if not waits:
            released.start()
        waits.append(1)

    storage = open_optuna_storage(study.path, StoragePatience("/data", on_wait))
    assert waits
    assert len(storage.get_all_studies()) == 1
    assert "database is locked" in caplog.text
    other.close()


def test_one_that_is_held_too_long_ends_the_study_in_words(study):
    other = sqlite3.connect(study.path)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(RunFailedError, match=r"database is locked.*--resume"):
        open_optuna_storage(study.path, StoragePatience("/data", lambda: None, seconds=0.2))
    other.close()


def test_a_full_disk_is_waited_for_and_the_trial_proposed_once(study):
    """The kernel's limit on the size of a file stands for the disk's."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def make_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    storage = open_optuna_storage(study.path, StoragePatience("/data", make_room))
    (stored,) = storage.get_all_studies()
    count = storage.get_n_trials(stored._study_id)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        storage._create_new_trial(stored._study_id, None)
    finally:
        make_room()
    assert storage.get_n_trials(stored._study_id) == count + 1


def test_damage_in_mid_study_ends_it_in_words_and_is_mended_by_the_next_process(study):
    storage = open_optuna_storage(study.path)
    (stored,) = storage.get_all_studies()
    storage.remove_session()
    storage.engine.dispose()
    damage(study.path, "foreign")
    with pytest.raises(RunFailedError, match=r"cannot be used .*--resume fills it anew"):
        storage._create_new_trial(stored._study_id, None)
    assert study.open().ask(3, "0003") is not None
