import io
import itertools
import logging

import numpy as np
import pytest
import ray
import torch
from PIL import Image
from sklearn.datasets import load_digits

from datasets import blocks, windows
from datasets.shards import write_shards
from datasets.stream import TrainStream, eval_batches

ROWS = 150

# Ray Data warns of its own deprecated settings whenever it makes its context.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")


@pytest.fixture(scope="module")
def running_ray():
    ray.init("local", num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def digits(tmp_path_factory, running_ray):
    folder = str(tmp_path_factory.mktemp("digits") / "shards")
    write_shards("digits", folder, train_limit=200, test_limit=50, shard_bytes=8000)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory, running_ray):
    """Images whose sizes differ: number n is 4 + n high, 40 wide, and of value n."""
    root = tmp_path_factory.mktemp("photos")
    for number, name in enumerate([f"train/a/{i:02d}.png" for i in range(20)] + ["val/a/0.png"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(np.full((4 + number, 40, 3), number, np.uint8)).save(buffer, "PNG")
        (root / name).write_bytes(buffer.getvalue())
    folder = str(tmp_path_factory.mktemp("shards") / "photos")
    write_shards(str(root), folder)
    return folder


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(windows, "WINDOW_ROWS", 20)


MODES = pytest.mark.parametrize("resident_bytes", [2**30, 0], ids=["resident", "streaming"])


def stream(folder, rows=ROWS, *, seed=0, global_batch_size=32, **options):
    return TrainStream(folder, rows, seed=seed, global_batch_size=global_batch_size, max_side=64, **options)


def take(batches, count):
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def drawn(batches):
    """(epoch, id) of every row, in order."""
    return [pair for batch in batches for pair in zip(batch.epochs.tolist(), batch.ids.tolist(), strict=True)]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))


def prefix_ids(folder, rows):
    batches = eval_batches(folder, split="train", rows=rows, per_worker_batch_size=64, max_side=64)
    return [number for batch in batches for number in batch.ids.tolist()]


@MODES
def test_rows_carry_the_image_and_label_of_their_id(digits, resident_bytes):
    scans = load_digits()
    batch = stream(digits, resident_bytes=resident_bytes).batch(3)
    assert batch.images.dtype == torch.uint8 and batch.images.shape == (32, 3, 8, 8)
    assert all(values.dtype == torch.int64 for values in (batch.ids, batch.epochs, batch.sizes, batch.labels))
    assert np.array_equal(batch.labels, scans.target[batch.ids.numpy()])
    expected = np.round(scans.images[batch.ids.numpy()] * 255 / 16)
    assert np.array_equal(batch.images, np.repeat(expected[:, None], 3, axis=1))
    assert batch.sizes.tolist() == [[8, 8]] * 32


@MODES
@pytest.mark.parametrize("global_batch_size", [32, 150, 400])
def test_every_epoch_draws_every_row_of_the_prefix_once(digits, resident_bytes, global_batch_size, small_windows):
    chosen = stream(digits, resident_bytes=resident_bytes, global_batch_size=global_batch_size)
    assert chosen.resident == (resident_bytes > 0)
    pairs = drawn(take(chosen.iterate(), -(-3 * ROWS // global_batch_size)))
    assert [epoch for epoch, _ in pairs] == [position // ROWS for position in range(len(pairs))]
    epochs = [[number for e, number in pairs if e == epoch] for epoch in range(3)]
    prefix = sorted(prefix_ids(digits, ROWS))
    assert all(sorted(epoch) == prefix for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_row_groups_come_in_another_order_in_every_epoch_and_for_every_seed():
    groups = [blocks.RowGroup("", None, index, 10 * index, 10) for index in range(12)]
    shares = [windows.Share(120, seed, 0, 1) for seed in (0, 1)]
    orders = [
        tuple(piece.group.index for piece in windows.epoch_slices(groups, share, epoch, 0))
        for share in shares
        for epoch in range(3)
    ]
    assert len(set(orders)) == 6 and all(sorted(order) == list(range(12)) for order in orders)


def test_rows_of_one_row_group_are_shuffled_anew_in_every_epoch(digits):
    chosen = stream(digits, 12, resident_bytes=0, global_batch_size=12)
    orders = {tuple(batch.ids.tolist()) for batch in take(chosen.iterate(), 4)}
    assert len(orders) == 4 and len({tuple(sorted(order)) for order in orders}) == 1


@MODES
def test_any_step_can_be_resumed(digits, resident_bytes, small_windows):
    chosen = stream(digits, resident_bytes=resident_bytes, world_size=2, rank=1)
    whole = take(chosen.iterate(), 14)
    for step in (0, 1, 4, 5, 9, 13):
        resumed = take(stream(digits, resident_bytes=resident_bytes, world_size=2, rank=1).iterate(step), 1)
        assert same(whole[step], resumed[0])
    assert same(whole[11], chosen.batch(11))


@MODES
def test_the_seed_alone_decides_the_order(digits, resident_bytes):
    first, again, other = (
        drawn([stream(digits, seed=seed, resident_bytes=resident_bytes).batch(0)]) for seed in (0, 0, 1)
    )
    assert first == again != other


def test_resident_ranks_together_draw_what_one_process_draws(digits):
    for step in (0, 4, 9):
        alone = drawn([stream(digits).batch(step)])
        for world_size in (2, 4):
            ranks = [stream(digits, rank=rank, world_size=world_size).batch(step) for rank in range(world_size)]
            assert drawn(ranks) == alone


def test_streaming_ranks_share_an_epoch_without_overlap(digits, small_windows):
    prefix = set(prefix_ids(digits, ROWS))
    per_rank = [
        drawn(take(stream(digits, rank=rank, world_size=4, resident_bytes=0).iterate(), 10)) for rank in range(4)
    ]
    for epoch in (0, 1):
        ids = [[number for e, number in pairs if e == epoch] for pairs in per_rank]
        assert [len(part) for part in ids] == [ROWS // 4] * 4
        union = set().union(*ids)
        assert len(union) == ROWS // 4 * 4 and union <= prefix


def test_streaming_mixes_rows_of_different_row_groups(digits):
    order = prefix_ids(digits, 200)
    first = drawn([stream(digits, 200, global_batch_size=16, resident_bytes=0).batch(0)])
    groups = {order.index(number) // 16 for _, number in first}
    assert len(groups) > 5  # unshuffled, 16 consecutive rows come from one or two row groups


def test_resuming_reads_no_row_group_that_lies_before(digits, small_windows, monkeypatch):
    read = []
    original = blocks._read_bundle
    monkeypatch.setattr(blocks, "_read_bundle", lambda bundle: read.extend(bundle) or original(bundle))
    stream(digits, resident_bytes=0).batch(0)
    everything = len(read)
    read.clear()
    stream(digits, resident_bytes=0).batch(3)  # rows 96 to 127 of 150
    assert 0 < len(read) <= everything / 2


def test_ray_data_reads_the_same_batches(digits, monkeypatch, small_windows):
    expected = take(stream(digits, 160, seed=5, resident_bytes=0).iterate(), 11)
    monkeypatch.setattr(blocks, "RAY_BYTES", 0)
    batches = take(stream(digits, 160, seed=5, resident_bytes=0).iterate(), 11)
    assert all(same(one, other) for one, other in zip(expected, batches, strict=True))


@MODES
@pytest.mark.parametrize("world_size", [1, 3, 60])
def test_evaluation_sees_every_row_once_in_order(digits, resident_bytes, world_size):
    options = {"per_worker_batch_size": 7, "world_size": world_size, "max_side": 64, "resident_bytes": resident_bytes}
    ranks = [list(eval_batches(digits, split="test", rank=rank, **options)) for rank in range(world_size)]
    ids = [number for batches in ranks for batch in batches for number in batch.ids.tolist()]
    assert len(ids) == 50 and ids == sorted(set(ids))
    assert all(len(batch.ids) == 7 for batches in ranks for batch in batches[:-1])
    scans = load_digits()
    for batch in itertools.chain(*ranks):
        assert np.array_equal(batch.labels, scans.target[batch.ids.numpy()])
        assert np.array_equal(batch.images[:, 0], np.round(scans.images[batch.ids.numpy()] * 255 / 16))


@MODES
def test_images_of_different_sizes_are_padded_and_long_sides_reduced(photos, resident_bytes):
    chosen = TrainStream(photos, 20, seed=0, global_batch_size=10, max_side=20, resident_bytes=resident_bytes)
    for batch in take(chosen.iterate(), 4):
        heights = [max(1, round((4 + number) * 20 / 40)) for number in batch.ids.tolist()]
        assert batch.sizes.tolist() == [[height, 20] for height in heights]
        assert batch.images.shape == (10, 3, max(heights), 20)
        for number, height, image in zip(batch.ids.tolist(), heights, batch.images, strict=True):
            assert (image[:, :height] == number).all() and (image[:, height:] == 0).all()


def test_a_longer_decoded_prefix_serves_a_shorter_one(digits, monkeypatch):
    stream(digits, 200).batch(0)
    monkeypatch.setattr(blocks, "_read_bundle", lambda bundle: pytest.fail("read again"))
    assert len(stream(digits, 20, global_batch_size=64).batch(0).ids.unique()) == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 201}, "found 201 rows .* expected 1 to 200"),
        ({"rows": 0}, "expected 1 to 200"),
        ({"global_batch_size": 32, "world_size": 3}, "expected a positive multiple of 3"),
        ({"world_size": 2, "rank": 2}, "expected 0 to 1"),
        ({"rows": 3, "world_size": 4, "resident_bytes": 0}, "at least one row each"),
    ],
)
def test_impossible_requests_are_explained(digits, options, message):
    with pytest.raises(ValueError, match=message):
        stream(digits, **options)


def test_missing_shards_are_explained(tmp_path):
    with pytest.raises(ValueError, match=r"no shards .*python -m study shard SOURCE"):
        stream(str(tmp_path))
