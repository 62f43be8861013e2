"""Inputs of every kind: dicts, several tensors, padded sequences; each held against samples run one by one."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import repsim
from repsim.features.inputs.batches import read_batches
from repsim.features.source import Source
from tests.conftest import exactly

LENGTHS = [3, 7, 1, 5, 7, 2, 6, 4]
T, WORDS = 7, 40


class Answer:
    """What Hugging Face's networks return: no tensor, but something that holds one."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class Text(nn.Module):
    """Tokens that look at each other, but not at padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(WORDS, 12), nn.TransformerEncoderLayer(12, 2, 16, 0.0, batch_first=True)
        self.tail, self.head = nn.Linear(12, 6), nn.Linear(6, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Answer:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        x = self.tail(self.mix(self.embed(input_ids), src_key_padding_mask=mask == 0))
        return Answer(self.head((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)))


def net() -> Text:
    torch.manual_seed(3)
    return Text().eval()


def words(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, WORDS, (k,), generator=generator) for k in LENGTHS]


def padded(left: bool = False) -> dict[str, Tensor]:
    ids, mask = torch.zeros(len(LENGTHS), T, dtype=torch.long), torch.zeros(len(LENGTHS), T, dtype=torch.long)
    for row, w in enumerate(words()):
        at = slice(T - len(w), T) if left else slice(0, len(w))
        ids[row, at], mask[row, at] = w, 1
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(len(LENGTHS)) % 3}


def alone(reduce: Callable[[Tensor], Tensor], layer: str = "tail") -> Tensor:
    """The layer's tokens of each sample by itself, without any padding."""
    rows, network = [], net()
    for w in words():
        kept: list[Tensor] = []
        handle = network.get_submodule(layer).register_forward_hook(lambda m, i, o, kept=kept: kept.append(o))
        network(w[None])
        handle.remove()
        rows.append(reduce(kept[0][0]))
    return torch.stack(rows)


REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "auto": lambda t: t.mean(0),
    "mean": lambda t: t.mean(0),
    "mean_tokens": lambda t: t.mean(0),
    "max": lambda t: t.amax(0),
    "cls": lambda t: t[0],
    "last": lambda t: t[-1],
}


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("size", [3, 8])
def test_padding_enters_no_row(left: bool, size: int) -> None:
    whole = padded(left)
    batches = [{k: v[i : i + size] for k, v in whole.items()} for i in range(0, len(LENGTHS), size)]
    for name, reduce in REDUCTIONS.items():
        found = repsim.extract(net(), batches, layers="tail", reduction=name, progress=False)
        torch.testing.assert_close(found["tail"], alone(reduce), atol=1e-5, rtol=1e-4)
    found = repsim.extract(net(), batches, layers="tail", reduction=lambda t: t.std(1, correction=0), progress=False)
    torch.testing.assert_close(found["tail"], alone(lambda t: t.std(0, correction=0)), atol=1e-5, rtol=1e-4)


def test_logits_of_a_model_output_and_labels_by_their_name() -> None:
    found = repsim.extract(net(), [padded()], progress=False)
    assert found.outputs is not None
    right = torch.cat([net()(w[None]).logits for w in words()])
    torch.testing.assert_close(found.outputs, right, atol=1e-5, rtol=1e-4)
    assert found.labels is not None
    assert found.labels.tolist() == [k % 3 for k in range(len(LENGTHS))]


def test_batches_of_unequal_length_are_padded_with_their_mask() -> None:
    whole, ragged = padded(), []
    for i in range(0, len(LENGTHS), 2):
        longest = max(LENGTHS[i : i + 2])
        ragged.append({k: v[i : i + 2, :longest] if v.ndim > 1 else v[i : i + 2] for k, v in whole.items()})
    a, b = (repsim.extract(net(), data, progress=False) for data in (ragged, [whole]))
    assert a.layers == b.layers
    assert a.digest == b.digest
    torch.testing.assert_close(a["tail"], b["tail"])
    for part in ragged:
        del part["attention_mask"]
    text = (
        "extract: sequences of unequal length need an attention_mask; got lengths 7, 5, 6. Let the tokenizer return it."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        repsim.extract(net(), ragged, progress=False)


def test_a_data_set_of_dicts_is_padded_here() -> None:
    rows = [{"input_ids": w.tolist(), "label": k % 3, "text": "x"} for k, w in enumerate(words())]
    found = repsim.extract(net(), rows, layers="tail", progress=False)
    torch.testing.assert_close(found["tail"], alone(lambda t: t.mean(0)), atol=1e-5, rtol=1e-4)
    assert found.labels is not None
    assert found.labels.tolist() == [k % 3 for k in range(len(LENGTHS))]
    assert found.provenance["inputs_left_out"] == ["text"]
    (twice,) = repsim.extract(net(), [rows[1], rows[1]], layers="tail", progress=False).features.values()
    torch.testing.assert_close(twice[0], found["tail"][1], atol=1e-5, rtol=1e-4)
    other = [{**row, "input_ids": row["input_ids"][::-1]} for row in rows]
    assert repsim.extract(net(), other, layers="tail", progress=False).digest != found.digest


def test_a_live_network_reads_the_same_rows() -> None:
    side = repsim.live(net(), [padded()], layers="tail", reduction="mean", progress=False)
    (got,) = side.batches(8)
    torch.testing.assert_close(got["tail"], alone(lambda t: t.mean(0)), atol=1e-5, rtol=1e-4)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 5), nn.Linear(3, 5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.one(x) + self.two(y)

    def second(self, y: Tensor) -> Tensor:
        return self.two(y)


def test_several_inputs_and_a_call_of_ones_own() -> None:
    x, y, labels = torch.rand(10, 4), torch.rand(10, 3), torch.arange(10) % 2
    network = Two()
    with torch.no_grad():
        right = network(x, y)
    for batches in ([((x, y), labels)], [((x[:4], y[:4]), labels[:4]), ((x[4:], y[4:]), labels[4:])]):
        found = repsim.extract(network, batches, progress=False)
        assert found.outputs is not None
        torch.testing.assert_close(found.outputs, right)
        assert found.labels is not None
        assert found.labels.tolist() == labels.tolist()
    called = repsim.extract(network, y, call=lambda n, batch: cast("Two", n).second(batch), progress=False)
    assert called.layers == ("two",)
    with torch.no_grad():
        torch.testing.assert_close(called["two"], network.two(y))


def test_inputs_that_a_network_does_not_take_are_not_passed_on() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix = nn.Embedding(WORDS, 4), nn.Linear(4, 4)

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.mix(self.embed(input_ids))

    network, data = Plain(), padded()
    found = repsim.extract(network, [data | {"idx": torch.arange(len(LENGTHS))}], layers="mix", progress=False)
    with torch.no_grad():
        out, mask = network(data["input_ids"]), data["attention_mask"][..., None]
    torch.testing.assert_close(found["mix"], (out * mask).sum(1) / mask.sum(1))


class Shorter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.pool = nn.Embedding(WORDS, 8), nn.Conv1d(8, 8, 3, stride=2, padding=1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.pool(self.embed(input_ids).transpose(1, 2))


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (
            lambda: repsim.extract(Shorter(), [padded()], layers="pool", progress=False),
            "extract: it must be clear which positions are padding; got positions 4 at layer 'pool' for a mask of 7. "
            "Choose layers that keep the tokens, or samples of one length.",
        ),
        (
            lambda: repsim.extract(net(), [padded()], layers="tail", reduction="pool:2", progress=False),
            "extract: reduction 'pool:K' is for sequences without padding; got a mask at layer 'tail'. "
            'Use "mean", "cls" or "last", or samples of one length.',
        ),
        (
            lambda: repsim.extract(
                Shorter(), [{**padded(), "attention_mask": torch.zeros(8, 7).long()}], layers="embed", progress=False
            ),
            "extract: every sample must have a token; got none in row 0 of a batch. Leave empty samples out.",
        ),
        (
            lambda: repsim.extract(net(), [{"a": torch.ones(3, 2)}, {"b": torch.ones(3, 2)}], progress=False),
            "extract: all batches must have the same inputs; got other names than a. Look at what the loader collates.",
        ),
    ],
)
def test_what_cannot_be_told_is_one_clear_line(run: Callable[[], Any], text: str) -> None:
    with pytest.raises(ValueError, match=exactly(text)):
        run()


class Asks(nn.Module):
    """A network that asks for a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(2, 3)

    def forward(self, x: Tensor, mask: Tensor, *, scale: float = 1.0) -> Tensor:
        return self.a(x) * mask * scale


X = torch.ones(4, 2)


@pytest.mark.parametrize(
    ("network", "batch", "got", "how"),
    [
        (nn.Sequential(nn.Linear(2, 3)), {"pixels": X}, "Sequential.forward(input): none of these", "batch['pixels']"),
        (
            Asks(),
            {"x": X, "y": torch.arange(4)},
            "Asks.forward(x, mask, scale): missing a required argument: 'mask'",
            None,
        ),
        (nn.DataParallel(Asks()), {"x": X}, "Asks.forward(x, mask, scale): missing a required argument: 'mask'", None),
        (Asks(), X, "Asks.forward(x, mask, scale): missing a required argument: 'mask'", "batch, None"),
        (nn.Sequential(nn.Linear(2, 3)), ((X, X),), "Sequential.forward(input): too many positional arguments", None),
    ],
)
def test_what_a_network_does_not_take_is_one_clear_line(network: nn.Module, batch: Any, got: str, how: Any) -> None:
    given = "one tensor" if isinstance(batch, Tensor) else "2 tensors"
    if isinstance(batch, dict):
        kept = [key for key in batch if key != "y"]
        given, how = f"a dict with {', '.join(map(repr, kept))}", how or f"batch[{kept[0]!r}]"
    text = (
        f"extract: the network must take what a batch holds; got {given} for {got}. "
        f"Say how to call it, as in call=lambda net, batch: net({how or 'batch[0]'})."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        repsim.extract(network, batch if isinstance(batch, Tensor) else [batch], progress=False)


def test_images_that_are_to_be_normalised_go_by_their_name() -> None:
    class Keys(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 4, 1)

        def forward(self, **named: Tensor) -> Tensor:
            return self.a(named["pixel_values"]).mean((2, 3))

    own = repsim.load_model(Keys(), normalize=((0.5,) * 3, (0.25,) * 3))
    images = torch.rand(5, 3, 4, 4)
    found = repsim.extract(own, [{"pixel_values": images}], progress=False)
    bare = cast(Any, own.net)
    torch.testing.assert_close(found["a"], bare.a((images - 0.5) / 0.25).mean((2, 3)))
    text = (
        "extract: the network must take what a batch holds; got a dict with 'images' for Keys.forward(**named): "
        "no pixel_values, which are to be normalised. Say how to call it, as in call=lambda net, batch: "
        "net(batch['images'])."
    )
    with pytest.raises(ValueError, match=exactly(text)):
        repsim.extract(own, [{"images": images}], progress=False)


class Breaks(nn.Module):
    """A network whose forward pass fails in its own way."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error, self.a = error, nn.Linear(2, 2)

    def forward(self, x: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        raise self.error


@pytest.mark.parametrize(
    ("error", "batch", "got"),
    [
        (
            AttributeError("'NoneType' object has no attribute 'shape'"),
            torch.ones(5, 3, 4, 4).byte(),
            "AttributeError: 'NoneType' object has no attribute 'shape', for samples of (3, 4, 4) uint8",
        ),
        (
            RuntimeError("shapes cannot be\nmultiplied."),
            [{"x": torch.ones(5, 2), "y": torch.ones(5).long()}, {"x": torch.ones(2, 2), "y": torch.ones(2).long()}],
            "RuntimeError: shapes cannot be multiplied, for samples of (2,) float32",
        ),
    ],
)
def test_a_network_that_fails_on_its_inputs_says_on_which(error: Exception, batch: Any, got: str) -> None:
    text = (
        f"extract: the network must run on the samples; got {got}. "
        "Look at their shape and type, or say how to call it: call=lambda net, batch: net(batch)."
    )
    with pytest.raises(ValueError, match=exactly(text)) as raised:
        repsim.extract(Breaks(error), batch, progress=False)
    assert raised.value.__cause__ is error
    with pytest.raises(torch.OutOfMemoryError):
        repsim.extract(Breaks(torch.OutOfMemoryError()), batch, progress=False)


class Samples(torch.utils.data.Dataset[Any]):
    """Samples that go on behind the length that the set says it has, as views of larger arrays do."""

    def __init__(self, made: Callable[[int], Any]) -> None:
        self.made = made

    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> Any:
        return self.made(i)


PIXELS = torch.rand(9, 3, 4, 4, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    "made",
    [
        lambda i: (PIXELS[i], i % 3),
        lambda i: (PIXELS[i].numpy(), torch.tensor(i % 3)),
        lambda i: {"input": PIXELS[i], "label": i % 3, "file": f"{i}.png"},
        lambda i: {"input": PIXELS[i]},
        lambda i: PIXELS[i],
    ],
)
def test_a_data_set_of_samples_is_read_to_its_length(made: Callable[[int], Any]) -> None:
    small = nn.Sequential(nn.Conv2d(3, 4, 1))
    found, right = (repsim.extract(small, x, progress=False) for x in (Samples(made), PIXELS[:6]))
    assert torch.equal(found["0"], right["0"])
    labels = isinstance(made(0), tuple) or (isinstance(made(0), dict) and "label" in made(0))
    assert (found.labels.tolist() if found.labels is not None else None) == ([0, 1, 2, 0, 1, 2] if labels else None)


@pytest.mark.parametrize(
    ("made", "kind", "text"),
    [
        (
            lambda i: (object(), 0),
            TypeError,
            "extract: samples must hold numbers; got object. "
            "Give the data set a transform that makes tensors, such as torchvision's ToTensor().",
        ),
        (
            lambda i: (torch.ones(i + 1), 0),
            ValueError,
            "extract: all samples must have one shape; got stack expects each tensor to be equal size, but got [1] at "
            "entry 0 and [2] at entry 1. Resize or pad them; sequences as dicts with attention_mask.",
        ),
    ],
)
def test_data_sets_that_cannot_be_read(made: Callable[[int], Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=exactly(text)):
        repsim.extract(nn.Sequential(nn.Linear(1, 1)), Samples(made), progress=False)


@pytest.mark.parametrize("wrong", [[{"text": ["a", "b"]}], ["ab"], [3]])
def test_batches_without_numbers_are_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"\Aextract: batches must be tensors; got "):
        read_batches(wrong, "extract")


def test_digests_know_names_values_and_order() -> None:
    one = {"a": torch.arange(6.0).view(3, 2), "b": torch.ones(3, 1)}
    digests = {
        Source.of([data], "extract").digest
        for data in (one, {"a": one["a"].flip(0), "b": one["b"]}, {"c": one["a"], "b": one["b"]}, one["a"])
    }
    assert len(digests) == 4
    assert Source.of([dict(reversed(one.items()))], "extract").digest in digests
