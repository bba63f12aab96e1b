"""What can be written behind `python -m study`: the commands and their options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import NoReturn

from reports.message import complain
from trainables.ranges import MOST_AT_ONCE, MOST_HOURS, MOST_IMAGES, MOST_SEED

Command = Callable[[argparse.Namespace], int]

MOST_SEEDS = 100_000

RANGES: dict[str, tuple[float, float]] = {
    "devices": (1, MOST_AT_ONCE),
    "seeds": (1, MOST_SEEDS),
    "label_seed": (0, MOST_SEED),
    "train_limit": (1, MOST_IMAGES),
    "test_limit": (1, MOST_IMAGES),
    "budget_gpu_hours": (1e-6, MOST_HOURS),
    "port": (0, 65_535),
}
"""The least and the largest number of every option that takes one."""


class _Parser(argparse.ArgumentParser):
    """Refuses as `argparse` does, in a message of bounded length."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        complain(f"error: {message}")
        self.exit(2)


def check_options(options: argparse.Namespace) -> None:
    """Refuse numbers that are out of range, and `--option=--`, of which argparse makes an empty list.

    Raises:
        ValueError: the option, its number, and what is expected.
    """
    for name, found in vars(options).items():
        if [] in (found if name == "set" else [found]):
            raise ValueError(f"--{name.replace('_', '-')}=--: expected a value behind the equals sign")
    for name, (low, high) in RANGES.items():
        found = getattr(options, name, None)
        if found is not None and not low <= found <= high:
            ends = [f"{end:,}" if isinstance(end, int) else f"{end:g}" for end in (low, high)]
            shown = found if isinstance(found, int) else f"{found:g}"
            raise ValueError(f"--{name.replace('_', '-')} {shown}: expected {ends[0]} to {ends[1]}")


def make_parser(commands_by_name: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The parser of all commands; what it parses has the function of its command as `command`."""
    parser = _Parser(prog="python -m study", description="Label-efficiency scaling studies.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add_storage_and_overrides(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "--storage", default="./runs", metavar="DIR_OR_URL", help="records, checkpoints, reports (./runs)"
        )
        added.add_argument(
            "--set", action="append", default=[], metavar="PATH=VALUE", help="override one value; may be repeated"
        )

    def command(name: str, help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help)
        added.set_defaults(command=commands_by_name[name])
        return added

    for name, help in (
        ("plan", "print the trials of a study, what they cost, and which are finished; starts nothing"),
        ("launch", "run what is missing, then write the report"),
        ("status", "print what is done, running and failed, from storage alone"),
        ("report", "write the report, from storage alone"),
    ):
        added = command(name, help)
        added.add_argument("study", metavar="STUDY.yaml", nargs="?" if name == "report" else None)
        add_storage_and_overrides(added)
        if name == "launch":
            _add_launch_options(added)
        if name == "status":
            added.add_argument(
                "--follow", action="store_true", help="show how trials are getting on, until all is done"
            )
        if name == "report":
            _add_report_options(added)
        if name == "plan":
            _add_plan_options(added)
    added = command("explain", "print what a trial trains, decays, adapts, and at which learning rate")
    added.add_argument("trial", metavar="TRIAL_ID", help="an id, or how it begins")
    added.add_argument("--study", metavar="STUDY.yaml", help="the study that plans it, if it is not finished yet")
    add_storage_and_overrides(added)
    added = command("shard", "write a source's images as shards")
    added.add_argument("source", help="digits, cifar10, or a folder of class folders or of Parquet files")
    added.add_argument("destination", metavar="DEST", help="folder or URL of the shards")
    added.add_argument("--label-seed", type=int, default=0, metavar="N", help="which labels are known first (0)")
    added.add_argument("--train-limit", type=int, metavar="N", help="keep N training images, balanced over the classes")
    added.add_argument("--test-limit", type=int, metavar="N", help="keep N test images, balanced over the classes")
    added = command("verify", "compare all shards and models with their checksums; adds them to shards that lack them")
    added.add_argument("place", metavar="DIR_OR_URL", help="a storage, or a folder of shards")
    return parser


def _add_launch_options(added: argparse.ArgumentParser) -> None:
    added.add_argument("--address", help="a running Ray cluster (default: a private Ray on this machine)")
    added.add_argument(
        "--cluster", metavar="CLUSTER.yaml", help="submit the launch as a job to the cluster of `ray up`"
    )
    added.add_argument(
        "--only",
        metavar="FIELD=PATTERN ...",
        help="run only trials that match, such as 'stage=finetune architecture=r50*', and what these need",
    )
    added.add_argument("--retry-failed", action="store_true", help="try again what failed in an earlier launch")
    added.add_argument(
        "--seeds", type=int, metavar="N", help="run every cell for N seeds; finished ones stay as they are"
    )
    added.add_argument(
        "--budget-gpu-hours",
        type=float,
        metavar="H",
        help="start no trial that would make this launch take more GPU hours (of workers, on CPUs)",
    )
    added.add_argument("--dry-run", action="store_true", help="print what would be run, in order, and run nothing")


def _add_plan_options(added: argparse.ArgumentParser) -> None:
    added.add_argument(
        "--calibrate", action="store_true", help="first measure a few steps of each architecture and stage here"
    )
    added.add_argument("--devices", type=int, metavar="N", help="wall clock on N devices (default: this machine's)")
    added.add_argument("--node", metavar="TYPE", help="rent nodes of this type of the price table")
    added.add_argument("--prices", metavar="FILE.yaml", help="a price table in the form of reports/prices.yaml")


def _add_report_options(added: argparse.ArgumentParser) -> None:
    added.add_argument("--paper", action="store_true", help="report the paper's own numbers instead of a study")
    added.add_argument("-o", "--output", metavar="FILE", help="where to; the ending chooses the format")
    added.add_argument(
        "--format", metavar="F,...", help="one or more of html, md, csv, parquet, png, svg, pdf (default: html)"
    )
    added.add_argument(
        "--prices", metavar="FILE.yaml", help="prices of device-hours, in the form of reports/prices.yaml"
    )
    added.add_argument("--serve", action="store_true", help="serve the page on this machine, up to date, until Ctrl-C")
    added.add_argument("--port", type=int, help="port for --serve (default: any free one)")
