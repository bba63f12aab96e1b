"""What `cluster.yaml` needs in an AWS account, made if it is missing: `python -m deploy.account cluster.yaml`.

The bucket, two roles with the policies in `deploy/iam` and their instance profiles, a policy for those who start the
cluster, a security group that only the cluster's own nodes may enter, a placement group. What `cluster.yaml` still
calls FILL-IN is looked up and written into it, the region also where SSH goes through AWS; running it again changes
nothing. Needs an administrator's credentials, once; from then on the policy `labelscale-laptop` is enough.
"""

from __future__ import annotations

import contextlib
import json
import re
import string
import sys
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions

from reports.message import complain
from reports.plain_yaml import parse_yaml

NAME = "labelscale"
"""Of the cluster, the security group and the placement group; the roles are `labelscale-head` and `-worker`."""

POLICIES = Path(__file__).resolve().parent / "iam"
FILL_IN = "FILL-IN"

IMAGE_PARAMETER = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
"""Where AWS publishes, in every region, the newest Deep Learning Base image for NVIDIA GPUs (DLAMI developer guide,
"Finding the ID of a DLAMI")."""

REGION_OPTION = re.compile(r"--region \S+")
"""Of AWS's command line in `auth`; without it, that would take the laptop's default region."""

DROP_TORN_UPLOADS = {
    "ID": "uploads-that-never-ended",
    "Status": "Enabled",
    "Filter": {"Prefix": ""},
    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
}
"""What a node had uploaded of a checkpoint when it died is not listed, but paid for until it is dropped."""

EC2_MAY_ASSUME = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


def main(arguments: list[str]) -> int:
    """Prepare the account for the given `cluster.yaml`; 0 when the file is ready for `ray up`, 2 when it cannot be."""
    if len(arguments) != 1:
        print("usage: python -m deploy.account cluster.yaml", file=sys.stderr)
        return 2
    try:
        for line in prepare(Path(arguments[0])):
            print(line)
    except (ValueError, OSError, botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        complain(f"error: {error}")
        return 2
    return 0


def prepare(file: Path, session: boto3.Session | None = None) -> list[str]:
    """Make what the account lacks and fill in the file; returns what to tell the user.

    Raises:
        ValueError: the file cannot be read, the bucket is not filled in, the region has no default subnet, or a
            security group of that name lets others in.
    """
    text = file.read_text(encoding="utf-8")
    values = _metadata(text, file)
    if FILL_IN in values["bucket"]:
        raise ValueError(f"{file}: write the name of your bucket into metadata.bucket (it still says {FILL_IN})")
    session = session or boto3.Session(region_name=values["region"])
    ec2, iam = session.client("ec2"), session.client("iam")
    for name, find in (
        ("subnet", lambda: find_subnet(ec2, values["region"])),
        ("security_group", lambda: make_security_group(ec2, values["subnet"])),
        ("image", lambda: session.client("ssm").get_parameter(Name=IMAGE_PARAMETER)["Parameter"]["Value"]),
    ):
        if FILL_IN in values[name]:
            values[name] = find()
            text = text.replace(_metadata(text, file)[name], values[name])
    text = REGION_OPTION.sub(f"--region {values['region']}", text)
    file.write_text(text, encoding="utf-8")
    check_security_group(ec2, values["security_group"])
    make_placement_group(ec2)
    of_bucket = make_bucket(session.client("s3"), values["bucket"], values["region"])
    account = session.client("sts").get_caller_identity()["Account"]
    for role in ("head", "worker"):
        make_role(iam, f"{NAME}-{role}", policy(role, values, account))
    make_policy(iam, account, f"{NAME}-laptop", policy("laptop", values, account))
    allow_spot(iam)
    filled = [f"{name}: {values[name]}" for name in ("region", "bucket", "subnet", "security_group", "image")]
    laptop = f"the policy {NAME}-laptop is all that others need who start this cluster; attach it to them"
    return [*filled, *limits_of_subnet(ec2, values["subnet"]), *of_bucket, laptop, f"{file} is ready: ray up {file}"]


def _metadata(text: str, file: Path) -> dict[str, str]:
    """What the file names: region, bucket and what else stands under `metadata`."""
    content = parse_yaml(text, str(file))
    found = content.get("metadata") if isinstance(content, dict) else None
    names = ("region", "bucket", "subnet", "security_group", "image")
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in names):
        raise ValueError(f"{file}: expected `metadata` with the texts {', '.join(names)}, as in cluster.yaml")
    return dict(found)


def policy(name: str, values: dict[str, str], account: str) -> dict[str, Any]:
    """A policy of `deploy/iam` for this account, bucket, region and security group."""
    document = string.Template((POLICIES / f"{name}.json").read_text(encoding="utf-8"))
    rendered: dict[str, Any] = json.loads(document.substitute({**values, "account": account}))
    return rendered


def find_subnet(ec2: Any, region: str) -> str:
    """The first default subnet of the region. Raises ValueError where there is none."""
    found = ec2.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])["Subnets"]
    if not found:
        raise ValueError(f"{region} has no default subnet: write the id of a subnet into metadata.subnet")
    first = min(found, key=lambda subnet: subnet["AvailabilityZone"])
    return str(first["SubnetId"])


def limits_of_subnet(ec2: Any, subnet: str) -> list[str]:
    """What to tell the user of a public subnet, in one line: AWS gives a public address to nodes with one network
    interface only (EC2 API, `InstanceNetworkInterfaceSpecification`), and nothing leads out of it without one."""
    found = ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]
    if not found["MapPublicIpOnLaunch"]:
        return []
    return [
        f"{subnet} is a public subnet, in which the nodes of eight_gpus reach nothing; all others work. For eight_gpus "
        "write a private subnet of the same network, with a NAT gateway, into metadata.subnet"
    ]


def make_security_group(ec2: Any, subnet: str) -> str:
    """The id of our security group in the subnet's network: all traffic between its members, nothing from outside.

    Its members may also open connections to each other without an address, as EFA does.
    """
    network = ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["VpcId"]
    ours = [{"Name": "group-name", "Values": [NAME]}, {"Name": "vpc-id", "Values": [network]}]
    found = ec2.describe_security_groups(Filters=ours)["SecurityGroups"]
    if found:
        return str(found[0]["GroupId"])
    made = ec2.create_security_group(GroupName=NAME, Description="Nodes of a labelscale cluster", VpcId=network)
    group = str(made["GroupId"])
    among_members = [{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=among_members)
    ec2.authorize_security_group_egress(GroupId=group, IpPermissions=among_members)
    return group


def check_security_group(ec2: Any, group: str) -> None:
    """Refuse a security group that anybody may enter. Raises ValueError."""
    rules = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    open_to = [
        entry["CidrIp"] for rule in rules for entry in rule.get("IpRanges", []) if entry["CidrIp"] == "0.0.0.0/0"
    ]
    open_to += [
        entry["CidrIpv6"] for rule in rules for entry in rule.get("Ipv6Ranges", []) if entry["CidrIpv6"] == "::/0"
    ]
    if open_to:
        raise ValueError(f"the security group {group} lets in {open_to[0]}; remove that rule, or name another group")


def make_placement_group(ec2: Any) -> None:
    found = ec2.describe_placement_groups(Filters=[{"Name": "group-name", "Values": [NAME]}])["PlacementGroups"]
    if not found:
        ec2.create_placement_group(GroupName=NAME, Strategy="cluster")


def make_bucket(s3: Any, name: str, region: str) -> list[str]:
    """A bucket in the cluster's region, unless there is one of that name; AWS makes new ones private and encrypted.

    Returns what to tell the user of a bucket that there is. Raises ValueError where the name is taken by another
    account, or that bucket is in another region: every gigabyte between the two would be paid for.
    """
    try:
        s3.head_bucket(Bucket=name)
    except botocore.exceptions.ClientError as error:
        if error.response["Error"]["Code"] == "403":
            raise ValueError(f"the bucket {name} belongs to somebody else, or you may not use it") from error
        place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        s3.create_bucket(Bucket=name, **place)  # us-east-1 is the default, and refused as a constraint
        s3.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": [DROP_TORN_UPLOADS]})
        return []
    found = s3.get_bucket_location(Bucket=name)["LocationConstraint"] or "us-east-1"
    if found not in (region, {"eu-west-1": "EU"}.get(region)):  # as that was called in the beginning
        raise ValueError(
            f"the bucket {name} is in {found}, the cluster in {region}, and AWS charges for what travels between them: "
            "write another bucket, or that region, into metadata"
        )
    if _drops_torn_uploads(s3, name):
        return []
    return [
        f"the bucket {name} keeps what was uploaded of checkpoints when their node died, and AWS charges for it: give "
        "it a lifecycle rule that aborts incomplete multipart uploads after 7 days"
    ]


def _drops_torn_uploads(s3: Any, bucket: str) -> bool:
    try:
        rules = s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    except botocore.exceptions.ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchLifecycleConfiguration":
            raise
        return False
    return any("AbortIncompleteMultipartUpload" in rule and rule["Status"] == "Enabled" for rule in rules)


def make_policy(iam: Any, account: str, name: str, document: dict[str, Any]) -> None:
    """A policy to attach to users or roles, with this content whatever it had before."""
    try:
        iam.create_policy(PolicyName=name, PolicyDocument=json.dumps(document))
    except iam.exceptions.EntityAlreadyExistsException:
        arn = f"arn:aws:iam::{account}:policy/{name}"
        for version in iam.list_policy_versions(PolicyArn=arn)["Versions"]:
            if not version["IsDefaultVersion"]:  # five are the most that AWS keeps
                iam.delete_policy_version(PolicyArn=arn, VersionId=version["VersionId"])
        iam.create_policy_version(PolicyArn=arn, PolicyDocument=json.dumps(document), SetAsDefault=True)


def make_role(iam: Any, name: str, document: dict[str, Any]) -> None:
    """A role with exactly this policy, and the instance profile through which a node takes it on."""
    with contextlib.suppress(iam.exceptions.EntityAlreadyExistsException):  # of an earlier run
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(EC2_MAY_ASSUME))
    iam.put_role_policy(RoleName=name, PolicyName=NAME, PolicyDocument=json.dumps(document))
    with contextlib.suppress(iam.exceptions.EntityAlreadyExistsException):
        iam.create_instance_profile(InstanceProfileName=name)
    if not iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]:
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)


def allow_spot(iam: Any) -> None:
    """The role with which EC2 itself serves spot requests; an account that never used spot instances lacks it."""
    roles = iam.list_roles(PathPrefix="/aws-service-role/spot.amazonaws.com/")["Roles"]
    if not roles:
        iam.create_service_linked_role(AWSServiceName="spot.amazonaws.com")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
