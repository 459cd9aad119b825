import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.data_config import DataConfig
from trainables.datasets.data import DataSplits, evaluation_batches, normalise, training_batches
from trainables.datasets.images import ImageSet, Source, num_batches
from trainables.datasets.splits import random_split, split, stratified_sample, stratified_split
from trainables.errors import InputError

MEAN, STD = (0.2, 0.4, 0.6), (0.1, 0.2, 0.3)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _images(num_images: int, *, channels: int = 3, size: int = 8, num_classes: int = 2) -> ImageSet:
    pixels = torch.randint(256, (num_images, channels, size, size), dtype=torch.uint8, generator=_generator())
    return ImageSet(images_NCHW=pixels, labels_N=torch.arange(num_images) % num_classes)


def _numbered(num_images: int) -> ImageSet:
    """Images that tell which they are: every pixel and the label are the image's index."""
    numbers = torch.arange(num_images)
    pixels = numbers.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    return ImageSet(images_NCHW=pixels, labels_N=numbers)


def _splits(num_images: int = 20) -> DataSplits:
    return split(Source(images=_images(num_images), class_names=("cat", "dog")), DataConfig())


# Types


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 1, 8, 8), torch.zeros(2).long(), "images are float32 of shape (2, 1, 8, 8), but must be uint8"),
        (torch.zeros(2, 8, 8).byte(), torch.zeros(2).long(), "images are uint8 of shape (2, 8, 8), but must be"),
        (torch.zeros(2, 1, 8, 8).byte(), torch.zeros(2).int(), "labels are int32 of shape (2,), but must be int64"),
        (torch.zeros(2, 1, 8, 8).byte(), torch.zeros(2, 1).long(), "labels are int64 of shape (2, 1), but must be"),
        (torch.zeros(2, 1, 8, 8).byte(), torch.zeros(3).long(), "2 images and 3 labels"),
        (torch.zeros(0, 1, 8, 8).byte(), torch.zeros(0).long(), "must not be empty"),
    ],
)
def test_an_image_set_of_wrong_shape_or_type_is_refused(
    images: torch.Tensor, labels: torch.Tensor, message: str
) -> None:
    with pytest.raises(InputError) as error:
        ImageSet(images_NCHW=images, labels_N=labels)
    assert message in str(error.value)


@pytest.mark.parametrize("bad_label", [-1, 3])
def test_a_label_out_of_range_is_named_with_its_row(bad_label: int) -> None:
    labels = torch.tensor([0, 2, bad_label, 99])
    images = ImageSet(images_NCHW=torch.zeros(4, 1, 8, 8, dtype=torch.uint8), labels_N=labels)
    with pytest.raises(InputError, match=rf"label of row 2 is {bad_label}, but must be in 0 … 2"):
        Source(images=images, class_names=("a", "b", "c"))


def test_splits_know_their_shape() -> None:
    splits = _splits()
    assert (splits.num_classes, splits.in_channels, splits.image_size, splits.input_shape) == (2, 3, 8, (3, 8, 8))


def test_splits_of_different_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"shape \(3, 16, 16\), but must have the training images' \(3, 8, 8\)"):
        DataSplits(train=_images(4), val=_images(4, size=16), mean=MEAN, std=STD, class_names=("a", "b"))
    with pytest.raises(InputError, match="3 channels, but there are 1 means and 3 standard deviations"):
        DataSplits(train=_images(4), val=_images(4), mean=(0.5,), std=STD, class_names=("a", "b"))


def test_sets_and_splits_move_between_devices() -> None:
    images = _images(4)
    assert images.to("cpu").images_NCHW.data_ptr() == images.images_NCHW.data_ptr()
    assert images.to("meta").labels_N.device.type == "meta"
    splits = _splits()
    moved = splits.to("meta")
    assert {part.images_NCHW.device.type for part in (moved.train, moved.val)} == {"meta"}
    assert (moved.mean, moved.class_names) == (splits.mean, splits.class_names)


# Sharing between processes


def test_splits_come_back_from_arrays() -> None:
    splits = _splits()
    again = DataSplits.from_arrays(splits.to_arrays())
    for one, other in ((splits.train, again.train), (splits.val, again.val)):
        assert torch.equal(one.images_NCHW, other.images_NCHW)
        assert torch.equal(one.labels_N, other.labels_N)
    assert (again.mean, again.std, again.class_names) == (splits.mean, splits.std, splits.class_names)


def test_read_only_arrays_are_shared_and_not_warned_about() -> None:
    arrays = _splits().to_arrays()
    for value in arrays.values():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = DataSplits.from_arrays(arrays)
    assert again.train.images_NCHW.data_ptr() == arrays["train_images"].ctypes.data
    assert again.val.labels_N.data_ptr() == arrays["val_labels"].ctypes.data
    before = arrays["train_images"].copy()
    for _ in training_batches(
        again.train, mean=again.mean, std=again.std, batch_size=4, augmentation="crop-flip", generator=_generator()
    ):
        pass
    np.testing.assert_array_equal(arrays["train_images"], before)


# Splitting


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(2, 40), min_size=1, max_size=6),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**31),
)
def test_a_stratified_split_parts_each_class(counts: list[int], fraction: float, seed: int) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=_generator(seed))]
    stay, held_out = stratified_split(labels, fraction=fraction, seed=seed)

    assert sorted(stay.tolist() + held_out.tolist()) == list(range(len(labels)))
    for part in (stay, held_out):
        assert part.tolist() == sorted(part.tolist())
    for label, count in enumerate(counts):
        num_held_out = int((labels[held_out] == label).sum())
        assert 1 <= num_held_out <= count - 1
        assert abs(num_held_out - fraction * count) <= 1


def test_a_split_depends_on_the_seed_alone() -> None:
    labels = torch.arange(40) % 4
    torch.manual_seed(1)
    first = stratified_split(labels, fraction=0.25, seed=3)
    torch.manual_seed(2)
    again = stratified_split(labels, fraction=0.25, seed=3)
    other = stratified_split(labels, fraction=0.25, seed=4)
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


@pytest.mark.parametrize(("number", "shares"), [(7, [1, 3, 0, 1, 1, 1]), (508, [3, 399, 0, 3, 3, 100])])
def test_each_class_gives_an_image_to_a_sample_however_few_it_has(number: int, shares: list[int]) -> None:
    labels_N = torch.repeat_interleave(torch.arange(6), torch.tensor([3, 400, 0, 3, 3, 100]))
    labels_N = labels_N[torch.randperm(len(labels_N), generator=_generator())]
    chosen = stratified_sample(labels_N, number=number, seed=0)
    assert torch.equal(chosen, chosen.unique())
    assert torch.bincount(labels_N[chosen], minlength=6).tolist() == shares


def test_a_class_may_be_absent_but_not_single() -> None:
    stay, held_out = stratified_split(torch.tensor([0, 0, 2, 2]), fraction=0.5, seed=0)
    assert (len(stay), len(held_out)) == (2, 2)
    with pytest.raises(InputError, match="class dog has 1 image to split, but must have at least 2"):
        stratified_split(torch.tensor([0, 0, 1]), fraction=0.5, seed=0, class_names=("cat", "dog"))
    with pytest.raises(InputError, match="the class of label 1 has 1 image"):
        stratified_split(torch.tensor([0, 0, 1]), fraction=0.5, seed=0)


def test_statistics_are_those_of_the_training_part_alone() -> None:
    source = Source(images=_images(50), class_names=("cat", "dog"))
    splits = split(source, DataConfig(val_fraction=0.4))
    assert (len(splits.train), len(splits.val)) == (30, 20)
    pixels = splits.train.images_NCHW.double() / 255
    assert splits.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert splits.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), abs=1e-12)


def test_statistics_hold_over_several_chunks() -> None:
    pixels = torch.randint(256, (2500, 1, 2, 2), dtype=torch.uint8, generator=_generator())
    source = Source(images=ImageSet(images_NCHW=pixels, labels_N=torch.zeros(2500).long()), class_names=("a",))
    splits = split(source, DataConfig(val_fraction=0.001))
    assert splits.mean[0] == pytest.approx((splits.train.images_NCHW.double() / 255).mean().item(), abs=1e-12)


def test_a_channel_of_one_value_has_a_standard_deviation_to_divide_by() -> None:
    images = ImageSet(images_NCHW=torch.full((8, 1, 8, 8), 51, dtype=torch.uint8), labels_N=torch.arange(8) % 2)
    splits = split(Source(images=images, class_names=("a", "b")), DataConfig())
    assert splits.mean == pytest.approx((0.2,))
    assert splits.std == (1 / 255,)
    assert normalise(images.images_NCHW, splits.mean, splits.std).abs().max() < 1e-4


# Pixels


def test_normalise_matches_the_formula() -> None:
    images = _images(5).images_NCHW
    expected = (images / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    normalised = normalise(images, MEAN, STD)
    assert normalised.dtype == torch.float32
    torch.testing.assert_close(normalised, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="3 channels, but there are 1 means"):
        normalise(images, (0.5,), (0.5,))


def test_images_of_several_labels_are_split_at_random_by_the_seed() -> None:
    images = _images(20).images_NCHW
    labels = torch.zeros(20, 3, dtype=torch.bool)
    labels[0, 2] = True  # a class with a single image, which no stratified split takes
    source = Source(images=ImageSet(images_NCHW=images, labels_N=labels), class_names=("a", "b", "c"))
    first, again, other = (split(source, DataConfig(val_fraction=0.3, seed=seed)) for seed in (1, 1, 2))
    assert (len(first.train), len(first.val), first.multi_label) == (14, 6, True)
    assert torch.equal(first.val.images_NCHW, again.val.images_NCHW)
    assert not torch.equal(first.val.images_NCHW, other.val.images_NCHW)
    both = torch.cat([first.train.images_NCHW, first.val.images_NCHW]).flatten(1)
    assert torch.equal(both.unique(dim=0), images.flatten(1).unique(dim=0))
    back = DataSplits.from_arrays(first.to_arrays())
    assert torch.equal(back.train.labels_N, first.train.labels_N)
    assert back.train.labels_N.dtype == torch.bool
    with pytest.raises(InputError, match="there is 1 image to split, but must be at least 2"):
        random_split(1, fraction=0.5, seed=0)


def test_several_labels_must_be_of_the_classes_that_have_names() -> None:
    images = ImageSet(images_NCHW=_images(4).images_NCHW, labels_N=torch.zeros(4, 3, dtype=torch.bool))
    with pytest.raises(InputError, match="labels are of 3 classes, but 2 have names; name each"):
        Source(images=images, class_names=("a", "b"))
    one = _images(4)
    with pytest.raises(InputError, match=r"validation labels are int64 of shape \(4,\), but must be as"):
        DataSplits(train=images, val=one, mean=(0.5,) * 3, std=(0.5,) * 3, class_names=("a", "b", "c"))


# Batches


@pytest.mark.parametrize(
    ("num_images", "batch_size", "sizes"),
    [(10, 4, [4, 4]), (8, 4, [4, 4]), (3, 4, [3]), (1, 4, [1]), (5, 4, [4]), (4, 1, [1, 1, 1, 1])],
)
def test_training_drops_an_incomplete_last_batch(num_images: int, batch_size: int, sizes: list[int]) -> None:
    batches = list(
        training_batches(
            _numbered(num_images),
            mean=(0.0,),
            std=(1.0,),
            batch_size=batch_size,
            augmentation="none",
            generator=_generator(),
        )
    )
    assert [len(labels) for _, labels in batches] == sizes
    assert num_batches(num_images, batch_size) == len(sizes)


def _training_order(generator: torch.Generator) -> list[int]:
    order: list[int] = []
    for pixels, labels in training_batches(
        _numbered(40), mean=(0.0,), std=(1.0,), batch_size=8, augmentation="none", generator=generator
    ):
        # Each label arrives with its own pixels.
        assert torch.equal((pixels[:, 0, 0, 0] * 255).round().long(), labels)
        order += labels.tolist()
    return order


def test_training_batches_are_shuffled_by_the_generator() -> None:
    generator = _generator(5)
    first_epoch, second_epoch = _training_order(generator), _training_order(generator)
    assert sorted(first_epoch) == sorted(second_epoch) == list(range(40))
    assert first_epoch != second_epoch
    assert first_epoch != list(range(40))
    assert _training_order(_generator(5)) == first_epoch


def test_training_pads_with_black() -> None:
    white = ImageSet(images_NCHW=torch.full((64, 1, 8, 8), 255, dtype=torch.uint8), labels_N=torch.zeros(64).long())
    pixels, _ = next(
        training_batches(white, mean=(0.5,), std=(0.5,), batch_size=64, augmentation="crop", generator=_generator())
    )
    assert np.unique(pixels).tolist() == pytest.approx([-1.0, 1.0])


def test_evaluation_gives_every_image_in_order() -> None:
    images = _images(10)
    batches = list(evaluation_batches(images, mean=MEAN, std=STD, batch_size=4))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([labels for _, labels in batches]), images.labels_N)
    assert torch.equal(torch.cat([pixels for pixels, _ in batches]), normalise(images.images_NCHW, MEAN, STD))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_sees_the_batches_that_the_cpu_sees() -> None:
    images = _images(32)
    on_cpu, on_gpu = (
        list(
            training_batches(
                images.to(device), mean=MEAN, std=STD, batch_size=8, augmentation="crop-flip", generator=_generator()
            )
        )
        for device in ("cpu", "cuda")
    )
    for (cpu_pixels, cpu_labels), (gpu_pixels, gpu_labels) in zip(on_cpu, on_gpu, strict=True):
        assert torch.equal(cpu_labels, gpu_labels.cpu())
        torch.testing.assert_close(cpu_pixels, gpu_pixels.cpu(), atol=1e-6, rtol=1e-6)


def test_images_with_channels_last_are_normalised_alike() -> None:
    images = _images(5, size=6).images_NCHW
    last = images.contiguous(memory_format=torch.channels_last)
    found = normalise(last, MEAN, STD)
    assert torch.equal(found, normalise(images, MEAN, STD))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last, images)
