"""The cluster a study runs on: what it holds, and how Ray is started and connected to."""

import io
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray._private import ray_constants, utils, worker
from ray.tune.execution import class_cache

from esam_tune.errors import InputError, RunFailedError
from esam_tune.study import cluster, ray_messages


def test_this_machine_is_a_cluster_of_one_node():
    (node,) = cluster.local_nodes()
    assert node["CPU"] == cluster.local_cores()
    assert node["GPU"] >= 0


def test_a_clusters_nodes_are_those_that_run(monkeypatch):
    nodes = [
        {"Alive": True, "Resources": {"CPU": 4.0}},
        {"Alive": False, "Resources": {}},
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 4.0}},
    ]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    assert cluster.cluster_nodes() == [{"CPU": 4.0}, {"CPU": 8.0, "GPU": 4.0}]


@pytest.fixture
def ray_starts(monkeypatch, tmp_path):
    """Ray's start as it is seen from here: the options and the dashboard's address."""

    def pretend(dashboard_url, seen=None):
        def init(**options):
            if seen is not None:
                seen.append((options, os.environ.get("RAY_API_SERVER_ADDRESS")))
            # As its C++ does, behind Python's back.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            return SimpleNamespace(dashboard_url=dashboard_url)

        monkeypatch.setattr("ray.init", init)
        monkeypatch.setattr("ray.shutdown", lambda: None)
        monkeypatch.setattr("ray.nodes", list)
        monkeypatch.setattr(ray_messages, "_log_folder", lambda: tmp_path)

    before = signal.getsignal(signal.SIGTERM)
    yield pretend
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("address", [None, "auto"])
@pytest.mark.parametrize("distributed", [True, False])
@pytest.mark.parametrize("dashboard_url", ["127.0.0.1:8265", "", None])
def test_worker_groups_need_the_dashboard_of_a_cluster(
    ray_starts, address, distributed, dashboard_url
):
    ray_starts(dashboard_url)
    if address and distributed and not dashboard_url:
        with (
            pytest.raises(InputError, match=r"--address: .* 'auto' runs without its dashboard"),
            cluster.connected(address, distributed=distributed),
        ):
            pass
        return
    with cluster.connected(address, distributed=distributed) as nodes:
        assert nodes == []


@pytest.mark.parametrize("address", [None, "auto"])
def test_a_signal_while_ray_starts_is_not_rays(ray_starts, monkeypatch, address):
    """Its own handler raises SystemExit in the middle of whatever the process does."""
    received = []
    signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    ray_starts("127.0.0.1:8265")
    pretended, installs = ray.init, utils.set_sigterm_handler

    def init(**options):
        utils.set_sigterm_handler(lambda number, _frame: sys.exit(1))
        signal.raise_signal(signal.SIGTERM)
        return pretended(**options)

    monkeypatch.setattr("ray.init", init)
    with cluster.connected(address, distributed=False):
        assert received == [signal.SIGTERM]
    assert utils.set_sigterm_handler is installs


@pytest.mark.parametrize("exported", [None, "http://127.0.0.1:1"])
def test_a_ray_of_our_own_asks_its_own_dashboard(ray_starts, monkeypatch, exported):
    if exported is None:
        monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    else:
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", exported)
    ray_starts(None, seen := [])
    with cluster.connected(None, distributed=True):
        assert os.environ.get("RAY_API_SERVER_ADDRESS") == exported
    ((options, told),) = seen
    assert told == f"http://127.0.0.1:{options['dashboard_port']}"


@pytest.mark.parametrize(
    ("address", "of_the_job", "distributed", "told"),
    [
        ("192.0.2.1:6379", "192.0.2.9:6379", True, "192.0.2.1:6379"),
        ("auto", "192.0.2.9:6379", True, "192.0.2.9:6379"),
        ("auto", None, True, None),
        ("192.0.2.1:6379", None, False, None),
    ],
)
def test_groups_on_a_cluster_know_its_address(
    ray_starts, monkeypatch, address, of_the_job, distributed, told
):
    if of_the_job:
        monkeypatch.setenv("RAY_ADDRESS", of_the_job)
    else:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray_starts("192.0.2.1:8265", seen := [])
    with cluster.connected(address, distributed=distributed):
        pass
    ((options, _),) = seen
    wanted = {"env_vars": {"RAY_ADDRESS": told}} if told else None
    assert options["runtime_env"] == wanted


def test_what_ray_says_goes_to_its_log_while_it_is_connected(ray_starts, tmp_path):
    ray_starts(None)
    terminal = io.StringIO()
    handler = logging.StreamHandler(terminal)
    logging.getLogger("ray").addHandler(handler)
    speaker = logging.getLogger("ray.tune")
    try:
        with cluster.connected(None, distributed=False):
            speaker.error("a trial failed\nTraceback ...")
            assert terminal.getvalue() == ""
        (log,) = tmp_path.glob("esam-tune-*.log")
        assert "ERROR ray.tune: a trial failed\nTraceback ..." in log.read_text()
        speaker.error("no longer connected")
    finally:
        logging.getLogger("ray").removeHandler(handler)
    assert terminal.getvalue() == "no longer connected\n"
    assert "no longer connected" not in log.read_text()


def test_what_nodes_say_is_not_printed(ray_starts, monkeypatch, tmp_path, capsys):
    ray_starts(None)
    polled = iter(
        [
            (b"", {"job_id": b"our", "error_message": "The node with node id: 12ab was lost"}),
            (b"", {"job_id": b"their", "error_message": "not ours"}),
        ]
    )
    gone = threading.Event()

    def poll():
        try:
            return next(polled)
        except StopIteration:
            gone.set()
            return b"", None

    of_ours = SimpleNamespace(
        gcs_error_subscriber=SimpleNamespace(subscribe=lambda: None, poll=poll),
        current_job_id=SimpleNamespace(binary=lambda: b"our"),
    )
    prints = worker.print_to_stdstream
    with cluster.connected(None, distributed=False):
        # Ray's own thread, as it is.
        worker.listen_error_messages(of_ours, gone)
    assert worker.print_to_stdstream is prints
    (log,) = tmp_path.glob("esam-tune-*.log")
    assert "WARNING ray.raylet: The node with node id: 12ab was lost" in log.read_text()
    assert "not ours" not in log.read_text()
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""


def test_rays_log_that_cannot_be_written_ends_nothing(ray_starts, monkeypatch, tmp_path):
    ray_starts(None)
    monkeypatch.setattr(ray_messages, "_log_folder", lambda: tmp_path / "none")
    with cluster.connected(None, distributed=False) as nodes:
        assert nodes == []


def test_rays_start_leaves_a_handler_of_ours_in_place(ray_starts):
    ray_starts(None)
    stops = []
    signal.signal(signal.SIGTERM, lambda number, frame: stops.append(number))
    with cluster.connected(None, distributed=False):
        signal.raise_signal(signal.SIGTERM)
    assert stops == [signal.SIGTERM]


LATE = Exception("The current node timed out during startup.\nMore.")
ASLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def test_a_ray_that_is_late_is_started_once_more(ray_starts, monkeypatch, caplog):
    ray_starts(None, seen := [])
    starts, rays, users = ray.init, [], []

    def late(**options):
        users.append(subprocess.Popen(ASLEEP))
        rays.append(subprocess.Popen([*ASLEEP, str(Path(ray.__file__).parent / "raylet")]))
        monkeypatch.setattr("ray.init", starts)
        raise LATE

    monkeypatch.setattr("ray.init", late)
    try:
        with cluster.connected(None, distributed=False):
            # What Ray has started of the first time is gone, and nothing of others'.
            assert rays[0].wait(10) == -signal.SIGKILL
            assert users[0].poll() is None
    finally:
        for process in users + rays:
            process.kill()
            process.wait()
    assert len(seen) == len(users) == 1
    assert "trying once more" in caplog.text


@pytest.mark.parametrize("error", [LATE, RuntimeError("")])
def test_a_ray_that_does_not_start_is_a_failure_in_words(monkeypatch, error):
    def fail(**_):
        raise error

    monkeypatch.setattr("ray.init", fail)
    reason = str(error).partition("\n")[0] or "RuntimeError"
    with pytest.raises(RunFailedError) as caught, cluster.connected(None, distributed=False):
        pytest.fail("there is no cluster")
    assert f"Ray did not start on this machine ({reason})" in str(caught.value)
    assert "More" not in str(caught.value)


@pytest.mark.parametrize("address", [None, "auto"])
def test_a_ray_of_our_own_is_kept_to_this_machine_and_without_keys(
    ray_starts, monkeypatch, address
):
    monkeypatch.delenv(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, raising=False)
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    passed_on = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "S3_ENDPOINT"}
    monkeypatch.setattr(class_cache, "ENV_VARS_TO_PROPAGATE", set(passed_on))

    def seen():
        return (
            ray_constants.ENABLE_RAY_CLUSTER,
            os.environ.get(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR),
            set(class_cache.ENV_VARS_TO_PROPAGATE),
        )

    ray_starts("127.0.0.1:8265", asked := [])
    pretended, starting = ray.init, []

    def init(**options):
        starting.append(seen())
        return pretended(**options)

    monkeypatch.setattr("ray.init", init)
    before = seen()
    with cluster.connected(address, distributed=False):
        # Trials start now, and Tune looks for what they are to inherit.
        starting.append(seen())
    assert seen() == before
    ((options, _),) = asked
    if address is None:
        assert options["dashboard_host"] == "127.0.0.1"
        assert starting == [(False, "0", {"S3_ENDPOINT"})] * 2
    else:
        # How it listens is its administrator's matter, and its nodes have no keys of ours.
        assert "dashboard_host" not in options
        assert starting == [(True, None, passed_on)] * 2
