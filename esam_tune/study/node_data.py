"""Whether every node of the cluster has a study's data, or can get it, before any trial starts."""

from __future__ import annotations

from esam_tune.config import TaskSettings
from esam_tune.errors import InputError
from esam_tune.study import peers
from esam_tune.study.peers import Ask, Silent

# A node may have to download its data set first.
_ANSWER_SECONDS = 3600.0


def check_all_nodes_have(task: TaskSettings, gpus: float, *, ask: Ask = peers.ask) -> None:
    """Require the data on each node that runs now and could run a worker.

    Args:
        task: whose data it is.
        gpus: of a worker.
        ask: asks the nodes; by default a task on each.

    Raises:
        InputError: as the node itself found it, with the node's name.
    """
    others = peers.peers(gpus)
    answers = ask(others, prepare_data, task, seconds=_ANSWER_SECONDS) if others else []
    for peer, answer in zip(others, answers, strict=True):
        if not isinstance(answer, Silent) or answer.gone:
            continue
        wrong = answer.mistake
        if wrong is not None:
            raise InputError(wrong.field, f"on node {peer.address}: {wrong.problem}", wrong.remedy)
        raise InputError(
            "task.dataset",
            f"node {peer.address} cannot prepare {task.dataset} ({answer.reason})",
            "make the data and this package available there, or take the node out",
        )


def prepare_data(task: TaskSettings) -> None:
    """Check a task's data on this node, and fetch and prepare what is missing."""
    from esam_tune.tasks.data import checked_train_split

    checked_train_split(task)
