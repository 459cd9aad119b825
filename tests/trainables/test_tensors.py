"""Tensors by name: prefixes and digests."""

import torch

from trainables.tensors import prefixed, tensors_digest, unprefixed


def test_prefixes_come_off_again_and_do_not_mix() -> None:
    one, ten = {"a.b": torch.zeros(1)}, {"a.b": torch.ones(1)}
    both = prefixed("level.1", one) | prefixed("level.10", ten)
    assert set(both) == {"level.1.a.b", "level.10.a.b"}
    assert unprefixed("level.1", both) == one
    assert unprefixed("level.10", both) == ten


def test_tensors_differ_by_value_type_shape_and_name() -> None:
    tensors = {"a": torch.arange(4.0), "b": torch.tensor(3)}
    assert tensors_digest(tensors) == tensors_digest(dict(reversed(tensors.items())))
    others = [
        {**tensors, "a": torch.arange(4.0) + 1},
        {**tensors, "a": torch.arange(4.0).double()},
        {**tensors, "a": torch.arange(4.0).view(2, 2)},
        {"c": tensors["a"], "b": tensors["b"]},
    ]
    assert len({tensors_digest(other) for other in [tensors, *others]}) == 5
    transposed = torch.arange(6).view(2, 3).T
    assert tensors_digest({"a": transposed}) == tensors_digest({"a": transposed.contiguous()})
