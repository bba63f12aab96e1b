"""`cluster.yaml` against Ray's schema, botocore's model of RunInstances, a mock EC2, and what none of them checks."""

from __future__ import annotations

import copy
import re
import subprocess
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import botocore.validate
import pytest
import yaml

from aws_account import REGION, Account, mock_account
from deploy import account as account_setup
from reports.prices import read_prices
from study.capacity import PRICE_LABEL

ROOT = Path(__file__).resolve().parents[1]
SHIPPED: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
NODE_TYPES: dict[str, dict[str, Any]] = SHIPPED["available_node_types"]
WORKER_TYPES = [name for name in NODE_TYPES if name != SHIPPED["head_node_type"]]
GPUS = {"g6.2xlarge": "NVIDIA L4", "p4d.24xlarge": "NVIDIA A100-SXM4-40GB"}  # as torch names them
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home folder with a token of Ray's; credentials, and the current folder from which the commands are given."""
    folder = tmp_path_factory.mktemp("home")
    (folder / ".ray").mkdir()
    (folder / ".ray" / "auth_token").write_text("token")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setenv("HOME", str(folder))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "mock")
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        yield folder


@pytest.fixture(scope="module")
def account(home: Path) -> Iterator[Account]:
    with mock_account() as made:
        yield made


@pytest.fixture(scope="module")
def file(account: Account, home: Path) -> Path:
    """The shipped file as a user fills it in: the bucket by hand, the rest by `deploy.account`."""
    file = home / "cluster.yaml"
    file.write_text(
        (ROOT / "cluster.yaml").read_text(encoding="utf-8").replace("bucket: FILL-IN", "bucket: my-studies")
    )
    account_setup.prepare(file, account.session)
    return file


@pytest.fixture(scope="module")
def filled(file: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return config


def bootstrapped(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration as `ray up` makes it: defaults filled in, validated, and looked up in the account."""
    from ray.autoscaler._private import commands

    made: dict[str, Any] = commands._bootstrap_config(copy.deepcopy(config), no_config_cache=True)
    return made


def launch(config: dict[str, Any], node_types: list[str]) -> Any:
    """Launch one node of each type as `ray up` and the autoscaler do, and mark it; returns Ray's provider."""
    from ray.autoscaler import tags
    from ray.autoscaler._private.providers import _get_node_provider

    provider = _get_node_provider(config["provider"], config["cluster_name"], use_cache=False)
    for name in node_types:
        kind = tags.NODE_KIND_HEAD if name == config["head_node_type"] else tags.NODE_KIND_WORKER
        labels = {
            tags.TAG_RAY_NODE_KIND: kind,
            tags.TAG_RAY_USER_NODE_TYPE: name,
            tags.TAG_RAY_NODE_NAME: f"ray-{config['cluster_name']}-{kind}",
            tags.TAG_RAY_NODE_STATUS: "uninitialized",
            tags.TAG_RAY_LAUNCH_CONFIG: "hash",
        }
        provider.create_node(copy.deepcopy(config["available_node_types"][name]["node_config"]), labels, 1)
    return provider


@pytest.fixture(scope="module")
def launched(account: Account, filled: dict[str, Any]) -> dict[str, set[str]]:
    """The actions that `ray up`, `ray exec`, `ray down` and the autoscaler ask AWS for; a node of each type is left."""
    asked = {}
    account.actions.clear()
    config = bootstrapped(filled)
    provider = launch(config, ["head"])
    (head,) = provider.non_terminated_nodes({})
    provider.set_node_tags(head, {"ray-node-status": "up-to-date"})
    provider.terminate_nodes([head])
    asked["laptop"] = set(account.actions)
    account.actions.clear()
    provider = launch(config, WORKER_TYPES)
    provider.set_node_tags(provider.non_terminated_nodes({})[0], {"ray-node-status": "up-to-date"})
    provider.terminate_nodes(provider.non_terminated_nodes({}))
    asked["head"] = set(account.actions)
    account.launches.clear()
    launch(config, list(NODE_TYPES))
    return asked


@pytest.mark.parametrize("name", NODE_TYPES)
def test_nodes_start_as_described(
    name: str, account: Account, filled: dict[str, Any], launched: dict[str, set[str]]
) -> None:
    instance, values = account.by_node_type()[name], filled["metadata"]
    assert instance["InstanceType"] == NODE_TYPES[name]["node_config"]["InstanceType"]
    assert (instance.get("InstanceLifecycle") == "spot") == (name == "one_gpu_spot")
    role = "head" if name == "head" else "worker"
    assert instance["IamInstanceProfile"]["Arn"].endswith(f":instance-profile/labelscale-{role}")
    assert (instance["ImageId"], instance["SubnetId"]) == (values["image"], values["subnet"])
    groups = {entry["GroupId"] for interface in instance["NetworkInterfaces"] for entry in interface["Groups"]}
    assert groups == {values["security_group"]}
    options = instance["MetadataOptions"]
    assert (options["HttpTokens"], options["HttpPutResponseHopLimit"]) == ("required", 1)
    ids = [mapping["Ebs"]["VolumeId"] for mapping in instance["BlockDeviceMappings"]]
    volumes = account.session.client("ec2").describe_volumes(VolumeIds=ids)["Volumes"]
    assert [(volume["Size"], volume["VolumeType"], volume["Encrypted"]) for volume in volumes] == [(200, "gp3", True)]


def test_eight_gpus_are_side_by_side_with_efa_on_every_card(account: Account, launched: dict[str, set[str]]) -> None:
    (asked,) = [params for params in account.launches if params["InstanceType"] == "p4d.24xlarge"]  # moto forgets these
    assert asked["Placement"] == {"GroupName": "labelscale"}
    interfaces = asked["NetworkInterfaces"]
    assert {entry["InterfaceType"] for entry in interfaces} == {"efa"}
    assert [entry["DeviceIndex"] for entry in interfaces] == [0, 1, 1, 1]  # one primary interface, on the first card
    others = [params for params in account.launches if params is not asked]
    assert len(others) == 3 and not any("Placement" in params for params in others)


def test_security_group_lets_nobody_in_but_its_members(
    account: Account, filled: dict[str, Any], launched: dict[str, set[str]]
) -> None:
    groups = account.session.client("ec2").describe_security_groups()["SecurityGroups"]
    group = filled["metadata"]["security_group"]
    assert sorted(found["GroupName"] for found in groups) == ["default", "labelscale"]  # Ray made none
    rules = next(found["IpPermissions"] for found in groups if found["GroupId"] == group)
    assert [[pair["GroupId"] for pair in rule["UserIdGroupPairs"]] for rule in rules] == [[group]]
    assert not any(rule["IpRanges"] or rule["Ipv6Ranges"] for rule in rules)


@pytest.mark.parametrize("name", NODE_TYPES)
def test_every_node_config_is_what_ec2_takes(name: str) -> None:
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    config = {key: value for key, value in NODE_TYPES[name]["node_config"].items() if key != "SubnetIds"}  # Ray's own
    valid = {**config, "MinCount": 1, "MaxCount": 1}
    validator = botocore.validate.ParamValidator()
    assert not validator.validate(valid, shape).generate_report()
    assert validator.validate({**valid, "InstanceTyp": "x"}, shape).has_errors()


@pytest.mark.parametrize("name", NODE_TYPES)
def test_resources_are_those_of_the_instance_type(name: str, account: Account) -> None:
    instance_type = NODE_TYPES[name]["node_config"]["InstanceType"]
    described = account.session.client("ec2").describe_instance_types(InstanceTypes=[instance_type])["InstanceTypes"][0]
    gpus = described.get("GpuInfo", {}).get("Gpus", [])
    if name == "head":
        assert NODE_TYPES[name]["resources"] == {"CPU": 0} and not gpus
    else:
        (gpu,) = gpus
        cpus = described["VCpuInfo"]["DefaultVCpus"]
        assert NODE_TYPES[name]["resources"] == {"CPU": cpus, "GPU": gpu["Count"], gpu["Name"]: gpu["Count"]}
    cards = [entry["NetworkCardIndex"] for entry in NODE_TYPES[name]["node_config"].get("NetworkInterfaces", [])]
    assert cards in ([], list(range(described["NetworkInfo"]["MaximumNetworkCards"])))


@pytest.mark.parametrize("name", WORKER_TYPES)
def test_nodes_are_labelled_with_what_they_cost(name: str) -> None:
    config = NODE_TYPES[name]["node_config"]
    market = config.get("InstanceMarketOptions", {}).get("MarketType", "on demand")
    price = read_prices().node(NODE_TYPES[name]["labels"][PRICE_LABEL])
    assert price.type == config["InstanceType"] + ("-spot" if market == "spot" else "")
    assert market in price.source and price.devices == NODE_TYPES[name]["resources"]["GPU"]
    assert price.per_hour > 0 and fnmatch(GPUS[config["InstanceType"]], price.device)


def test_autoscaler_gives_nodes_their_labels(filled: dict[str, Any]) -> None:
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    config = AutoscalingConfig(bootstrapped(filled), skip_content_hash=True)
    found = {name: config.get_node_labels(name).get(PRICE_LABEL) for name in NODE_TYPES}
    spot, eight = "g6.2xlarge-spot", "p4d.24xlarge"
    assert found == {"head": None, "one_gpu_spot": spot, "one_gpu": "g6.2xlarge", "eight_gpus": eight}


def test_nothing_is_kept_running_idle() -> None:
    assert all(NODE_TYPES[name]["min_workers"] == 0 < NODE_TYPES[name]["max_workers"] for name in WORKER_TYPES)
    assert "min_workers" not in NODE_TYPES["head"] and "InstanceMarketOptions" not in NODE_TYPES["head"]["node_config"]
    assert 1 <= SHIPPED["idle_timeout_minutes"] <= 15
    assert SHIPPED["provider"]["cache_stopped_nodes"] is False
    assert NODE_TYPES["one_gpu_spot"]["priority"] > NODE_TYPES["one_gpu"].get("priority", 0)


def test_no_image_profile_or_group_is_left_to_rays_defaults() -> None:
    for node_type in NODE_TYPES.values():
        config = node_type["node_config"]
        assert config["ImageId"] == SHIPPED["metadata"]["image"]
        assert config["IamInstanceProfile"]["Name"].startswith("labelscale-")
        groups = [config.get("SecurityGroupIds"), *(entry["Groups"] for entry in config.get("NetworkInterfaces", []))]
        assert {group for listed in groups if listed for group in listed} == {SHIPPED["metadata"]["security_group"]}


def test_only_marked_lines_have_to_be_filled_in(filled: dict[str, Any]) -> None:
    marked = [name for name, value in SHIPPED["metadata"].items() if "FILL-IN" in value]
    assert marked == ["bucket", "subnet", "security_group", "image"]
    assert not any("FILL-IN" in value for value in filled["metadata"].values())
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    assert not re.findall(r"\b(?:ami|sg|subnet)-[0-9a-f]{8,}", text)  # an id of somebody's account, or of one region
    changed = {key for key in SHIPPED if SHIPPED[key] != filled[key]}
    assert changed == {"metadata", "auth", "available_node_types"}  # the last by reference


def make_bucket(name: str, region: str) -> None:
    s3 = boto3.Session(region_name=region).client("s3")
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": region})


def test_ssh_goes_through_the_region_of_the_cluster_whatever_the_laptops_is(
    account: Account, file: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "cluster.yaml"
    make_bucket("northern", "eu-north-1")
    text = file.read_text(encoding="utf-8").replace("my-studies", "northern")
    moved.write_text(text.replace(f"&region {REGION}", "&region eu-north-1"))
    account_setup.prepare(moved, account.session)
    for path, region in ((file, REGION), (moved, "eu-north-1")):
        command = yaml.safe_load(path.read_text(encoding="utf-8"))["auth"]["ssh_proxy_command"].split()
        assert command[command.index("--region") + 1] == region and "FILL-IN" not in command


def test_an_unfilled_bucket_is_refused_by_name(account: Account, tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match=r"metadata\.bucket"):
        account_setup.prepare(file, account.session)
    assert file.read_text(encoding="utf-8") == (ROOT / "cluster.yaml").read_text(encoding="utf-8")


def test_preparing_an_account_again_changes_nothing(account: Account, file: Path) -> None:
    before = file.read_text(encoding="utf-8")
    account.actions.clear()
    account_setup.prepare(file, account.session)
    assert file.read_text(encoding="utf-8") == before
    made = {action for action in account.actions if re.search(":(Create|Authorize|Add)", action)}
    refused = {"iam:CreateRole", "iam:CreateInstanceProfile", "iam:CreatePolicy"}  # since they exist
    assert made == refused | {"iam:CreatePolicyVersion"}
    s3 = account.session.client("s3")
    assert s3.get_bucket_location(Bucket="my-studies")["LocationConstraint"] == REGION
    (rule,) = s3.get_bucket_lifecycle_configuration(Bucket="my-studies")["Rules"]
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7} and "Expiration" not in rule


def test_bucket_of_ones_own_is_kept_and_looked_at(account: Account, file: Path, tmp_path: Path) -> None:
    make_bucket("own", REGION)
    make_bucket("far-away", "eu-west-1")
    text, own = file.read_text(encoding="utf-8"), tmp_path / "cluster.yaml"
    own.write_text(text.replace("my-studies", "own"))
    said = "\n".join(account_setup.prepare(own, account.session))
    assert "the bucket own keeps what was uploaded of checkpoints" in said and "7 days" in said
    assert "keeps what was uploaded" not in "\n".join(account_setup.prepare(file, account.session))
    own.write_text(text.replace("my-studies", "far-away"))
    with pytest.raises(ValueError, match="far-away is in eu-west-1, the cluster in us-west-2"):
        account_setup.prepare(own, account.session)


def test_policy_for_those_who_start_the_cluster_is_what_is_shipped_however_often_it_was_changed(
    account: Account, file: Path
) -> None:
    iam = account.session.client("iam")
    arn = "arn:aws:iam::123456789012:policy/labelscale-laptop"
    for _ in range(6):  # AWS keeps five versions
        account_setup.prepare(file, account.session)
    version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    stored = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]
    values = yaml.safe_load(file.read_text(encoding="utf-8"))["metadata"]
    assert stored == account_setup.policy("laptop", values, "123456789012")


@pytest.mark.parametrize(("answers", "minutes"), [("1" * 15, 15), ("0" * 40 + "1" * 15, 55), ("01110" + "1" * 15, 20)])
def test_node_without_ray_goes_after_a_quarter_of_an_hour(tmp_path: Path, answers: str, minutes: int) -> None:
    """`answers`: what `pgrep` says of each minute, 0 that Ray runs. The test's minutes take no time."""
    for name, script in {
        "sleep": "echo $1 >> slept",
        "pgrep": '[ "$*" = "-x raylet" ] && code=$(head -c 1 answers) && sed -i "s/^.//" answers && exit $code',
        "sudo": "echo $* >> ended",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "answers").write_text(answers)
    command = SHIPPED["worker_start_ray_commands"][-1].replace("/tmp/without-ray", str(tmp_path / "lock"))
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, check=True)
    while not (tmp_path / "ended").exists():
        time.sleep(0.01)
    assert (tmp_path / "ended").read_text() == "shutdown -h now\n"
    assert (tmp_path / "slept").read_text() == "60\n" * minutes


def test_a_public_subnet_is_said_to_be_none_for_eight_gpus(account: Account, file: Path) -> None:
    ec2 = account.session.client("ec2")
    public = account_setup.prepare(file, account.session)
    subnet = yaml.safe_load(file.read_text(encoding="utf-8"))["metadata"]["subnet"]
    ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": False})
    private = account_setup.prepare(file, account.session)
    ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": True})
    (line,) = set(public) - set(private)
    assert subnet in line and "eight_gpus" in line and "\n" not in line and set(private) < set(public)


def test_a_group_open_to_the_world_is_refused(account: Account, filled: dict[str, Any], file: Path) -> None:
    ec2, group = account.session.client("ec2"), filled["metadata"]["security_group"]
    world = [{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=world)
    with pytest.raises(ValueError, match=r"lets in 0\.0\.0\.0/0"):
        account_setup.prepare(file, account.session)
    ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=world)


def actions_and_resources(statement: dict[str, Any]) -> tuple[list[str], list[str]]:
    actions, resources = statement["Action"], statement["Resource"]
    return [actions] if isinstance(actions, str) else actions, [resources] if isinstance(resources, str) else resources


def allowed(policy: dict[str, Any], service: str) -> set[str]:
    """The actions of a service that a policy allows."""
    listed = [action for statement in policy["Statement"] for action in actions_and_resources(statement)[0]]
    return {action for action in listed if action.startswith(f"{service}:")}


@pytest.mark.parametrize("name", ["laptop", "head"])
def test_policies_allow_exactly_what_ray_asks_ec2_for(
    name: str, filled: dict[str, Any], launched: dict[str, set[str]]
) -> None:
    policy = account_setup.policy(name, filled["metadata"], "123456789012")
    assert {action for action in launched[name] if not action.startswith("ec2:")} == set()
    assert allowed(policy, "ec2") == launched[name]


def test_a_laptop_may_use_session_manager_for_ssh_and_end_its_own_sessions_only(filled: dict[str, Any]) -> None:
    policy = account_setup.policy("laptop", filled["metadata"], "123456789012")
    assert allowed(policy, "ssm") == {"ssm:StartSession", "ssm:ResumeSession", "ssm:TerminateSession"}
    assert allowed(policy, "ssmmessages") == {"ssmmessages:OpenDataChannel"}
    (ends,) = [found for found in policy["Statement"] if "ssm:TerminateSession" in found["Action"]]
    tag = "ssm:resourceTag/aws:ssmmessages:session-id"  # Session Manager user guide, "end only sessions they started"
    assert ends["Condition"] == {"StringEquals": {tag: "${aws:userid}"}}


@pytest.mark.parametrize("name", ["laptop", "head", "worker"])
def test_no_policy_reaches_beyond_this_cluster_and_its_bucket(name: str, filled: dict[str, Any]) -> None:
    policy = account_setup.policy(name, filled["metadata"], "123456789012")
    unbound = ("ec2:Describe", "ssm:UpdateInstanceInformation", "ssmmessages:")  # AWS binds none of these to a resource
    bound_by_tag = {"ec2:CreateTags", "ec2:TerminateInstances", "ssm:StartSession"}
    for statement in policy["Statement"]:
        actions, resources = actions_and_resources(statement)
        assert not any("*" in action for action in actions)
        assert "*" not in resources or all(action.startswith(unbound) for action in actions)
        if bound_by_tag & set(actions) and resources != ["arn:aws:ssm:*:*:document/AWS-StartSSHSession"]:
            assert "StringEquals" in statement["Condition"]
        if any(action.startswith("s3:") for action in actions):
            assert all(resource in ("arn:aws:s3:::my-studies", "arn:aws:s3:::my-studies/*") for resource in resources)
    assert name != "worker" or allowed(policy, "s3") == {
        action for statement in policy["Statement"] for action in actions_and_resources(statement)[0]
    }


def test_what_is_copied_to_the_nodes_exists(filled: dict[str, Any]) -> None:
    sources = [Path(source).expanduser() for source in filled["file_mounts"].values()]
    assert len(sources) == 2 and all(source.is_file() for source in sources)


def test_versions_are_those_of_the_constraints() -> None:
    (install,) = [command for command in SHIPPED["setup_commands"] if "pip install" in command]
    file = re.search(r"--requirement (\S+)", install)
    assert file and SHIPPED["file_mounts"][file[1]] == "./constraints.txt"
    assert {"ray", "torch", "boto3", "aiohttp"} <= PINS.keys()  # the last two: AWS provider and ray[default]
    assert "==" not in (ROOT / "cluster.yaml").read_text(encoding="utf-8")


def test_dashboard_is_on_loopback_and_every_node_asks_for_the_token() -> None:
    (head,) = [command for command in SHIPPED["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in head
    assert any("RAY_AUTH_MODE=token" in command for command in SHIPPED["setup_commands"])
    assert SHIPPED["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.update(foo=1), "'foo' was unexpected"),
        (lambda config: config["available_node_types"]["one_gpu"].update(min_wokers=1), "'min_wokers' was unexpected"),
        (lambda config: config.update(head_node_type="nope"), "must be one of `available_node_types`"),
    ],
)
def test_rays_schema_is_asked(change: Any, message: str, filled: dict[str, Any]) -> None:
    from ray.autoscaler._private import util

    config = copy.deepcopy(filled)
    util.validate_config(util.prepare_config(config))
    change(config)
    with pytest.raises(Exception, match=message):
        util.validate_config(util.prepare_config(config))


def commands_of(page: str, heading: str) -> list[str]:
    """The commands in the shell blocks of a page's section."""
    section = (ROOT / page).read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [line for block in re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL) for line in block.splitlines()]


def test_readme_gives_the_commands_that_the_cluster_test_runs() -> None:
    commands = commands_of("README.md", "On a cluster")
    assert (
        commands == commands_of("docs/cluster.md", "A study from start to end") and "ray up -y cluster.yaml" in commands
    )
