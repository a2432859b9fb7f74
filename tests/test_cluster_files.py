"""The cluster files: Ray's own schema, and that what they say fits together and to the package."""

import copy
import re
import shlex
import subprocess
from pathlib import PurePosixPath

import pytest
import yaml
from conftest import REPOSITORY

from esam_tune import cli

CLUSTERS = REPOSITORY / "jobs" / "clusters"
PINNED = dict(
    line.split("==")
    for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").split()
    if "==" in line
)


def load(name):
    return list(yaml.safe_load_all((CLUSTERS / name).read_text(encoding="utf-8")))


@pytest.fixture(params=["on-premise.yaml", "aws.yaml"])
def launcher_file(request):
    (document,) = load(request.param)
    return document


@pytest.fixture
def job():
    (document,) = (d for d in load("kuberay-rayjob.yaml") if d["kind"] == "RayJob")
    return document["spec"]


@pytest.fixture
def groups(job):
    """Name, start parameters, pod and Ray's container of each group of nodes."""
    cluster = job["rayClusterSpec"]
    found = []
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        found.append((group.get("groupName", "head"), group["rayStartParams"], pod, container))
    return found


def test_rays_launcher_accepts_the_file(launcher_file):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(launcher_file)))


def test_rays_launcher_refuses_a_field_it_does_not_know(launcher_file):
    """That the check above checks."""
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config({**copy.deepcopy(launcher_file), "max_wokers": 3})
    with pytest.raises(jsonschema.ValidationError, match="max_wokers"):
        validate_config(config)


def test_the_package_its_pins_and_the_token_go_to_every_node(launcher_file):
    mounts = {
        PurePosixPath(remote).name: local for remote, local in launcher_file["file_mounts"].items()
    }
    assert mounts.pop("auth_token") == "~/.ray/auth_token"
    for name, local in mounts.items():
        assert name == local
        assert (REPOSITORY / local).exists()
    assert {"esam_tune", "jobs", "search_spaces", "pyproject.toml", "constraints.txt"} <= set(
        mounts
    )
    installs = [c for c in launcher_file["setup_commands"] if "pip install" in c]
    assert len(installs) == 1
    assert "-c ~/esam-tune/constraints.txt -e ~/esam-tune" in installs[0]


def test_the_folders_that_docker_makes_for_the_mounts_are_given_to_the_images_user():
    """Docker makes them root's, and the installation writes into one of them."""
    (config,) = load("aws.yaml")
    home = PurePosixPath("/home/ray")
    made = {PurePosixPath(path).parent for path in config["file_mounts"]} - {home}
    give, *_, install = config["setup_commands"]
    assert give.startswith("sudo chown ")
    assert {word for word in shlex.split(give) if word.startswith("~")} == {
        f"~/{folder.relative_to(home)}" for folder in made
    }
    assert "pip install" in install


def test_no_node_starts_without_a_token_and_no_dashboard_is_open(launcher_file):
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [c for c in launcher_file[key] if "ray start" in c]
        assert len(starts) == 1
        assert "RAY_AUTH_MODE=token ray start" in starts[0]
    (head,) = (c for c in launcher_file["head_start_ray_commands"] if "ray start" in c)
    assert "--dashboard-host=127.0.0.1" in head


def test_a_list_of_hosts_has_the_autoscaler_that_starts_them():
    """Ray's second one never does: tests/test_several_hosts_e2e.py, which is long, would fail."""
    (config,) = load("on-premise.yaml")
    (start,) = (c for c in config["head_start_ray_commands"] if "ray start" in c)
    assert start.startswith("RAY_enable_autoscaler_v2=0 ")


def test_aws_workers_are_spot_gpu_nodes_that_scale_and_the_head_is_not():
    (config,) = load("aws.yaml")
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert "InstanceMarketOptions" not in head["node_config"]
    (worker,) = types.values()
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    # What a study asks for with --await-workers, and nothing while none does.
    assert 0 == worker["min_workers"] < worker["max_workers"] <= config["max_workers"]
    assert config["docker"]["image"].endswith("-gpu")


def test_both_kinds_of_aws_nodes_have_an_image_for_the_autoscaler_that_starts_the_workers():
    """Ray's second one, which fails on a worker whose image is not `image`, and on no other."""
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    (config,) = load("aws.yaml")
    read = AutoscalingConfig(config, skip_content_hash=True)
    for node_type, kind in (("head", "cpu"), ("gpu-worker", "gpu")):
        assert read.get_docker_config(node_type)["image"].endswith(f"-{kind}")


def test_aws_nodes_name_an_image_newer_than_rays_own_choice():
    """Ray's is of Ubuntu 18.04 and CUDA 11.2, whose driver the pinned torch cannot use."""
    (config,) = load("aws.yaml")
    for node_type in config["available_node_types"].values():
        assert node_type["node_config"]["ImageId"].startswith("ami-")


def ray_commands(text):
    """Each indented `ray` command of a document or a file's comments, put on one line."""
    joined = re.sub(r"\\\n#?\s*", " ", text)
    pattern = r"^#? {3,}(?:RAY_AUTH_MODE=token )?(?:\.venv/bin/)?ray ([a-z].*)$"
    for command in re.findall(pattern, joined, re.MULTILINE):
        # What stands beside a command, some spaces away, is prose.
        yield shlex.split(re.split(r" {2,}", command)[0], comments=True)


@pytest.mark.parametrize(
    "path", ["docs/clusters.md", "jobs/clusters/on-premise.yaml", "jobs/clusters/aws.yaml"]
)
def test_the_ray_commands_have_verbs_and_options_that_exist(path):
    from ray.scripts.scripts import cli as ray_cli

    found = list(ray_commands((REPOSITORY / path).read_text(encoding="utf-8")))
    assert len(found) > 5
    for words in found:
        command = ray_cli
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        words = words[: words.index("--")] if "--" in words else words
        assert {w.partition("=")[0] for w in words if w.startswith("-")} <= known


def images():
    (aws,) = load("aws.yaml")
    dockerfile = (CLUSTERS / "Dockerfile").read_text(encoding="utf-8")
    return [
        aws["docker"]["head_image"],
        aws["docker"]["image"],
        re.search(r"^ARG RAY_IMAGE=(\S+)$", dockerfile, re.MULTILINE)[1],
    ]


@pytest.mark.parametrize("image", images())
def test_images_carry_the_pinned_ray_and_a_python_that_the_package_takes(image):
    assert re.fullmatch(rf"rayproject/ray:{re.escape(PINNED['ray'])}-py311-(cpu|gpu)", image)


def test_the_dockerfile_copies_what_the_installation_needs():
    text = (CLUSTERS / "Dockerfile").read_text(encoding="utf-8")
    copied = {
        source
        for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE)
        for source in line.split()[:-1]
        if not source.startswith("--")
    }
    assert all((REPOSITORY / source).exists() for source in copied)
    assert {
        "pyproject.toml",
        "constraints.txt",
        "README.md",
        "LICENSE",
        "esam_tune",
        "jobs",
    } <= copied


def test_the_rayjobs_entry_point_is_a_command_of_the_image_that_parses(job):
    dockerfile = (CLUSTERS / "Dockerfile").read_text(encoding="utf-8")
    root = re.search(r"^WORKDIR (\S+)$", dockerfile, re.MULTILINE)[1]
    command, script, *arguments = job["entrypoint"].split()
    assert (command, script) == ("python", f"{root}/jobs/sweep.py")
    options = cli.build_parser().parse_args(["sweep", *arguments])
    assert (REPOSITORY / options.space.relative_to(root)).is_file()
    assert options.storage.is_absolute()


def test_the_rayjob_keeps_the_study_on_a_volume_that_every_node_mounts(job, groups):
    (claim,) = (d for d in load("kuberay-rayjob.yaml") if d["kind"] == "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    storage = job["entrypoint"].split("--storage ")[1].split()[0]
    for _, _, pod, container in groups:
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(mounts.values()) == set(volumes)
        shared = volumes[mounts[storage]]["persistentVolumeClaim"]
        assert shared["claimName"] == claim["metadata"]["name"]


def test_what_a_rayjobs_containers_ask_for_is_what_ray_offers(job, groups):
    for name, parameters, _, container in groups:
        resources = container["resources"]
        # Requests below the limits would let Ray offer cores that the node does not have.
        assert resources["requests"] == resources["limits"]
        assert set(parameters) <= {"num-cpus"}
        gpus = int(resources["limits"].get("nvidia.com/gpu", 0))
        assert gpus == (0 if name == "head" else 1)
    (_, head, _, _), *workers = groups
    assert head == {"num-cpus": "0"}
    assert [parameters for _, parameters, _, _ in workers] == [{}]
    for group in job["rayClusterSpec"]["workerGroupSpecs"]:
        assert 0 == group["minReplicas"] == group["replicas"] < group["maxReplicas"]


def test_the_rayjob_has_a_token_the_pinned_ray_and_no_secret_in_it(job, groups):
    cluster = job["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == PINNED["ray"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert len({container["image"] for _, _, _, container in groups}) == 1
    variables = {v["name"]: v for _, _, _, c in groups for v in c.get("env", [])}
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        assert "value" not in variables[name]
        assert variables[name]["valueFrom"]["secretKeyRef"]["name"] == "esam-tune-mlflow"


def test_a_stopped_job_is_given_time_to_save_in_both_ways_of_submitting(job):
    expected = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}}
    assert yaml.safe_load(job["runtimeEnvYAML"]) == expected
    assert yaml.safe_load((REPOSITORY / "jobs" / "runtime_env.yaml").read_text()) == expected


def test_mlflows_compose_file_is_closed_to_the_outside_and_holds_no_password():
    (document,) = load("mlflow/compose.yaml")
    database, server = document["services"]["postgres"], document["services"]["mlflow"]
    assert "ports" not in database
    assert server["ports"] == ["${MLFLOW_BIND:-127.0.0.1}:5000:5000"]
    assert database["environment"]["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")
    uri = server["environment"]["MLFLOW_BACKEND_STORE_URI"]
    assert uri == "postgresql+psycopg://mlflow:${POSTGRES_PASSWORD}@postgres:5432/mlflow"
    assert "postgresql" not in server["command"]
    named = {volume.split(":")[0] for s in (database, server) for volume in s["volumes"]}
    assert named == set(document["volumes"])
    built = (CLUSTERS / "mlflow" / "Dockerfile").read_text(encoding="utf-8")
    assert f'"mlflow=={PINNED["mlflow"]}"' in built


def test_the_variables_of_mlflows_server_are_those_it_reads():
    """`mlflow server` ignores a variable that it does not know, so a slip would go unseen."""
    from mlflow import environment_variables
    from mlflow.cli import server

    known = {option.envvar for option in server.params if getattr(option, "envvar", None)}
    known |= {name for name in vars(environment_variables) if name.startswith("MLFLOW_SERVER_")}
    (document,) = load("mlflow/compose.yaml")
    used = {
        name
        for name in document["services"]["mlflow"]["environment"]
        if name.startswith("MLFLOW_") and name != "MLFLOW_S3_ENDPOINT_URL"
    }
    assert used <= known


@pytest.mark.parametrize(
    "path", sorted(p for p in CLUSTERS.rglob("*") if p.is_file()), ids=lambda path: path.name
)
def test_the_commands_in_the_comments_name_files_that_exist(path):
    for name in re.findall(r"\bjobs/[\w./-]+\w", path.read_text(encoding="utf-8")):
        assert (REPOSITORY / name).exists(), name


def test_the_shell_commands_of_the_launcher_files_parse(launcher_file):
    for key, commands in launcher_file.items():
        if key.endswith("_commands"):
            for command in commands:
                subprocess.run(["bash", "-n", "-c", command], check=True, timeout=10)
