"""The commands: plan, launch, status, report, explain, shard, verify."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.object_store import UnusableError
from datasets.urls import absolute, is_local
from reports.message import bound_warnings, complain
from reports.storage import Storage
from reports.stored import record_ids
from study.advice import warnings_of
from study.arguments import check_options, make_parser
from study.config import Study
from study.describe import describe_plan
from study.drift import drift
from study.ending import ending
from study.environment import missing_package
from study.images import ShardedImages, find_images
from study.known import current_plan, read_known, readable_plan
from study.load import load_study, study_text, with_seeds
from study.only import parse_only
from study.plan import make_plan
from study.presence import check_presence, is_present

if TYPE_CHECKING:
    from reports.progress import Progress
    from reports.results import Results


def main(arguments: list[str]) -> int:
    """Run one command; 0 on success, 1 where a study is left incomplete or a disk is full, 2 for unusable input."""
    commands = {one.__name__: one for one in (plan, launch, status, report, explain, shard, verify)}
    bound_warnings()
    options = make_parser(commands).parse_args(arguments)
    try:
        check_options(options)
        code: int = options.command(options)
    except BrokenPipeError:  # `plan ... | head`
        sys.stderr.close()
        return 0
    except ModuleNotFoundError as error:
        complain(missing_package(error))
        return 2
    except KeyboardInterrupt:
        print(ending.line, file=sys.stderr)
        return ending.code
    except Exception as error:
        return _told(error)
    return code


def _told(error: Exception) -> int:
    """Say what is wrong with the input, a storage, a disk or Ray, and return the exit code; raise what is neither."""
    from study.refusal import failure_of_ray, is_of_ray, unwrapped

    inner = unwrapped(error)
    if isinstance(inner, (ValueError, OSError)):
        complain(f"error: {inner}")
        return 1 if isinstance(inner, UnusableError) else 2
    if is_of_ray(inner):
        complain(f"error: {failure_of_ray(inner)}")
        return 1
    raise error


def plan(options: argparse.Namespace) -> int:
    """Print the plan with what it takes, and what makes an unfinished trial differ from a finished one like it."""
    from reports.prices import DEFAULT, read_prices
    from study.estimate import estimate_plan
    from study.hardware import of_node, processor, resources, this_machine, with_worker
    from study.throughput import Throughput, told_calibrations, write_calibration

    prices = read_prices(options.prices or DEFAULT)
    node = prices.node(options.node) if options.node else None
    study = with_worker(load_study(options.study, options.set), resources(node))
    storage = Storage(options.storage)
    per_worker = study.execution.per_worker
    hardware = of_node(node, per_worker) if node else this_machine(per_worker)
    known = read_known(study, storage, whole_grid=True)
    made = readable_plan(known)
    whole = made.whole()
    _warn(study)
    if options.calibrate:
        from study.calibrate import calibrate

        storage.check_writable()
        found = calibrate(whole, print, known.images if isinstance(known.images, ShardedImages) else None)
        print(f"stored in {write_calibration(storage, found)}\n")
    records, _ = known.evidence.records.read(known.evidence.done)
    throughput = Throughput(records, told_calibrations(storage), hardware.device, processor())
    estimate = estimate_plan(whole, records, throughput, hardware, options.devices, prices, node)
    for line in describe_plan(whole, estimate):
        print(line)
    if study.explore is not None:
        print(f"\nexplore picks cells of this grid until {study.explore.budget_device_hours:g} device-hours are spent")
    others = [record.spec.model_dump(mode="json") for record in records if record.id not in made.finished]
    changes = drift(made, others) if made.missing() and others else {}
    if changes:
        print("\nalmost like a finished trial of this storage:")
    for id, changed in changes.items():
        print(f"{id}  {'; '.join(changed)}")
    return 0


def launch(options: argparse.Namespace) -> int:
    """Run what is missing; the last lines are the answer and the path of the report."""
    study = load_study(options.study, options.set)
    if options.seeds is not None:
        study = with_seeds(study, options.seeds)
    _warn(study)
    only = parse_only(options.only) if options.only is not None else None
    if options.cluster:
        _check_for_cluster(study, options)
    if options.cluster and not options.dry_run:  # before Ray is imported, which reads but once whether to show a token
        return _launch_on_cluster(study, options)
    ending.line = "interrupted; launch again to go on"
    import rich.console

    from study.display import Display
    from study.dry_run import print_dry_run
    from study.end_of_launch import print_answer, say_what_is_missing
    from study.launch import launch as run
    from study.private_ray import remove_abandoned
    from study.wanted import LaunchOptions

    storage = Storage(options.storage)
    wanted = LaunchOptions(only, options.retry_failed, options.budget_gpu_hours)
    if options.dry_run:
        if not is_present(storage):
            complain(f"there is no storage at {storage.root} yet: everything would be run")
        return print_dry_run(current_plan(study, storage, retry_failed=options.retry_failed), storage, wanted)
    remove_abandoned()  # here too, as a launch that has nothing to run makes no folder
    launched = run(study, storage, options.address, Display(rich.console.Console()), wanted)
    if launched.plan.finished or launched.failures:
        from reports.build import read_results, write_report
        from study.reporting import study_info

        results = read_results(storage, study_info(launched.plan))
        written = write_report(storage, results)[0]
        print_answer(results)
        print(f"report: {written}")
    if launched.complete:
        return 0
    say_what_is_missing(launched)
    return 1


def _warn(study: Study) -> None:
    for warning in warnings_of(study):
        complain(f"warning: {warning}")


def _check_for_cluster(study: Study, options: argparse.Namespace) -> None:
    """Find out here what a launch on a cluster would be refused for there, after everything was sent."""
    from study.parcel import check_source_travels

    if options.address:
        raise ValueError(
            "--cluster submits the launch to that cluster, --address joins a cluster from inside; give one"
        )
    if is_local(options.storage) and not options.storage.startswith("/"):
        raise ValueError(
            f"--storage {options.storage}: with --cluster it is a URL such as s3://bucket/runs, or the absolute path "
            "of a folder that all nodes share"
        )
    storage = Storage(options.storage)
    check_source_travels(study, storage)
    if not storage.is_local:
        make_plan(study, find_images(study, storage))
    elif options.dry_run and not Path(storage.root).is_dir():
        raise ValueError(f"--dry-run reads the storage from here, and there is no folder {storage.root}")


def _launch_on_cluster(study: Study, options: argparse.Namespace) -> int:
    from study.jobs import Submission, launch_on_cluster

    further = [word for override in options.set for word in ("--set", override)]
    for name, value in (
        ("--only", options.only),
        ("--seeds", options.seeds),
        ("--budget-gpu-hours", options.budget_gpu_hours),
    ):
        further += [name, str(value)] if value is not None else []
    further += ["--retry-failed"] if options.retry_failed else []
    submission = Submission(study.name, study_text(options.study), Storage(options.storage).root, further)
    return launch_on_cluster(options.cluster, submission, lambda line: print(line, flush=True))


def status(options: argparse.Namespace) -> int:
    """Print the states of a study's trials, or follow those that run; 0 if all are finished."""
    from study.status import print_status, read_status

    study = load_study(options.study, options.set)
    storage = Storage(options.storage)
    check_presence(storage, options.study)
    if options.follow:
        import rich.console

        from study.follow import follow

        return follow(lambda: current_plan(study, storage), storage, rich.console.Console())
    return print_status(read_status(current_plan(study, storage), storage), storage)


def report(options: argparse.Namespace) -> int:
    """Write or serve the report of a study, or of the paper, and print where it is; 1 where images cannot be drawn."""
    from reports.build import PAPER, paper_results, read_results, state_of
    from reports.prices import read_prices
    from study.reporting import running_now, serve_report, study_info, write_reports

    if (options.study is None) != options.paper:
        raise ValueError("report needs either a STUDY.yaml or --paper, and not both")
    if options.paper and options.set:
        raise ValueError("--set changes a study; leave it out with --paper")
    storage = Storage(options.storage)
    if not options.paper:
        check_presence(storage, options.study)
    prices = read_prices(options.prices) if options.prices else None
    info = PAPER if options.paper else study_info(current_plan(load_study(options.study, options.set), storage))

    def results() -> Results:
        found = paper_results() if options.paper else read_results(storage, info)
        return replace(found, prices=prices) if prices else found

    def running() -> dict[str, Progress]:
        return {} if options.paper else running_now(storage, info.planned.keys() - record_ids(storage))

    if options.serve:
        if options.output or options.format:
            raise ValueError("--serve shows the page and writes no file; leave out --output and --format")
        return serve_report(lambda: state_of(storage, info), results, options.port or 0, running)
    if options.port is not None:
        raise ValueError("--port is for --serve")
    return write_reports(storage, replace(results(), running=running()), options.output, options.format)


def explain(options: argparse.Namespace) -> int:
    """Print what a trial trains: finished ones from their records, others from the study that plans them."""
    from study.explain_command import explain

    return explain(options)


def shard(options: argparse.Namespace) -> int:
    """Write shards and say what they hold."""
    from datasets.shards import write_shards
    from study.cluster import ray_cluster
    from study.images import no_half_shards

    destination = absolute(options.destination)
    with no_half_shards(destination), ray_cluster(None):
        manifest = write_shards(
            options.source,
            destination,
            label_seed=options.label_seed,
            train_limit=options.train_limit,
            test_limit=options.test_limit,
        )
    labelled, test = f"{manifest.labelled_images:,}", f"{manifest.test_images:,}"
    print(f"{destination}: {manifest.train_images:,} training images, {labelled} of them labelled, {test} test images")
    print(f"{len(manifest.classes)} classes, fingerprint {manifest.fingerprint[:12]}")
    return 0


def verify(options: argparse.Namespace) -> int:
    """Compare everything in a storage or a folder of shards with its checksums; 1 where something is damaged."""
    from study.verify import verify as verified

    return 0 if verified(options.place, print) else 1
