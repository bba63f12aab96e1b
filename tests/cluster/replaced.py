"""All that `test_cluster.py` replaces, and why; everything else is as shipped.

- In `cluster.yaml` (`IN_CLUSTER_YAML`, below): what nodes of one type offer, since there are no GPUs here, and after
  how many idle minutes they go, since the test would wait for it.
- In the commands (`IN_COMMANDS`, below): the study, since the demo needs GPUs.
- On the laptop (`laptop_profile`, below): credentials and the address of the mock, since there is no account to log
  in to. AWS's command line tool with its Session Manager plugin is `session_manager.py`, which connects to a node
  directly, since there is neither Amazon's service nor its agent; what AWS would refuse of the arguments, it refuses.
- AWS is `mock_aws.py`: moto's server, which asks for no permissions (so the test compares what was asked for with
  `deploy/iam`). Where moto falls short it answers in its place: placement groups are made and forgotten (moto knows
  none), the newest image is one of moto's (it lacks AWS's parameter), a launch starts as many instances as it asks
  for at most (moto starts the fewest that it asks for).
- Instances are machines of `cloud.py` and `hosts.py`: namespaces of this machine, with the address, key and role that
  the mock says. Image, size, volumes, spot market, placement and security group mean nothing there; all share one
  network.
- The image is `host.sh`: a private copy of this machine's file system with an SSH server and the user `ubuntu`,
  without cloud-init. `~/venv` is a link to the environment that the tests run in: the setup command that would make
  it (apt-get) finds it there, and pip finds all of `constraints.txt` installed, since both need the internet and
  minutes.
- On nodes (`node_profile`, below): credentials in the environment, since there is no metadata service to give those
  of a role; a small object store, since all machines share one memory; an autoscaler that looks every two seconds
  instead of five, since the test waits for it.
"""

from __future__ import annotations

IN_CLUSTER_YAML = {
    # Machines without GPUs, two cores for all of them together: a worker asks for another resource instead. One CPU
    # each, so that two workers need two machines; the on-demand type and the eight GPUs are not made to fit.
    "    priority: 1 # before the on-demand type with the same GPU; that one is used where spot has none left\n"
    "    resources: {CPU: 8, GPU: 1, L4: 1}\n": "    priority: 1\n    resources: {CPU: 1, GPU: 1, device: 1}\n",
    "idle_timeout_minutes: 5": "idle_timeout_minutes: 0.3",
}

IN_COMMANDS = {"study/presets/cifar10.yaml": "tests/cluster/study.yaml"}  # of the documentation

COMMANDS = "/opt/mock"


def laptop_profile(endpoint: str, environment: str) -> str:
    """What a login shell of the laptop sets: credentials, AWS's address, the project's environment activated.

    The default region is not the cluster's, as on many a laptop. `{COMMANDS}/aws` stands for AWS's command line tool.
    """
    return f"""
export PATH={COMMANDS}:{environment}/bin:$PATH
export AWS_ENDPOINT_URL={endpoint} AWS_ACCESS_KEY_ID=laptop AWS_SECRET_ACCESS_KEY=mock AWS_DEFAULT_REGION=eu-north-1
export RAY_USAGE_STATS_ENABLED=0 GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'
"""


def node_profile(endpoint: str, role: str) -> str:
    """What a login shell of a node sets: its role's credentials, AWS's address, and Ray's settings for this machine."""
    return f"""
export AWS_ENDPOINT_URL={endpoint} AWS_ACCESS_KEY_ID={role} AWS_SECRET_ACCESS_KEY=mock AWS_EC2_METADATA_DISABLED=true
export NO_GCE_CHECK=true RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES=150000000 AUTOSCALER_UPDATE_INTERVAL_S=2
"""
