"""Weights that other people trained, on images that other people took: known numbers of right answers.

The files stand in a folder `shared` beside the repository. Where it is absent these tests are skipped, and say so.
"""

import gzip
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repsim import ImageSet, Network, compare, extract, load_data, load_model
from repsim.networks.weight_files import read_checkpoint
from tests.support.places import SHARED


def shared_file(name: str) -> Path:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"NOT TESTED: {name} is missing under the folder {SHARED}; the real networks were not run")
    return path


@pytest.fixture(scope="session")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ImageSet]:
    """The CIFAR-10 test images, unpacked once, as an image folder."""
    archive = shared_file("data/cifar10-jpeg.tar.xz")
    folder = tmp_path_factory.mktemp("cifar10")
    with tarfile.open(archive) as stream:
        for member in stream:
            if member.name.startswith("test/"):
                stream.extract(member, folder, filter="data")

    def load(limit: int | None = None) -> ImageSet:
        data = load_data(f"imagefolder:{folder}", split="test", limit=limit, root=folder / "cache", progress=False)
        assert len(data) == (limit or 10_000)
        assert len(data.classes) == 10
        return data

    return load


@pytest.fixture(scope="session")
def mnist() -> ImageSet:
    """The first 2,000 MNIST test images, read from the IDX files without torchvision."""
    pixels = gzip.decompress(shared_file("data/t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress(shared_file("data/t10k-labels-idx1-ubyte.gz").read_bytes())
    assert np.frombuffer(pixels, ">i4", 4).tolist() == [2051, 10_000, 28, 28]
    assert np.frombuffer(labels, ">i4", 2).tolist() == [2049, 10_000]
    images = np.frombuffer(pixels, np.uint8, offset=16).reshape(10_000, 1, 28, 28)[:2000]
    classes = np.frombuffer(labels, np.uint8, offset=8)[:2000].astype(np.int64)
    ids = tuple(f"mnist/{i}" for i in range(2000))
    return ImageSet(torch.from_numpy(images.copy()), torch.from_numpy(classes), ids, "mnist")


def right_answers(net: Network, data: ImageSet) -> int:
    with torch.no_grad():
        answers = [net(data.pixels(slice(i, i + 64))).argmax(1) for i in range(0, len(data), 64)]
    return int((torch.cat(answers) == data.labels).sum())


def cifar_resnet(depth: int, **options: Any) -> Network:
    file = {20: "resnet20-12fca82f.th", 56: "resnet56-4bfd9763.th"}[depth]
    checkpoint = shared_file(f"checkpoints/{file}")
    return load_model(f"resnet{depth}", checkpoint=checkpoint, normalize="imagenet", **options)


# Another JPEG decoder rounds some pixels otherwise, which turns a few answers of ten thousand.
@pytest.mark.parametrize(("depth", "expected"), [(20, 816), (56, 848)])
def test_cifar_resnets_are_right_about_1000_images_as_often_as_they_were(
    depth: int, expected: int, cifar: Callable[..., ImageSet]
) -> None:
    data = cifar(1000)
    assert torch.bincount(data.labels).tolist() == [100] * 10
    assert abs(right_answers(cifar_resnet(depth), data) - expected) <= 3


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "expected"), [(20, 8103), (56, 8320)])
def test_cifar_resnets_are_right_about_10000_images_as_often_as_they_were(
    depth: int, expected: int, cifar: Callable[..., ImageSet]
) -> None:
    assert abs(right_answers(cifar_resnet(depth), cifar()) - expected) <= 15


def test_the_wrong_normalisation_costs_answers(cifar: Callable[..., ImageSet]) -> None:
    # Otherwise the counts above would not tell whether the normalisation was applied.
    checkpoint = shared_file("checkpoints/resnet20-12fca82f.th")
    assert right_answers(load_model("resnet20", checkpoint=checkpoint), cifar(1000)) < 816 - 50


def test_the_small_mnist_network_is_right_as_often_as_it_was(mnist: ImageSet) -> None:
    net = load_model("small_conv_mnist", checkpoint=shared_file("checkpoints/mnist_small_0_3.pth"))
    assert net.provenance["notes"] == [
        "weights taken from 'state_dict'",
        "a list of 3 sets of weights: took the first",
    ]
    assert abs(right_answers(net, mnist) - 1623) <= 1  # nothing is decoded, so only ties could turn


def test_the_small_cifar_network_is_right_as_often_as_it_was(cifar: Callable[..., ImageSet]) -> None:
    checkpoint = shared_file("checkpoints/cifar_small_8px.pth")
    normalize = ((0.485, 0.456, 0.406), (0.225, 0.225, 0.225))
    net = load_model("small_conv_cifar", checkpoint=checkpoint, normalize=normalize)
    assert abs(right_answers(net, cifar()) - 2756) <= 15


@pytest.mark.parametrize("depth", [20, 56])
def test_every_weight_of_the_files_is_used_and_every_weight_of_the_network_comes_from_them(depth: int) -> None:
    net = cifar_resnet(depth)
    stored = read_checkpoint(SHARED / "checkpoints" / str(net.provenance["checkpoint"])).state
    own = {k: v for k, v in net.net.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert {key.removeprefix("module.") for key in stored} - set(net.net.state_dict()) == set()
    assert all(torch.equal(value, stored[f"module.{key}"]) for key, value in own.items())
    # The file's name ends with the start of its own digest.
    assert net.provenance["sha256"].startswith(str(net.provenance["checkpoint"])[-11:-3])


# --- A network with its channels in another order ----------------------------------------------------------------


def permuted(net: Network, seed: int) -> Network:
    """The same function: inside every block the channels between the two convolutions change places."""
    copy = cifar_resnet(20, name="permuted")
    copy.net.load_state_dict(net.net.state_dict())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, block in copy.net.named_modules():
            if name.count(".") == 1 and name.startswith("layer"):
                first, norm, second = (block.get_submodule(part) for part in ("conv1", "bn1", "conv2"))
                order = torch.randperm(len(first.get_parameter("weight")), generator=generator)
                first.get_parameter("weight").copy_(first.get_parameter("weight")[order])
                second.get_parameter("weight").copy_(second.get_parameter("weight")[:, order])
                for tensor in (*norm.parameters(), *norm.buffers()):
                    if tensor.ndim:
                        tensor.copy_(tensor[order])
    return copy


@pytest.fixture(scope="module")
def both_orders(cifar: Callable[..., ImageSet]) -> dict[str, Any]:
    net, data = cifar_resnet(20), cifar(200)
    layers = ["layer*.*", "layer*.*.bn1", "linear"]
    sides = [extract(n, data, layers=layers, reduction="mean") for n in (net, permuted(net, seed=0))]
    return {"a": sides[0], "b": sides[1]}


@pytest.mark.filterwarnings("ignore::repsim.CautionWarning")  # 200 images are few for the biased form
@pytest.mark.parametrize("metric", ["cka", "cka_biased"])
def test_cka_does_not_see_the_order_of_channels(metric: str, both_orders: dict[str, Any]) -> None:
    a, b = both_orders["a"], both_orders["b"]
    moved = [layer for layer in a if not torch.allclose(a[layer], b[layer], atol=0.1)]
    assert moved == [layer for layer in a if layer.endswith("bn1")]  # the features did change places
    matched = compare(a, b, metric).matched()
    assert len(matched) == len(a) == 19
    for layer, _, value in matched:
        assert value == pytest.approx(1, abs=1e-6), layer


def test_the_networks_still_differ_from_one_another_where_they_should(both_orders: dict[str, Any]) -> None:
    # A CKA that is 1 for everything would pass the test above.
    values = compare(both_orders["a"], both_orders["b"], "cka").values
    assert float(values.min()) < 0.5
