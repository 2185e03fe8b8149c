"""The parts of launch/gke_jobset.yaml agree with each other."""

import math
import pathlib
import re

import pytest
import yaml

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "launch"

# Chips per host in slices of several hosts.
CHIPS_PER_HOST = {"tpu-v5-lite-podslice": 4, "tpu-v5p-slice": 4, "tpu-v6e-slice": 4}


@pytest.fixture(scope="module")
def objects():
    """Objects of the file by kind."""
    text = (LAUNCH / "gke_jobset.yaml").read_text()
    return {item["kind"]: item for item in yaml.safe_load_all(text) if item}


@pytest.fixture(scope="module")
def job(objects):
    [replicated] = objects["JobSet"]["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


@pytest.fixture(scope="module")
def container(job):
    [container] = job["template"]["spec"]["containers"]
    return container


def test_hosts_and_chips_are_those_of_the_topology(job, container):
    selector = job["template"]["spec"]["nodeSelector"]
    topology = selector["cloud.google.com/gke-tpu-topology"]
    chips = math.prod(int(side) for side in topology.split("x"))
    of_a_host = CHIPS_PER_HOST[selector["cloud.google.com/gke-tpu-accelerator"]]
    assert container["resources"]["limits"] == {"google.com/tpu": of_a_host}
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert job["parallelism"] == job["completions"] == chips // of_a_host
    assert job["completionMode"] == "Indexed"


def test_the_batch_is_a_multiple_of_the_chips_and_scales_the_learning_rate(
    objects, job, container
):
    slices = objects["JobSet"]["spec"]["replicatedJobs"][0]["replicas"]
    chips = (
        slices * job["parallelism"] * container["resources"]["limits"]["google.com/tpu"]
    )
    data = objects["ConfigMap"]["data"]
    assert int(data["BATCH_SIZE"]) % chips == 0
    # The config's learning rate is for its own batch size.
    assert float(data["LEARNING_RATE"]) / int(data["BATCH_SIZE"]) == 1e-3 / 32


def test_the_first_failed_pod_ends_the_attempt(job):
    assert job["backoffLimit"] == 0
    assert job["template"]["spec"]["restartPolicy"] == "Never"


def test_bugs_and_wrong_input_end_the_jobset_and_other_failures_restart_it(
    objects, job, container
):
    wrong, lost = job["podFailurePolicy"]["rules"]
    assert wrong["action"] == "FailJob"
    assert wrong["onExitCodes"]["values"] == [1, 2]
    assert lost["action"] == "Count"
    assert {75, 134, 143} <= set(lost["onExitCodes"]["values"])
    for rule in (wrong, lost):
        assert rule["onExitCodes"]["containerName"] == container["name"]
        assert rule["onExitCodes"]["operator"] == "In"
        # Kubernetes accepts no other values.
        assert rule["onExitCodes"]["values"] == sorted(
            set(rule["onExitCodes"]["values"])
        )
        assert 0 not in rule["onExitCodes"]["values"]
    policy = objects["JobSet"]["spec"]["failurePolicy"]
    actions = {rule["action"]: rule["onJobFailureReasons"] for rule in policy["rules"]}
    assert actions == {
        "FailJobSet": ["PodFailurePolicy"],
        "RestartJobSet": ["BackoffLimitExceeded"],
    }
    assert policy["maxRestarts"] > 0
    # Otherwise old and new pods could write to the same work directory.
    assert policy["restartStrategy"] == "BlockingRecreate"


def test_the_arguments_of_the_run_come_from_the_config_map(objects, container):
    [source] = container["envFrom"]
    config_map = objects["ConfigMap"]
    assert source["configMapRef"]["name"] == config_map["metadata"]["name"]
    assert [*container["command"]] == ["tini", "--", "python", "-m", "borrow_det.main"]
    first, *others = container["args"]
    assert first == "--distributed"
    used = [argument.partition("=")[2] for argument in others]
    assert used == [f"$({name})" for name in config_map["data"]]
    # The disks of pods are deleted with them.
    assert config_map["data"]["WORKDIR"].startswith("gs://")


def test_pods_use_the_service_account_of_the_bucket(objects, job):
    account = objects["ServiceAccount"]["metadata"]
    assert job["template"]["spec"]["serviceAccountName"] == account["name"]
    assert "iam.gke.io/gcp-service-account" in account["annotations"]


def test_the_dataset_is_mounted_at_its_data_dir(objects, job, container):
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in job["template"]["spec"]["volumes"]}
    assert set(mounts) == set(volumes)
    assert objects["ConfigMap"]["data"]["DATA_DIR"].startswith(mounts["data"] + "/")
    assert volumes["data"]["csi"]["driver"] == "gcsfuse.csi.storage.gke.io"
    annotations = job["template"]["metadata"]["annotations"]
    assert annotations == {"gke-gcsfuse/volumes": "true"}


def test_ports_network_and_grace_period_are_set(objects, job, container):
    ports = [port["containerPort"] for port in container["ports"]]
    assert ports == [8471, 8482]
    jobset = objects["JobSet"]
    network = jobset["spec"]["network"]
    assert network == {"enableDNSHostnames": True, "subdomain": "borrow-det"}
    assert job["template"]["spec"]["terminationGracePeriodSeconds"] >= 60
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"


def test_the_image_has_the_program_and_requirements_of_the_command():
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    copied = " ".join(line for line in lines if line.startswith("COPY")).split()
    requirements = included("requirements-tpu.txt")
    assert len(requirements) == 3
    assert {"borrow_det", "configs", *requirements} <= set(copied)


def included(name):
    """Returns the requirements of a file and of the files that it includes."""
    text = (LAUNCH.parent / name).read_text()
    inner = re.findall(r"^-r (\S+)", text, re.MULTILINE)
    return {name}.union(*map(included, inner))
