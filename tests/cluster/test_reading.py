"""What the reads of one training do to a cluster's other nodes, which are to go when nothing runs there; a real Ray, on
which every node is a set of processes of this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(180)

READING = '''
import json, os, sys, time
from collections import Counter

from study.cluster import SETTINGS_OF_RAY, keep_shared_actors_here

os.environ.update(SETTINGS_OF_RAY)

import ray
from ray.cluster_utils import Cluster
from ray.core.generated.gcs_pb2 import TaskEvents

small = {"object_store_memory": 100_000_000}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
cluster.add_node(num_cpus=1, resources={"reader": 1}, **small)
cluster.add_node(num_cpus=1, resources={"idle": 1}, **small)
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
named = {
    node["NodeID"]: next((name for name in ("reader", "idle") if name in node["Resources"]), "head")
    for node in ray.nodes()
}


def read(shards, epochs, drain_after=None):
    """Ids of all images in each epoch; in small parts, by Ray Data whatever their size."""
    import time
    from datasets import blocks
    from datasets.manifest import read_manifest
    from study.interruption import drain, this_node

    blocks.RAY_BYTES, blocks.TASK_BYTES = 0, 4_000
    manifest, found = read_manifest(shards), []
    for epoch in range(epochs):
        rows = blocks.read_rows(shards, manifest, "train", 0, manifest.train_images)
        found.append([])
        for number, part in enumerate(rows):
            found[-1] += part.ids.tolist()
            if (epoch, number) == drain_after:
                drain(this_node(), time.time() + 100)
    return found


def read_tasks():
    """The nodes on which tasks have read, and how many did."""
    events = [TaskEvents.FromString(raw) for raw in ray._private.state.state._global_state_accessor.get_task_events()]
    reads = [event for event in events if event.task_info.name.startswith("Read")]
    return Counter(named[event.state_updates.node_id.hex()] for event in reads)


keep_shared_actors_here()
shards = sys.argv[1]
trial = ray.remote(num_cpus=0.9, resources={"reader": 1})(read)
epochs = ray.get(trial.remote(shards, 10))
time.sleep(2)  # nodes tell of their tasks every second
seen = {"epochs": epochs, "tasks": read_tasks(), "on a head without CPUs": read(shards, 1)}
seen["on a node that goes"] = ray.get(trial.remote(shards, 4, (1, 2)))
assert ray._private.state.state.get_draining_nodes()
living = [actor for actor in ray._private.state.actors().values() if actor["State"] == "ALIVE"]
seen["actors"] = {actor["ActorClassName"]: named[actor["Address"]["NodeID"]] for actor in living}
print(json.dumps(seen))
ray.shutdown()
cluster.shutdown()
'''


@pytest.fixture(scope="module")
def seen(shards: str) -> dict[str, Any]:
    """What reading found, by case: the ids of the images in each epoch; and the nodes of the tasks that read."""
    done = subprocess.run([sys.executable, "-c", READING, shards], capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_reads_of_a_trial_stay_on_its_own_node(seen: dict[str, Any]) -> None:
    """On any other they would put off the end of a node that has nothing else to do."""
    epochs, nodes = seen["epochs"], Counter(seen["tasks"])
    assert [sorted(set(epoch)) for epoch in epochs] == [sorted(epochs[0])] * 10 and len(epochs[0]) == 200
    assert set(nodes) == {"reader"} and nodes["reader"] >= 20, nodes


def test_what_ray_data_leaves_behind_is_on_the_head(seen: dict[str, Any]) -> None:
    """Started by a trial, it would keep the trial's node until the cluster ends."""
    assert seen["actors"] == {"_AutoscalingCoordinatorActor": "head", "_StatsActor": "head"}


@pytest.mark.parametrize("where", ["on a head without CPUs", "on a node that goes"])
def test_where_ray_starts_no_reads_the_process_itself_reads_on(seen: dict[str, Any], where: str) -> None:
    """A node that is to be taken away, say, has two minutes left, in which a checkpoint is to be made."""
    assert seen[where] == [seen["epochs"][0]] * len(seen[where])
