"""All that the test replaces, since a mock cannot have it or it would take too long. Everything else is as shipped."""

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

    `{COMMANDS}/aws` stands for AWS's command line tool, of which only Session Manager is needed.
    """
    return f"""
export PATH={COMMANDS}:{environment}/bin:$PATH
export AWS_ENDPOINT_URL={endpoint} AWS_ACCESS_KEY_ID=laptop AWS_SECRET_ACCESS_KEY=mock AWS_DEFAULT_REGION=us-west-2
export RAY_USAGE_STATS_ENABLED=0 GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'
"""


def node_profile(endpoint: str, role: str) -> str:
    """What a login shell of a node sets: the mock has no instance metadata service, which would give credentials.

    A small object store, since all machines share one memory; an autoscaler that looks more often.
    """
    return f"""
export AWS_ENDPOINT_URL={endpoint} AWS_ACCESS_KEY_ID={role} AWS_SECRET_ACCESS_KEY=mock AWS_EC2_METADATA_DISABLED=true
export RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES=150000000 AUTOSCALER_UPDATE_INTERVAL_S=2
"""
