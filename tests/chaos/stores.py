"""Rounds on an object store that is away for a while, slow, breaks connections, refuses, or loses its bucket."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from chaos.disturbances import BUSY_SECONDS
from chaos.kills import finish, moment
from chaos.launches import Launch, Place
from chaos.promises import Findings
from chaos.proxy import MODES, Proxy
from object_store import ObjectStore, running_store

BUCKET = "chaos-bucket"
GONE_SECONDS = 60.0


@contextmanager
def on_a_store(place: Place) -> Iterator[tuple[Place, ObjectStore, Proxy]]:
    """The same place with its storage on an object store behind a proxy; `fetch` brings what is there afterwards."""
    with running_store() as store:
        proxy = Proxy(int(store.url.rpartition(":")[2]))
        times: list[float] = []
        seen = 0

        def begun(since: float) -> bool:
            nonlocal seen
            new, seen = store.requests[seen:], len(store.requests)
            times.extend(time.time() for method, path in new if method == "PUT" and "progress.json" in path)
            return bool(times) and times[-1] > since

        environment = {**place.environment, "AWS_ENDPOINT_URL": proxy.url}
        yield (
            replace(place, storage=store.bucket(BUCKET), mirror=place.local, environment=environment, begun=begun),
            store,
            proxy,
        )
        proxy.close()


def fetch(place: Place, store: ObjectStore) -> None:
    """Bring records and weights from the store into the round's local storage, to be looked at."""
    client = store.client()
    for key in store.keys(BUCKET):
        if key.endswith((".json", "model.pt")):
            target = place.local / key.removeprefix("runs/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())


def goes_away(local: Place, rng: random.Random, findings: Findings) -> None:
    """The store is away, slow, silent, breaks connections or says that it is busy, for some seconds at a time."""
    with on_a_store(local) as (place, store, proxy):
        launch = Launch(place)
        for _ in range(2):
            if not moment(launch, rng):
                break
            how = rng.choice([*MODES, "busy"])
            if how == "busy":
                store.fault = lambda method, path: "503"
            else:
                proxy.mode = how  # type: ignore[assignment]
            findings.attacks[f"an object store that is or does: {how}"] += 1
            time.sleep(rng.uniform(0.5, 8.0))
            proxy.mode, store.fault = "through", None
        launch.end(findings, {0})
        fetch(place, store)
        finish(place, findings)
        fetch(place, store)


def refuses(local: Place, rng: random.Random, findings: Findings) -> None:
    """Every request is refused from a moment on, until the rights are there again."""
    with on_a_store(local) as (place, store, _):
        launch = Launch(place)
        if moment(launch, rng):
            store.fault = lambda method, path: "403"
            findings.attacks["an object store that refuses"] += 1
            _check_gone(launch, findings)
            store.fault = None
        else:
            launch.end(findings, {0})
        fetch(place, store)
        finish(place, findings)
        fetch(place, store)


def loses_bucket(local: Place, rng: random.Random, findings: Findings) -> None:
    """The bucket is deleted in mid-run, and all is lost; a launch into a new one of that name does all again."""
    with on_a_store(local) as (place, store, _):
        launch = Launch(place)
        if moment(launch, rng):
            _delete_bucket(store)
            findings.attacks["a bucket that is deleted"] += 1
            _check_gone(launch, findings)
            store.bucket(BUCKET)
        else:
            launch.end(findings, {0})
        finish(place, findings)
        fetch(place, store)


def _delete_bucket(store: ObjectStore) -> None:
    client = store.client()
    while True:
        listed = client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        for item in listed:
            client.delete_object(Bucket=BUCKET, Key=item["Key"])
        try:
            client.delete_bucket(Bucket=BUCKET)
            return
        except client.exceptions.ClientError:  # a file was written meanwhile
            continue


def _check_gone(launch: Launch, findings: Findings) -> None:
    began = time.monotonic()
    launch.wait_for(lambda: False, 4 * GONE_SECONDS * launch.place.slowness)
    seconds = time.monotonic() - began
    findings.measure("from a refusal or a lost bucket to the end of a launch", seconds)
    in_time = seconds < GONE_SECONDS * launch.place.slowness + BUSY_SECONDS
    findings.check("store", in_time, f"{launch.name.name} went on for {seconds:.0f} s")
    code = launch.end(findings, {1, 2})
    if code != 0:
        findings.check("store", BUCKET in launch.said(), f"{launch.name.name} does not name the bucket")
