"""Workers that train together on nodes that come and go: what is tried again, how often, what is said in the end."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(600)

GANG = '''
import json, os, signal, sys, threading, time
from pathlib import Path

from study.cluster import SETTINGS_OF_RAY

os.environ.update(SETTINGS_OF_RAY | {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "2", "RAY_enable_autoscaler_v2": "1"})

import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

fast = {"_system_config": {"health_check_period_ms": 500, "health_check_failure_threshold": 3}, "num_cpus": 0}
fast["memory"] = 4_000_000_000  # of the head; enough to drive two gangs
cluster = Cluster(initialize_head=True, head_node_args={**fast, "include_dashboard": False})
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")

from reports.storage import Storage
from study import gang, interruption

interruption.GONE_SECONDS = 10.0
nodes, head = {}, interruption.this_node()


def worker(job):
    """Say that this attempt has begun, and train until the test says how it ends."""
    import os, time
    import torch
    from pathlib import Path

    folder = Path(job["folder"])
    rank = torch.distributed.get_rank()
    Path(folder, f"{rank}.pid").write_text(str(os.getpid()))
    torch.distributed.barrier()
    if rank == 0:
        Path(folder, f"began-{time.time()}").touch()
    torch.distributed.barrier()
    while not Path(folder, "fail").exists():
        time.sleep(0.1)
        torch.distributed.barrier()
    raise ArithmeticError("the loss is not finite")


def elsewhere(case, folder):
    """What happens to the cluster meanwhile."""
    if case == "fails":  # they come when they were asked for in vain
        time.sleep(4)
        for _ in range(3):
            node = cluster.add_node(num_cpus=2, resources={"trainer": 1})
            nodes[node.node_id] = node
    for attempt in (1, 2):
        while len(list(folder.glob("began-*"))) < attempt:
            time.sleep(0.1)
        if case == "fails":  # while a node dies on which it is not
            cluster.remove_node(idle, allow_graceful=False)
            while not interruption.nodes(alive=False):
                time.sleep(0.1)
            Path(folder, "fail").touch()
            return
        if case == "killed":
            os.kill(int(Path(folder, "1.pid").read_text()), signal.SIGKILL)
            continue
        [mine, *_] = storage.read_json("checkpoints", "gang", "nodes.json")
        if case == "drains":
            interruption.drain(mine, time.time() + 200)
            Path(folder, "fail").touch()
            return
        if attempt == 1:
            time.sleep(3)  # until all that comes with a gang is there
            print(json.dumps({"beside": [living(), constraints()]}), flush=True)
        cluster.remove_node(nodes.pop(mine), allow_graceful=False)


def living():
    """The kinds of actors that live on the head, and those on other nodes."""
    actors = [actor for actor in ray._private.state.actors().values() if actor["State"] == "ALIVE"]
    on_head = {actor["ActorClassName"] for actor in actors if actor["Address"]["NodeID"] == head}
    elsewhere = {actor["ActorClassName"] for actor in actors if actor["Address"]["NodeID"] != head}
    return sorted(on_head), sorted(elsewhere)


def constraints():
    """What the autoscaler is told to keep, whether it is in use or not."""
    reply = autoscaler_pb2.GetClusterResourceStateReply()
    gcs = GcsClient(address=ray.get_runtime_context().gcs_address)
    reply.ParseFromString(gcs.get_cluster_resource_state())
    told = reply.cluster_resource_state.cluster_resource_constraints
    return [str(request) for constraint in told for request in constraint.resource_requests]


def train(case, folder):
    try:
        per_worker, job = {"CPU": 1.0, "trainer": 1.0}, {"folder": str(folder)}
        gang.train_together(worker, job, 2, per_worker, storage, "gang", preemption_retries=1, crash_retries=1)
    except Exception as error:
        causes = {type(one).__name__ for one in getattr(error, "worker_failures", {}).values()}
        attempts = len(list(folder.glob("began-*")))
        left = storage.list("checkpoints", "gang")
        seen = [type(error).__name__, sorted(causes), attempts, str(error).splitlines()[0], left]
        print(json.dumps({case: seen}), flush=True)


def observe(case):
    folder = Path(sys.argv[1], case)
    folder.mkdir()
    thread = threading.Thread(target=train, args=(case, folder))
    thread.start()
    if case != "waits":
        elsewhere(case, folder)
    thread.join()


def driven():
    """Which of three gangs may be driven at once; and whether the third may, when the first has ended."""
    groups = [ray.util.placement_group([gang.booked_by_trial({"CPU": 1.0}, 2)]) for _ in range(3)]
    at_once = [group.wait(3) for group in groups]
    ray.util.remove_placement_group(groups[0])
    then = groups[2].wait(20)
    for group in groups[1:]:
        ray.util.remove_placement_group(group)
    return [at_once, then]


storage = Storage(f"{sys.argv[1]}/runs")
print(json.dumps({"driven": driven()}), flush=True)
gang.WAIT_SECONDS = 5.0
observe("waits")
gang.WAIT_SECONDS = 100.0
idle = cluster.add_node(num_cpus=2)
observe("fails")
observe("killed")
observe("drains")
node = cluster.add_node(num_cpus=2, resources={"trainer": 1})
nodes[node.node_id] = node
observe("loses")
ray.shutdown()
cluster.shutdown()
'''


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By what happens: the error, those of the workers, attempts that began, the message, files left in storage. And
    what there is beside the workers."""
    folder = tmp_path_factory.mktemp("gang")
    done = subprocess.run([sys.executable, "-c", GANG, str(folder)], capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return {case: what for line in lines for case, what in json.loads(line).items()}


def test_node_on_which_no_worker_is_has_nothing_of_a_gang_to_keep_it(seen: dict[str, Any]) -> None:
    """What drives the gang is on the head, and the autoscaler is told of its workers by their placement group alone."""
    (on_head, elsewhere), constraints = seen["beside"]
    assert elsewhere == ["RayTrainWorker"] and "PreemptionWatcher" not in on_head and constraints == []


def test_head_drives_no_more_gangs_than_it_has_memory_for(seen: dict[str, Any]) -> None:
    assert seen["driven"] == [[True, True, False], True]


def test_gang_for_which_no_nodes_come_gives_up(seen: dict[str, Any]) -> None:
    error, _, attempts, message, left = seen["waits"]
    assert error == "NoNodesError" and attempts == 0 and left == []
    assert message.startswith("there was no room for its 2 workers of {'CPU': 1.0, 'trainer': 1.0} in ")


def test_failure_while_a_node_dies_elsewhere_is_the_gangs_own(seen: dict[str, Any]) -> None:
    """Its nodes came after it had asked for them in vain."""
    error, causes, attempts, _, left = seen["fails"]
    assert (error, causes, attempts, left) == ("WorkerGroupError", ["ArithmeticError"], 1, [])


def test_failure_on_a_node_that_is_to_be_taken_away_is_tried_again_elsewhere(seen: dict[str, Any]) -> None:
    """Once: the second time it is on nodes that stay."""
    error, causes, attempts, _, left = seen["drains"]
    assert (error, causes, attempts, left) == ("WorkerGroupError", ["ArithmeticError"], 2, [])


def test_gang_of_which_a_worker_is_killed_begins_again_as_often_as_the_study_says(seen: dict[str, Any]) -> None:
    """And it is not told what its other worker met by that."""
    error, _, attempts, message, left = seen["killed"]
    assert (error, attempts, left) == ("ProcessDiedError", 2, [])
    assert message == "its process ended without a word (killed 2 times); launch again to continue it"


def test_gang_that_loses_nodes_begins_again_as_often_as_the_study_says(seen: dict[str, Any]) -> None:
    error, _, attempts, message, left = seen["loses"]
    assert (error, attempts, left) == ("NoNodesError", 2, [])
    assert message.startswith("nodes of its workers were lost 2 times (`preemption_retries` are 1)")
