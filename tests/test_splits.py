import hashlib
import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.splits import balanced_subset, held_out_tenth, label_hash, label_ranks

label_lists = st.lists(st.integers(-1, 5), min_size=1, max_size=120).map(lambda labels: np.array(labels, np.int32))
fractions = st.floats(0.001, 1.0)


def counts_at(labels, ranks, fraction):
    return np.array([np.sum((labels == c) & (ranks < fraction)) for c in np.unique(labels[labels >= 0])])


@given(label_lists, st.integers(0, 3), fractions)
def test_a_fraction_holds_its_share_of_the_labels_and_at_least_one_of_each_class(labels, seed, fraction):
    ranks = label_ranks(labels, seed)
    counts = counts_at(labels, ranks, fraction)
    labelled = int(np.sum(labels >= 0))
    assert counts.sum() in {max(len(counts), math.floor(fraction * labelled) + extra) for extra in (0, 1)}
    assert (counts >= 1).all()


@given(label_lists, st.integers(0, 3), fractions)
def test_classes_differ_by_one_image_at_most_until_the_smaller_is_used_up(labels, seed, fraction):
    ranks = label_ranks(labels, seed)
    counts = counts_at(labels, ranks, fraction)
    sizes = counts_at(labels, ranks, 2.0)
    if len(counts):
        assert all(count >= counts.max() - 1 or count == size for count, size in zip(counts, sizes, strict=True))


@given(label_lists, st.integers(0, 3), fractions, fractions)
def test_fractions_are_nested_and_one_is_everything(labels, seed, one, other):
    ranks = label_ranks(labels, seed)
    assert set(np.flatnonzero(ranks < min(one, other))) <= set(np.flatnonzero(ranks < max(one, other)))
    assert np.array_equal(ranks < 1.0, labels >= 0)
    assert np.array_equal(np.isnan(ranks), labels < 0)
    assert (ranks[labels >= 0] >= 0).all()


def test_seeds_choose_different_images_and_repeat_themselves():
    labels = np.repeat(np.arange(5, dtype=np.int32), 100)
    first, again, other = (label_ranks(labels, seed) < 0.1 for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert 0 < np.sum(first & other) < 30  # 10 of 100 are chosen twice by chance: about 5 of 50 in common


def test_images_of_a_class_have_equal_chances():
    labels = np.repeat(np.arange(2, dtype=np.int32), 20)
    chosen = sum((label_ranks(labels, seed) < 0.25).astype(int) for seed in range(400))
    assert chosen.min() > 60 and chosen.max() < 140  # 100 expected, standard deviation 8.7


def test_imagenet_counts_give_the_published_subset_sizes():
    sizes = np.full(1000, 1300)
    sizes[:105] = np.linspace(732, 1299, 105).astype(int)
    sizes[999] += 1_281_167 - sizes.sum()
    labels = np.repeat(np.arange(1000, dtype=np.int32), sizes)
    assert len(labels) == 1_281_167
    ranks = label_ranks(labels, 0)
    for fraction, published, fewest, most in ((0.01, 12_811, 12, 13), (0.1, 128_116, 128, 129)):
        counts = np.bincount(labels[ranks < fraction], minlength=1000)
        assert (counts.min(), counts.max()) == (fewest, most)
        assert counts.sum() == published


@settings(max_examples=50)
@given(label_lists.filter(lambda labels: (labels >= 0).any()), st.data())
def test_a_limit_keeps_every_class_and_the_labelled_share(labels, data):
    limit = data.draw(st.integers(1, len(labels)))
    classes = len(np.unique(labels[labels >= 0]))
    try:
        kept = balanced_subset(labels, limit)
    except ValueError:
        assert limit * np.mean(labels >= 0) < classes + 1
        return
    assert len(kept) == limit and (np.diff(kept) > 0).all()
    assert len(np.unique(labels[kept][labels[kept] >= 0])) == classes
    assert abs(np.sum(labels[kept] >= 0) - limit * np.mean(labels >= 0)) <= 1


@pytest.mark.parametrize("limit", [0, 4])
def test_a_limit_out_of_range_is_an_error(limit):
    with pytest.raises(ValueError, match=f"limit of {limit} images was asked of 3; give a limit between 1 and 3"):
        balanced_subset(np.array([0, 0, 0], np.int32), limit)


def test_the_held_out_tenth_is_taken_from_every_class_in_proportion():
    labels = np.repeat(np.arange(3, dtype=np.int32), [100, 20, 2])
    held_out = held_out_tenth(labels, ["a", "b", "c"])
    assert np.bincount(labels[held_out]).tolist() == [10, 2, 1]
    with pytest.raises(ValueError, match=r"\['b'\] have one image each"):
        held_out_tenth(np.array([0, 0, 1], np.int32), ["a", "b"])


def test_hash_of_labels_is_of_pairs_in_the_order_of_ids():
    ids, labels = np.array([3, 1, 2]), np.array([0, 1, -1], np.int32)
    expected = hashlib.sha256(struct.pack("<6q", 1, 1, 2, -1, 3, 0)).hexdigest()
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        assert label_hash(ids[order], labels[order]) == expected
    assert label_hash(ids, labels[[1, 0, 2]]) != expected
