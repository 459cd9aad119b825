"""Sets in memory and streamed ones do the same for stages; a stream is a function of its seed, whoever decodes."""

import itertools
import pickle
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from torch import nn

from tests import pictures
from trainables.data_config import Augmentation
from trainables.datasets.data import DataSplits
from trainables.datasets.images import Images, ImageSet, in_memory, num_batches
from trainables.datasets.streaming import SHARDS_A_WINDOW, Stream, StreamedSet
from trainables.errors import InputError
from trainables.identity import data_digest
from trainables.recipe import Recipe
from trainables.stages.evaluation import evaluate
from trainables.stages.teacher import TeacherStage

SIZE, NUM_IMAGES = 8, 22


class Rows:
    """Encoded images in a list, as shards of two images each."""

    def __init__(self, encoded: list[bytes]) -> None:
        self.digest = str(hash(tuple(encoded)))
        self.first_rows = np.arange(0, len(encoded), 2)
        self._encoded = encoded

    def bring(self) -> None:
        """Nothing is elsewhere."""

    def encoded(self, row: int) -> tuple[bytes, str]:
        return self._encoded[row], f"image {row}"


def _pixels(num_images: int = NUM_IMAGES) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (num_images, 3, SIZE, SIZE), generator=generator).to(torch.uint8)


def _labels(num_images: int = NUM_IMAGES) -> torch.Tensor:
    return torch.arange(num_images) % 3


def _in_memory(num_images: int = NUM_IMAGES) -> ImageSet:
    return ImageSet(images_NCHW=_pixels(num_images), labels_N=_labels(num_images))


def _streamed(num_images: int = NUM_IMAGES, *, workers: int = 0) -> StreamedSet:
    encoded = [pictures.encoded(image.permute(1, 2, 0).numpy()) for image in _pixels(num_images)]
    chosen = np.arange(num_images)
    stream = Stream(rows=Rows(encoded), chosen_N=chosen, image_size=SIZE, workers=workers)
    return stream.labelled(_labels(num_images))


@pytest.fixture(params=[_in_memory, _streamed], ids=["in memory", "streamed"])
def make(request: pytest.FixtureRequest) -> Callable[..., Images]:
    found: Callable[..., Images] = request.param
    return found


def _pass(images: Images, seed: int = 0, augmentation: Augmentation = "none", batch_size: int = 4, **others: int):
    generator = torch.Generator().manual_seed(seed)
    return images.shuffled(batch_size=batch_size, augmentation=augmentation, generator=generator, **others)


def _rows_of(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> list[int]:
    """Which images came, each with its own label."""
    rows = {bytes(image.contiguous().numpy()): row for row, image in enumerate(_pixels())}
    found = []
    for pixels_NCHW, labels_N in batches:
        assert pixels_NCHW.dtype == torch.uint8
        some = [rows[bytes(image.contiguous().numpy())] for image in pixels_NCHW]
        assert labels_N.tolist() == _labels()[some].tolist()
        found += some
    return found


def test_ordered_gives_every_image_once(make):
    batches = list(make().ordered(batch_size=8))
    assert [len(pixels) for pixels, _ in batches] == [8, 8, 6]
    assert _rows_of(batches) == list(range(NUM_IMAGES))
    assert _rows_of(make().ordered(batch_size=4, rows=slice(3, 12))) == list(range(3, 12))
    assert _rows_of(make().ordered(batch_size=4, rows=slice(3, 3))) == []


def test_shuffled_gives_whole_batches_in_the_order_of_the_seed(make):
    images = make()
    batches = list(_pass(images))
    assert [len(pixels) for pixels, _ in batches] == [4] * num_batches(NUM_IMAGES, 4)
    rows = _rows_of(batches)
    assert len(set(rows)) == len(rows) == 20
    assert _rows_of(_pass(images)) == rows
    assert _rows_of(_pass(images, seed=1)) != rows != sorted(rows)
    assert [len(pixels) for pixels, _ in _pass(images, batch_size=64)] == [NUM_IMAGES]  # the only batch stays


@pytest.mark.parametrize("augmentation", ["crop-flip", "resized-crop-flip", "randaugment"])
def test_augmented_images_follow_the_seed(make, augmentation):
    def drawn(seed: int) -> torch.Tensor:
        return torch.cat([pixels for pixels, _ in _pass(make(), seed, augmentation)])

    assert drawn(0).shape == (20, 3, SIZE, SIZE)
    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))


def test_the_first_images_are_a_set_of_their_own(make):
    images, first = make(), make().first(5)
    assert len(first) == 5
    assert torch.equal(torch.cat([pixels for pixels, _ in first.ordered(batch_size=4)]), images.pixels(torch.arange(5)))
    assert torch.equal(first.labels_N, images.labels_N[:5])
    assert len(images.first(10_000)) == len(images)


def test_shape_labels_and_single_images(make):
    images = make()
    assert (len(images), images.image_shape, images.multi_label) == (NUM_IMAGES, (3, SIZE, SIZE), False)
    assert torch.equal(images.pixels(torch.tensor([5, 2])), _pixels()[[5, 2]])
    assert torch.equal(images.to("cpu").labels_N, _labels())


def _splits(make: Callable[..., Images]) -> DataSplits:
    return DataSplits(train=make(), val=make(10), mean=(0.5,) * 3, std=(0.25,) * 3, class_names=("a", "b", "c"))


def test_splits_go_to_another_process_and_back(make):
    data = _splits(make)
    there = DataSplits.from_arrays(pickle.loads(pickle.dumps(data.to_arrays())))
    assert data_digest(there) == data_digest(data)
    assert _rows_of(_pass(there.train)) == _rows_of(_pass(data.train))


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_a_stage_trains_on_either_alike_and_goes_on_where_it_was():
    states = []
    for make in (_in_memory, _streamed):
        network = _network().append(nn.Linear(4, 3))
        recipe = Recipe(epochs=2, batch_size=4, learning_rate=0.05, ema=0.9)
        data = _splits(make)
        stage = TeacherStage(network, recipe=recipe, data=data, augmentation="resized-crop-flip")
        stage.train_epoch()
        tensors, values = stage.state()
        again = TeacherStage(
            _network().append(nn.Linear(4, 3)), recipe=recipe, data=data, augmentation="resized-crop-flip"
        )
        again.load_state({name: tensor.clone() for name, tensor in tensors.items()}, values)
        stage.train_epoch()
        again.train_epoch()
        assert all(torch.equal(stage.state()[0][name], tensor) for name, tensor in again.state()[0].items())
        states.append(stage.result().val_accuracy)
    assert evaluate(network, _splits(_streamed)) == evaluate(network, _splits(_in_memory))


# What only streams do


def test_processes_change_nothing_and_leave_the_global_generator_alone():
    alone = [pixels for pixels, _ in _pass(_streamed(), 3, "crop-flip-randaugment")]
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    together = [pixels for pixels, _ in _pass(_streamed(workers=2), 3, "crop-flip-randaugment")]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_gpu_gets_the_batches_that_the_cpu_gets(workers):
    expected = list(_pass(_streamed(), 3, "crop-flip"))
    found = list(_pass(_streamed(workers=workers).to("cuda"), 3, "crop-flip"))
    assert len(found) == len(expected)
    for (pixels, labels), (expected_pixels, expected_labels) in zip(found, expected, strict=True):
        assert pixels.is_cuda
        assert labels.is_cuda
        assert torch.equal(pixels.cpu(), expected_pixels)
        assert torch.equal(labels.cpu(), expected_labels)


@pytest.mark.parametrize("start", [0, 1, 4, 5])
def test_a_pass_goes_on_at_any_batch(make, start):
    whole = [pixels for pixels, _ in _pass(make(), 2, "resized-crop-flip")]
    rest = list(_pass(make(), 2, "resized-crop-flip", start=start))
    assert len(rest) == 5 - start
    for (pixels, _), expected in zip(rest, whole[start:], strict=True):
        assert torch.equal(pixels, expected)


def test_a_pass_reads_some_shards_at_a_time():
    chosen = np.delete(np.arange(200), [0, 7, 8])
    stream = Stream(rows=Rows([b""] * 200), chosen_N=chosen, image_size=SIZE, workers=0)
    order = stream.order(1)
    assert order.sort().values.tolist() == list(range(197))
    shards = (chosen[order.numpy()] // 2).tolist()
    seen = [key for key, _ in itertools.groupby(shards)]
    assert seen != sorted(seen)
    last = {shard: place for place, shard in enumerate(shards)}
    for place in range(197):  # shards that are begun and not done
        assert len({shard for shard in shards[: place + 1] if last[shard] > place}) <= SHARDS_A_WINDOW
    assert stream.order(2).tolist() != order.tolist()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(workers):
    encoded = [pictures.encoded(image.permute(1, 2, 0).numpy()) for image in _pixels(4)]
    encoded[2] = b"\xff\xd8\xff\x00"
    stream = Stream(rows=Rows(encoded), chosen_N=np.arange(4), image_size=SIZE, workers=workers)
    with pytest.raises(InputError, match=r"^image 2 cannot be read as an image"):
        list(stream.labelled(_labels(4)).ordered(batch_size=4))


def test_digests_tell_streams_apart():
    rows = Rows([b"a", b"b", b"c"])
    digests = {
        Stream(rows=rows, chosen_N=np.array(chosen), image_size=size, workers=workers).digest
        for chosen, size, workers in (([0, 1], 8, 0), ([0, 1], 8, 2), ([0, 2], 8, 0), ([0, 1], 16, 0))
    }
    assert len(digests) == 3


def test_each_image_has_a_label():
    with pytest.raises(InputError, match="2 images and 3 labels"):
        Stream(rows=Rows([b"", b""]), chosen_N=np.arange(2), image_size=SIZE, workers=0).labelled(_labels(3))


def test_what_must_be_in_memory_says_so():
    with pytest.raises(InputError, match=r"22 images are streamed, but a study .* data\.memory_gb"):
        in_memory(_streamed(), purpose="a study")
