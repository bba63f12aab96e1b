"""A mock AWS account in which `cluster.yaml` can be launched, and a record of what was asked of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import boto3
from moto import mock_aws

REGION = "us-west-2"


@dataclass
class Account:
    """A mock account and what was asked of it: the IAM actions, and the parameters of every launch."""

    session: Any
    actions: list[str] = field(default_factory=list)
    launches: list[dict[str, Any]] = field(default_factory=list)

    def by_node_type(self) -> dict[str, dict[str, Any]]:
        """The instances that are running, by the node type that Ray tagged them with."""
        running = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
        reservations = self.session.client("ec2").describe_instances(Filters=running)["Reservations"]
        instances = [instance for reservation in reservations for instance in reservation["Instances"]]
        return {tags_of(instance)["ray-user-node-type"]: instance for instance in instances}


def tags_of(instance: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in instance["Tags"]}


@contextmanager
def mock_account() -> Iterator[Account]:
    """An account with a default network and Amazon's public images, to which the default session of boto3 belongs.

    moto knows no placement groups and lacks the parameter of the Deep Learning image: both are added here.
    """
    with mock_aws():
        boto3.setup_default_session(region_name=REGION)
        account = Account(boto3.DEFAULT_SESSION)
        image = account.session.client("ec2").describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        groups: list[dict[str, str]] = []
        for event, answer in (
            ("ssm.GetParameter", lambda **rest: _answer(Parameter={"Value": image})),
            ("ec2.DescribePlacementGroups", lambda **rest: _answer(PlacementGroups=groups)),
            ("ec2.CreatePlacementGroup", lambda params, **rest: groups.append(params["body"]) or _answer()),
        ):
            account.session.events.register(f"before-call.{event}", answer)

        def record(params: dict[str, Any], model: Any, **rest: Any) -> None:
            account.actions.append(f"{model.service_model.service_name}:{model.name}")
            if model.name == "RunInstances":
                account.launches.append(params)

        account.session.events.register("provide-client-params", record)
        yield account
    boto3.DEFAULT_SESSION = None


def _answer(**parsed: Any) -> tuple[Any, dict[str, Any]]:
    return SimpleNamespace(status_code=200), parsed
