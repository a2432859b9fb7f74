"""What is there so that nothing is lost and nobody gets in, each with what takes it out.

For each protection: the line of code that it is, what stands there without it, and the tests that
must fail then. ``test_protections.py`` takes them out, one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Protection:
    """One protection.

    Args:
        of: what it is for: a heading of docs/reliability.md.
        name: what it does.
        file: that it stands in, in the package.
        code: that it is; occurs there once.
        without: what stands in its place where it is taken out.
        tests: module that must fail then.
    """

    of: str
    name: str
    file: str
    code: str
    without: str
    tests: str


def _of(heading: str, *rows: tuple[str, str, str, str, str]) -> list[Protection]:
    return [
        Protection(of=heading, name=name, file=file, code=code, without=without, tests=tests)
        for name, file, code, without, tests in rows
    ]


DRIVER = _of(
    "a killed driver",
    (
        "readers pass over a torn last line",
        "journal.py",
        'if not line.endswith(b"\\n"):\n                return',
        'if not line.endswith(b"\\n"):\n                pass',
        "test_journal.py",
    ),
    (
        "the next writer cuts a torn last line off",
        "journal.py",
        "if behind and (flags or self._torn.startswith(behind)):",
        "if behind and self._torn.startswith(behind):",
        "test_journal.py",
    ),
    (
        "zeros that a power loss left are passed over",
        "journal.py",
        "if _lost_power(line, file):",
        "if False:",
        "test_journal.py",
    ),
    (
        "zeros before what was written durably are refused",
        "journal.py",
        'if json.loads(later)["event"] in _DURABLE:',
        "if False:",
        "test_journal.py",
    ),
    (
        "a second writer is noticed",
        "journal.py",
        "if found.st_size != self._size:",
        "if False:",
        "test_journal.py",
    ),
    (
        "an epoch that is reported again is passed over",
        "study/study_run.py",
        "if int(result.get(keys.EPOCH, 0)) > run.epochs:",
        "if keys.EPOCH in result:",
        "test_study_run.py",
    ),
    (
        "checkpoints that are gone are not gone on from",
        "study/study_run.py",
        "tuple(path for path in reversed(checkpoints) if holds_checkpoint(where, path))",
        "tuple(reversed(checkpoints))",
        "test_study_run.py",
    ),
    (
        "a trial that had been stopped is ended, not gone on with",
        "study/study_run.py",
        "for run in [run for run in self._unfinished if self._reason(run.run_id)]:",
        "for run in list[RunRecord]():",
        "test_early_stopping.py",
    ),
    (
        "a proposal that never became a trial is dropped",
        "study/proposals.py",
        'self._turn_down(stored.number, "proposed by a process that died before use")',
        "pass",
        "test_proposals.py",
    ),
    (
        "the sampler is told of trials that its database lacks",
        "study/proposals.py",
        "                self._add(trial)",
        "                pass",
        "test_proposals.py",
    ),
    (
        "the sampler is told of ends that its database lacks",
        "study/proposals.py",
        '            elif trial.state != "running":\n                self.tell(trial)',
        "",
        "test_proposals.py",
    ),
    (
        "a running trial goes on from the checkpoints that are left",
        "study/study_run.py",
        '"resume_from": self._kept(run.checkpoints),',
        '"resume_from": (),',
        "test_study_run.py",
    ),
    (
        "training goes on from the checkpoint that was found",
        "trial.py",
        "resume=found.state, ",
        "resume=None, ",
        "test_trial.py",
    ),
    (
        "what must survive a power loss is on the disk before it counts",
        "journal.py",
        "if durable:\n                os.fsync(",
        "if False:\n                os.fsync(",
        "test_journal.py",
    ),
)

TRACKING = _of(
    "the tracking server away",
    (
        "a study's run is found again by its tag",
        "tracking/runs.py",
        "self.cursor.parent_run_id = studies[0].info.run_id if studies else None",
        "pass",
        "test_tracking.py",
    ),
    (
        "a trial's run is found again by its tag",
        "tracking/runs.py",
        "self.cursor.run_ids[trial_id] = kept",
        "pass",
        "test_tracking.py",
    ),
    (
        "of a run that was made twice the second goes",
        "tracking/runs.py",
        "self._client.delete_run(run.info.run_id)",
        "pass",
        "tracking/test_faulty_server.py",
    ),
    (
        "what the server alone refuses is set aside",
        "tracking/spool.py",
        "self.cursor.set_aside[str(begin)] = error_text(error, self._uri)",
        "pass",
        "tracking/test_faulty_server.py",
    ),
    (
        "two processes that ship take turns",
        "tracking/spool.py",
        "with turn(self._cursor_path):",
        "if True:",
        "tracking/test_two_trackers.py",
    ),
    (
        "a local store appears when all of its tables are there",
        "tracking/local_store.py",
        "made = Path(scratch, path.name)",
        "made = path",
        "tracking/test_local_store.py",
    ),
    (
        "a training's run is found again by its tag",
        "tracking/final.py",
        "        known[0]\n        if known\n        else client",
        "        known[0]\n        if False\n        else client",
        "tracking/test_live_training.py",
    ),
    (
        "a journal that lost its end is sent anew",
        "tracking/cursor.py",
        "if cursor.offset and not _event_ends_at(",
        "if False and not _event_ends_at(",
        "tracking/test_two_trackers.py",
    ),
)

CHECKPOINTS = _of(
    "checkpoints",
    (
        "a file with another digest is refused",
        "run_state.py",
        'if digest != manifest["sha256"]:',
        "if False:",
        "test_run_state.py",
    ),
    (
        "a manifest that was changed is refused",
        "run_state.py",
        'document["sha256"] == _digest_of(content) and',
        "",
        "test_run_state.py",
    ),
    (
        "nothing but tensors and plain values is loaded",
        "run_state.py",
        "weights_only=True",
        "weights_only=False",
        "test_unsafe_loading.py",
    ),
    (
        "another run's checkpoint is refused",
        "run_state.py",
        'if run is not None and manifest["run"] != run:',
        "if False:",
        "test_run_state.py",
    ),
    (
        "all workers' files are looked at",
        "run_state.py",
        'for rank in range(1, int(first["workers"])):',
        "for rank in range(0):",
        "test_run_state.py",
    ),
    (
        "a file appears under its name when it is whole",
        "run_state.py",
        'unfinished = path.with_name(f".{path.name}.unfinished")',
        "unfinished = path",
        "test_run_state.py",
    ),
    (
        "the checkpoint before a refused one is used",
        "resumption.py",
        "refused.append(str(CheckpointError(path, error.problem)))",
        "raise",
        "test_resumption.py",
    ),
    (
        "the optimizer goes on from where it was",
        "training.py",
        'optimizer.load_state_dict(resume["optimizer"])',
        "pass",
        "test_training.py",
    ),
    (
        "the learning rate goes on from where it was",
        "training.py",
        'schedule.load_state_dict(resume["schedule"])',
        "pass",
        "test_training.py",
    ),
    (
        "the order of the images goes on from where it was",
        "training.py",
        'batches.load_state_dict(resume["order"])',
        "pass",
        "test_training.py",
    ),
    (
        "the random streams go on from where they were",
        "training.py",
        'restore_streams(resume["random"], worker.device)',
        "pass",
        "test_training.py",
    ),
    (
        "the scale of the losses goes on from where it was",
        "optim/base.py",
        'if self.scaler is not None and "scaler" in own:',
        "if False:",
        "optim/test_mixed_precision.py",
    ),
    (
        "augmentation goes on from where it was",
        "tasks/batches.py",
        'self._generator.set_state(state["augmentation"])',
        "pass",
        "tasks/test_augmentation.py",
    ),
    (
        "a checkpoint that was not reported yet is not used",
        "checkpoint_storage.py",
        "if n < name and",
        "if n != name and",
        "test_resumption.py",
    ),
    (
        "a study's trials keep two checkpoints",
        "study/runner.py",
        "num_to_keep=2",
        "num_to_keep=None",
        "test_runner.py",
    ),
    (
        "a group keeps two checkpoints",
        "worker_group.py",
        "num_to_keep=2",
        "num_to_keep=None",
        "test_worker_group.py",
    ),
)

FAILURES = _of(
    "failures",
    (
        "a node that left while it was asked for its data holds no study up",
        "study/node_data.py",
        " or answer.gone",
        "",
        "test_node_data.py",
    ),
    (
        "nor one that left while it was asked for the checkpoints' place",
        "study/shared_storage.py",
        "return None if answer.gone else ",
        "return ",
        "test_shared_storage.py",
    ),
    (
        "a run that hangs is ended after as long as the command line says",
        "study/execution.py",
        "        max_epoch_seconds=options.max_epoch_seconds,\n",
        "",
        "test_execution.py",
    ),
    (
        "and one that is lost is tried again as often as it says",
        "study/execution.py",
        "        max_failures=options.max_failures,\n",
        "",
        "test_execution.py",
    ),
    (
        "what would fail the same again is not tried again",
        "failures.py",
        "return named or isinstance(error, _REPEATED) or _out_of_memory(error)",
        "return named",
        "test_failures.py",
    ),
    (
        "a lack of memory is named, with its remedy",
        "failures.py",
        'return f"{said}; {_MORE_MEMORY}"',
        "return said",
        "test_failures.py",
    ),
    (
        "what would help is told where the kernel may have killed for memory",
        "failures.py",
        'return f"{said}; if memory ran out: {_REMEDY}"',
        "return said",
        "test_failures.py",
    ),
    (
        "a loss that is no number ends the training",
        "training.py",
        "if not math.isfinite(train_loss):",
        "if False:",
        "test_training.py",
    ),
    (
        "weights that are no numbers end the training",
        "training.py",
        "if not math.isfinite(val_loss) and not _all_finite(model):",
        "if False:",
        "test_training.py",
    ),
    (
        "a silent trial has hung",
        "study/hang_watch.py",
        "if self._listened - at > self.limit]",
        "if False]",
        "test_hang_watch.py",
    ),
    (
        "time in which nobody listened is no silence",
        "study/hang_watch.py",
        "min(now - self._looked, _LONGEST_GAP_SECONDS)",
        "now - self._looked",
        "test_hang_watch.py",
    ),
    (
        "an objective that is no number fails its trial",
        "study/study_run.py",
        '        if lacking:\n            return "failed"',
        '        if False:\n            return "failed"',
        "test_study_run.py",
    ),
    (
        "a group's failure for good is not tried again",
        "worker_group.py",
        "if isinstance(error, RunFailure) and error.final:",
        "if False:",
        "test_worker_group.py",
    ),
    (
        "workers that found different checkpoints do not train together",
        "trial.py",
        "if worker.workers * squares != total**2:",
        "if False:",
        "test_trial.py",
    ),
    (
        "they compare what they found before they train",
        "trial.py",
        "_agree(worker, found)",
        "pass",
        "test_trial.py",
    ),
    (
        "a trial that failed for good is not tried again",
        "study/runner.py",
        "trial.max_failures = 0",
        "pass",
        "test_trial_events.py",
    ),
    (
        "a process that Ray killed for its memory is told from one that is lost",
        "failures.py",
        "        if found:\n            return (before + found).strip()\n",
        "",
        "test_failures.py",
    ),
    (
        "a lack of memory that a text alone tells has its remedy",
        "failures.py",
        "_with_remedy(said, text, out_of_memory=_tells_of_memory(text))",
        "said",
        "test_trial_events.py",
    ),
    (
        "a trial's reason is its last attempt's",
        "study/runner.py",
        "last = _HEADING.split(text)[-1]",
        "last = text",
        "test_trial_events.py",
    ),
    (
        "a trial is tried again as often as asked",
        "study/runner.py",
        "max_failures=request.max_failures",
        "max_failures=0",
        "test_runner.py",
    ),
    (
        "so is a group of workers",
        "worker_group.py",
        "max_failures=run.max_failures",
        "max_failures=0",
        "test_worker_group.py",
    ),
    (
        "a group is watched for failures that would come again",
        "worker_group.py",
        "callbacks=[TuneReportCallback(), _NoVainRetries()]",
        "callbacks=[TuneReportCallback()]",
        "test_worker_group.py",
    ),
    (
        "a group that is given up says why",
        "worker_group.py",
        "tune.report({FAILURE: describe(error)})",
        "pass",
        "test_worker_group.py",
    ),
    (
        "the end names each trial that failed",
        "study/closing.py",
        'if trial.state == "failed":',
        "if False:",
        "test_closing.py",
    ),
)

STORAGE = _of(
    "trouble of the storage",
    (
        "runs of a storage that was moved have their artifacts",
        "tracking/local_store.py",
        "            _follow_move(path)\n",
        "            pass\n",
        "tracking/test_local_store.py",
    ),
    (
        "a storage that is very slow is said to be",
        "study/patience.py",
        "if seconds >= _SLOW_SECONDS and not self._called_slow:",
        "if False:",
        "test_execution.py",
    ),
    (
        "a full or absent storage is waited for",
        "study/patience.py",
        "if time.monotonic() - begun >= self._seconds:",
        "if True:",
        "test_patience.py",
    ),
    (
        "a study's record waits for its storage",
        "study/execution.py",
        "writer = Journal(folder.journal, patience)",
        "writer = Journal(folder.journal)",
        "test_execution.py",
    ),
    (
        "so does its sampler",
        "study/execution.py",
        "        patience=patience,\n",
        "",
        "test_execution.py",
    ),
    (
        "an event is written whole or not at all",
        "journal.py",
        "self._torn = line\n            with suppress(OSError):\n                os.ftruncate(",
        "self._torn = line\n            with suppress(OSError):\n                max(",
        "test_journal.py",
    ),
    (
        "a clock that is set back turns no time back",
        "journal.py",
        "self._begun = max(time.time(), latest)",
        "self._begun = time.time()",
        "test_journal.py",
    ),
    (
        "a second process is kept out",
        "study/lock.py",
        "raise Held(_who(before)) from None",
        "return True",
        "test_folder.py",
    ),
    (
        "a lock that another host's living process beats in is respected",
        "study/lock.py",
        "return bool(found)",
        "return False",
        "test_lock.py",
    ),
    (
        "a process that got a dead one's number is not taken for it",
        "study/lock.py",
        "return bool(self.started) and _started(self.pid) == self.started",
        "return bool(_started(self.pid))",
        "test_lock.py",
    ),
    (
        "a locked or full database of the sampler is waited for",
        "study/sampler_database.py",
        "setattr(storage, name, _patient(getattr(storage, name), patience))",
        "pass",
        "test_sampler_database.py",
    ),
    (
        "a damaged database of the sampler is put aside",
        "study/sampler_database.py",
        "    path.rename(kept)",
        "    return",
        "test_sampler_database.py",
    ),
    (
        "a clock that is set on the way turns no time",
        "journal.py",
        "self._begun + _seconds() - self._clock",
        "time.time()",
        "test_journal.py",
    ),
    (
        "a lock whose file has gone meanwhile is not taken",
        "study/lock.py",
        "if not _same_file(path, descriptor):",
        "if False:",
        "test_lock.py",
    ),
    (
        "a disk without room is noticed before the start",
        "study/folder.py",
        "if free < _LEAST_FREE_MIB:",
        "if False:",
        "test_folder.py",
    ),
    (
        "a storage that takes no file is noticed before the start",
        "study/folder.py",
        "with tempfile.TemporaryFile(dir=storage):\n            pass",
        "pass",
        "test_folder.py",
    ),
    (
        "a storage is waited for that is read-only, failing or stale, too",
        "study/patience.py",
        "except OSError as error:",
        "except FileExistsError as error:",
        "test_patience.py",
    ),
    (
        "a tracking store that is locked refuses no record",
        "tracking/spool.py",
        "raise error from error.__cause__",
        "return",
        "test_storage_trouble.py",
    ),
    (
        "what a database answered is said, not what stands around it",
        "tracking/store.py",
        'said = getattr(error.__cause__, "orig", None) or error',
        "said = error",
        "test_storage_trouble.py",
    ),
    (
        "MLflow's tracebacks of it stay out",
        "tracking/store.py",
        'logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)',
        "pass",
        "test_storage_trouble.py",
    ),
    (
        "a sync that did not send all says so by its exit code",
        "cli/sync.py",
        'return DONE if document["arrived"] else FAILED',
        "return DONE",
        "test_storage_trouble.py",
    ),
)

SIGNALS = _of(
    "signals",
    (
        "the first signal is a wish that work is saved after",
        "study/signals.py",
        "        received.append(signal.Signals(number))\n        for name in WATCHED:",
        "        for name in WATCHED:",
        "test_signals.py",
    ),
    (
        "the second signal ends the process",
        "study/signals.py",
        "    def note(number: int, _frame: FrameType | None) -> None:\n"
        "        received.append(signal.Signals(number))\n        for name in WATCHED:",
        "    def note(number: int, _frame: FrameType | None) -> None:\n"
        "        received.append(signal.Signals(number))\n        for name in ():",
        "test_signals.py",
    ),
    (
        "the start of a process is not left in its midst",
        "study/signals.py",
        "        if _starts_a_process(frame):",
        "        if False:",
        "test_signals.py",
    ),
    (
        "a signal ends a command while Ray starts",
        "study/process_end.py",
        "    os._exit(128 + number)",
        "    pass",
        "test_process_end.py",
    ),
    (
        "what Ray has started by then ends with it",
        "study/process_end.py",
        "    kill_descendants(os.getpid())\n    os._exit(",
        "    os._exit(",
        "test_process_end.py",
    ),
    (
        "a start that is broken off leaves nothing",
        "study/process_end.py",
        "        if isinstance(error, KeyboardInterrupt) or watch.first is not None:",
        "        if False:",
        "test_process_end.py",
    ),
    (
        "a notebook does not end so",
        "study/process_end.py",
        "    watch = _watch\n    if watch is None:",
        "    watch = _watch or _Watch()\n    watch.start()\n    "
        "signal.set_wakeup_fd(watch.writing)\n    if watch is None:",
        "test_process_end.py",
    ),
    (
        "a second signal ends all at once",
        "study/process_end.py",
        "            elif self.first is not None:",
        "            elif False:",
        "test_process_end.py",
    ),
    (
        "a forked child's signals are its own",
        "study/process_end.py",
        "        signal.set_wakeup_fd(-1)",
        "        pass",
        "test_process_end.py",
    ),
    (
        "that of its C++ is put away",
        "study/cluster.py",
        "            with handlers_put_back(signal.SIGTERM):\n                _connect(",
        "            if True:\n                _connect(",
        "test_cluster.py",
    ),
    (
        "Ray's own handler of SIGTERM stays out",
        "study/cluster.py",
        "    utils.set_sigterm_handler = keep\n",
        "",
        "test_cluster.py",
    ),
    (
        "handlers are put back",
        "study/signals.py",
        "            if earlier is not None:",
        "            if False:",
        "test_signals.py",
    ),
    (
        "a signal ends the wait for a storage",
        "study/execution.py",
        "            raise StudyInterrupted",
        "            pass",
        "test_execution.py",
    ),
    (
        "which signal ended a study is kept",
        "study/execution.py",
        '"terminated" if signal.SIGTERM in stop else "interrupted"',
        '"interrupted"',
        "test_execution.py",
    ),
    (
        "a study that SIGTERM ended exits with 143",
        "cli/arguments.py",
        '"terminated": TERMINATED,',
        '"terminated": DONE,',
        "test_closing.py",
    ),
    (
        "a stopped study does not wait long for MLflow",
        "study/execution.py",
        "_TRACKER_SECONDS_STOPPED = 5.0",
        "_TRACKER_SECONDS_STOPPED = 30.0",
        "test_execution.py",
    ),
)

STRANGERS = _of(
    "strangers",
    (
        "YAML's tags are not read",
        "yaml_file.py",
        'if getattr(self.peek_event(), "tag", None) is not None:  # type: ignore[no-untyped-call]',
        "if False:",
        "test_yaml_file.py",
    ),
    (
        "YAML's aliases are not read",
        "yaml_file.py",
        "if self.check_event(yaml.events.AliasEvent):",
        "if False:",
        "test_yaml_file.py",
    ),
    (
        "depth and count of YAML's values are bounded",
        "yaml_file.py",
        "if self.depth > MAX_DEPTH or self.values > MAX_VALUES:",
        "if False:",
        "test_yaml_file.py",
    ),
    (
        "the size of a YAML file is bounded",
        "yaml_file.py",
        "if len(raw) > MAX_BYTES:",
        "if False:",
        "test_yaml_file.py",
    ),
    (
        "a study's name is a plain folder's",
        "study/space.py",
        'if name.startswith((".", "-")) or not set(name) <= _NAME_CHARACTERS:',
        "if False:",
        "test_space.py",
    ),
    (
        "a link is not taken for a study's folder",
        "study/folder.py",
        "if folder.path.is_symlink():",
        "if False:",
        "test_folder.py",
    ),
    (
        "credentials are left out of addresses that are shown",
        "tracking/store.py",
        "return f\"{parts.scheme}://{host}{'' if port is None else f':{port}'}{parts.path}\"",
        "return uri",
        "test_tracking.py",
    ),
    (
        "credentials are left out of a server's answers that are shown",
        "tracking/store.py",
        'if secret.strip("@"):',
        "if False:",
        "test_tracking.py",
    ),
    (
        "a server that is opened to others says so",
        "tracking/ui.py",
        "if not ipaddress.ip_address(address).is_loopback:",
        "if False:",
        "test_listening_e2e.py",
    ),
    (
        "what users typed is text in MLflow's description",
        "study/description.py",
        'replace("<", "&lt;")',
        'replace("<", "<")',
        "tracking/test_study_page.py",
    ),
    (
        "what users typed is text in the report",
        "report/page.py",
        "{escape(cell)}</td>",
        "{cell}</td>",
        "report/test_report_page.py",
    ),
    (
        "what a terminal would act on is spelled out",
        "errors.py",
        'return UNWANTED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)',
        "return text",
        "test_cli_trouble.py",
    ),
    (
        "pipes and devices are not read as YAML",
        "yaml_file.py",
        "if not stat.S_ISREG(kind):",
        "if False:",
        "test_yaml_file.py",
    ),
    (
        "control characters in YAML are refused",
        "yaml_file.py",
        "(found := UNWANTED.search(node.value))",
        "(found := None)",
        "test_yaml_file.py",
    ),
    (
        "a study's id is no path",
        "study/folder.py",
        "if not (study_id.isascii() and study_id.isalnum()):",
        "if False:",
        "test_folder.py",
    ),
    (
        "an export goes over nothing but YAML files",
        "study/comparison.py",
        'if path.suffix not in (".yaml", ".yml"):',
        "if False:",
        "test_cli_trouble.py",
    ),
    (
        "MLflow's interface listens on loopback",
        "cli/ui.py",
        'default="127.0.0.1"',
        'default="0.0.0.0"',
        "test_listening_e2e.py",
    ),
    (
        "what users typed is text in the report's sentences",
        "report/page.py",
        "return escape(text).replace(",
        "return text.replace(",
        "report/test_report_page.py",
    ),
    (
        "what users typed is text in a notebook's tables",
        "study/html_table.py",
        "return html.escape(cell.plain if isinstance(cell, Text) else str(cell))",
        "return cell.plain if isinstance(cell, Text) else str(cell)",
        "test_python_interface.py",
    ),
    (
        "what a repository configures is not run",
        "study/provenance.py",
        '"--no-filters", ',
        "",
        "test_provenance.py",
    ),
    (
        "a Ray of our own has its dashboard on loopback",
        "study/cluster.py",
        'dashboard_host="127.0.0.1",',
        'dashboard_host="0.0.0.0",',
        "test_cluster.py",
    ),
    (
        "and listens for no other node",
        "study/cluster.py",
        "ray_constants.ENABLE_RAY_CLUSTER = False",
        "pass",
        "test_cluster.py",
    ),
    (
        "nor do the processes that it starts",
        "study/cluster.py",
        'os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"',
        "pass",
        "test_cluster.py",
    ),
    (
        "keys of object stores stay out of its logs",
        "study/cluster.py",
        "passed_on -= keys",
        "pass",
        "test_cluster.py",
    ),
)

PROTECTIONS = [*DRIVER, *TRACKING, *CHECKPOINTS, *FAILURES, *STORAGE, *SIGNALS, *STRANGERS]
