"""What clouds tell a machine of its own end, asked of servers that answer as the clouds' documentation says."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from metadata_servers import AWS, END, Google, Metadata, running
from study.clouds import aws, gcp
from study.clouds.catalog import CLOUDS, first_deadline, preemption_notices
from study.clouds.notice import TRIES, PreemptionNotice

KINDS = {AWS: aws.preemption_notice, Google: gcp.preemption_notice}
NOTICES = {AWS: END, Google: "TRUE"}
FAULTS = ["silence", "cut short"]
DISABLED = {AWS: "AWS_EC2_METADATA_DISABLED", Google: "NO_GCE_CHECK"}


def ask_at(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Have all clouds asked at one address, as they have one and the same in the real world."""
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://{address}/")
    monkeypatch.setenv("GCE_METADATA_HOST", address)
    for name in DISABLED.values():
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> type[Metadata]:
    found: type[Metadata] = request.param
    return found


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, kind: type[Metadata]) -> Iterator[type[Metadata]]:
    with running(kind) as server:
        ask_at(monkeypatch, server.address)
        yield server


@pytest.fixture
def cloud(service: type[Metadata], kind: type[Metadata]) -> PreemptionNotice:
    return KINDS[kind]()


def end_told(kind: type[Metadata], deadline: float | None) -> bool:
    """Whether a deadline is what `NOTICES` say: AWS tells the time, Google that 30 seconds are left."""
    if deadline is None:
        return False
    if kind is AWS:
        return deadline == datetime(2099, 3, 1, 8, 22, tzinfo=UTC).timestamp()
    return 20 < deadline - time.time() <= 30


def test_notice_of_the_cloud_is_read(kind: type[Metadata], service: type[Metadata], cloud: PreemptionNotice) -> None:
    assert cloud.deadline() is None and cloud.deadline() is None and service.asked == 2
    service.notice = NOTICES[kind]
    assert end_told(kind, cloud.deadline())


def test_instance_that_is_to_hibernate_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(AWS) as server:
        ask_at(monkeypatch, server.address)
        server.notice = json.dumps({"action": "hibernate", "time": "2099-03-01T08:22:00Z"})
        deadline = aws.preemption_notice().deadline()
    assert deadline is not None and abs(deadline - time.time()) < 10


def test_cloud_that_is_turned_off_is_not_asked(
    monkeypatch: pytest.MonkeyPatch, kind: type[Metadata], service: type[Metadata]
) -> None:
    service.notice = NOTICES[kind]
    monkeypatch.setenv(DISABLED[kind], "true")
    assert KINDS[kind]().deadline() is None and service.asked == 0


def test_machine_outside_of_all_clouds_has_no_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    ask_at(monkeypatch, "127.0.0.1:1")
    assert [notice.deadline() for notice in preemption_notices()] == [None] * len(CLOUDS)


@pytest.mark.parametrize("fault", FAULTS)
def test_service_that_never_answered_is_asked_no_more_after_a_few_tries(
    kind: type[Metadata], service: type[Metadata], cloud: PreemptionNotice, fault: str
) -> None:
    service.fault = fault
    assert [cloud.deadline() for _ in range(2 * TRIES)] == [None] * 2 * TRIES and service.asked == TRIES
    service.fault, service.notice = "", NOTICES[kind]
    assert cloud.deadline() is None


@pytest.mark.parametrize("fault", FAULTS)
def test_service_that_answered_once_is_asked_for_ever(
    kind: type[Metadata], service: type[Metadata], cloud: PreemptionNotice, fault: str
) -> None:
    assert cloud.deadline() is None
    service.fault, service.notice = fault, NOTICES[kind]
    assert [cloud.deadline() for _ in range(2 * TRIES)] == [None] * 2 * TRIES
    service.fault = ""
    assert end_told(kind, cloud.deadline())


def test_notice_that_is_not_understood_is_told_once_and_the_next_one_is_read(
    kind: type[Metadata], service: type[Metadata], cloud: PreemptionNotice, caplog: pytest.LogCaptureFixture
) -> None:
    for notice in ("<html>", "[]", "{}", '{"action": "stop", "time": 5}', '{"action": "stop", "time": "soon"}'):
        service.notice = notice
        assert cloud.deadline() is None
    assert len(caplog.records) == 1 and "not understood" in caplog.text
    service.notice = NOTICES[kind]
    assert end_told(kind, cloud.deadline())


def test_machine_learns_of_its_end_from_its_own_cloud_though_all_are_asked(
    kind: type[Metadata], service: type[Metadata]
) -> None:
    """All clouds have one address. What another cloud answers there is no notice, and says so for good."""
    notices = preemption_notices()
    with ThreadPoolExecutor(len(CLOUDS)) as asking:
        assert [first_deadline(notices, asking) for _ in range(2 * TRIES)] == [None] * 2 * TRIES
        service.notice = NOTICES[kind]
        assert end_told(kind, first_deadline(notices, asking))


def test_server_that_is_not_googles_is_asked_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(AWS) as server:
        ask_at(monkeypatch, server.address)
        cloud = gcp.preemption_notice()
        assert [cloud.deadline() for _ in range(2 * TRIES)] == [None] * 2 * TRIES and server.asked == TRIES
