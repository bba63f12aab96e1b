"""What a cluster on Kubernetes may grow to, from the RayCluster resource that KubeRay keeps it by."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMESPACE_FILE = Path("var/run/secrets/kubernetes.io/serviceaccount/namespace")


def autoscaling_config(say: Callable[[str], object], root: Path) -> dict[str, Any] | None:
    """The settings of the autoscaler beside this pod, in the form of a cluster's YAML file; `root` is the pod's `/`.

    Empty elsewhere and for a cluster that does not grow; None where they cannot be read, which `say` is told. KubeRay
    lets the head's service account read its RayCluster, since the autoscaler does the same in its own container.

    Raises:
        ValueError: a group of pods whose CPUs are not known, with which Ray's autoscaler does not start either.
    """
    name = os.environ.get("RAY_CLUSTER_NAME")
    if name is None or "KUBERNETES_SERVICE_HOST" not in os.environ:
        return {}
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    from ray.autoscaler._private.kuberay.node_provider import KubernetesHttpApiClient

    try:
        namespace = (root / NAMESPACE_FILE).read_text().strip()
        cluster = KubernetesHttpApiClient(namespace).get(f"rayclusters/{name}")
    except OSError as error:  # no token, no answer or a refusal: what `requests` raises are OSErrors
        say(f"which nodes this cluster may get is not known, so execution.max_workers is believed: {error}")
        return None
    if not cluster["spec"].get("enableInTreeAutoscaling") or not cluster["spec"].get("workerGroupSpecs"):
        return {}
    found: dict[str, Any] = _derive_autoscaling_config_from_ray_cr(cluster)
    return found
