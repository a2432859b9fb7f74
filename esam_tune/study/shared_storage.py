"""Whether all nodes of the cluster see the place where checkpoints are kept.

Nothing else of a study is shared: journal, Optuna's database, MLflow's store and pictures are
written by the driver alone. A trial's checkpoint is written on the node it runs on and read on the
node it goes on at, so a folder on the driver's own disk would lose every trial on another node.
"""

from __future__ import annotations

from esam_tune.checkpoint_storage import (
    OPTION,
    check_checkpoint_storage,
    is_remote,
    read_token,
    remove_token,
    token,
    write_token,
)
from esam_tune.errors import InputError
from esam_tune.study import peers
from esam_tune.study.peers import Ask, Silent

_ANSWER_SECONDS = 120.0

# What a node found, or None; the path and content of what it wrote, or why it could not.
Answer = tuple[str | None, tuple[str, str] | str]


def check_all_nodes_see(where: str, field: str, *, ask: Ask = peers.ask) -> None:
    """Require that what one node writes to a place is to be read on the others.

    Nodes that join later are not asked.

    Args:
        where: folder or URI, for checkpoints.
        field: option that named it.
        ask: asks the nodes; by default a task on each.

    Raises:
        InputError: naming ``field`` and a node that cannot use the place.
    """
    others = peers.peers()
    if not others:
        return
    check_checkpoint_storage(where, field)
    with token(where) as (path, content):
        answers = ask(others, exchange_tokens, where, path, seconds=_ANSWER_SECONDS)
        problems = [_problem(where, content, answer) for answer in answers]
    for peer, answer, problem in zip(others, answers, problems, strict=True):
        if problem:
            raise InputError(field, f"node {peer.address} {problem}", _remedy(where, answer))


def exchange_tokens(where: str, path: str) -> Answer:
    """Read what the driver wrote, and write something for it to read."""
    try:
        found = read_token(where, path)
    except (OSError, ValueError, ImportError) as error:
        return None, _one_line(error)
    try:
        return found, write_token(where)
    except (OSError, ValueError, ImportError) as error:
        return found, _one_line(error)


def _problem(where: str, content: str, answer: Answer | Silent) -> str | None:
    """What is wrong with a node's answer, in words, or None; what the node wrote is removed."""
    if isinstance(answer, Silent):
        return None if answer.gone else f"cannot run a worker ({answer.reason})"
    found, wrote = answer
    if isinstance(wrote, str):
        doing = "write to" if found == content else "read" if is_remote(where) else "see"
        return f"cannot {doing} {where!r}, where trials keep their checkpoints ({wrote})"
    path, own = wrote
    try:
        seen = read_token(where, path) == own
    except OSError:
        seen = False
    remove_token(where, path)
    return None if seen and found == content else f"has another place at {where!r} than this node"


def _remedy(where: str, answer: object) -> str:
    if isinstance(answer, Silent):
        return "install this package and its dependencies on every node, or submit it as a job"
    if is_remote(where):
        return "give every node the credentials and a way to the endpoint"
    return (
        f"add {OPTION} with a folder that all nodes share (NFS) or a URI such as s3://BUCKET/PATH"
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
