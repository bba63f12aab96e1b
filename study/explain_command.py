"""The command `explain`."""

from __future__ import annotations

import argparse

from reports.storage import Storage
from reports.stored import read_record, record_ids
from study.explain import RecordedImages, explain_trial, find_trial, of_record
from study.images import find_images
from study.load import load_study
from study.plan import make_plan, training_rows
from study.presence import check_presence


def explain(options: argparse.Namespace) -> int:
    """Print what a trial trains: finished ones from their records, others from the study that plans them."""
    if options.set and options.study is None:
        raise ValueError("--set changes a study: name it with --study STUDY.yaml")
    storage = Storage(options.storage)
    if options.study is not None:
        study = load_study(options.study, options.set)
        made = make_plan(study, find_images(study, storage))
        planned = made.trials[find_trial(options.trial, made.trials)]
        lines = explain_trial(planned.id, planned.spec, planned.rows, lambda id: made.trials[id].spec)
    else:
        check_presence(storage, None)
        record = read_record(storage, find_trial(options.trial, record_ids(storage)))
        spec = of_record(record)
        rows = training_rows(spec, RecordedImages(record.data.train_images, record.data.labelled_images))
        lines = explain_trial(record.id, spec, rows, lambda id: of_record(read_record(storage, id)))
    print("\n".join(list(lines)))  # all of it or none: a missing parent is found on the way
    return 0
