"""Which layers of two networks correspond, held against the numbers of their blocks."""

import pytest

from repsim.networks.correspondence import matched_layers, same_architecture


def names(pairs: list[tuple[int, int]], rows: list[str], cols: list[str]) -> dict[str, str]:
    return {rows[i]: cols[j] for i, j in pairs}


def staged(*blocks: int, stem: str = "layer{}.{}", inside: tuple[str, ...] = ("",)) -> list[str]:
    return [stem.format(s, i) + part for s, k in enumerate(blocks, 1) for i in range(k) for part in inside]


@pytest.mark.parametrize("stem", ["layer{}.{}", "stages.{}.blocks.{}", "block{}.layer.{}", "encoder.stage_{}.unit{}"])
@pytest.mark.parametrize(("few", "many"), [((2, 2, 2), (18, 18, 18)), ((3, 4, 6, 3), (3, 8, 36, 3)), ((1, 2), (4, 3))])
def test_every_stage_ends_where_the_other_networks_stage_ends(
    stem: str, few: tuple[int, ...], many: tuple[int, ...]
) -> None:
    rows, cols = (["stem", *staged(*blocks, stem=stem), "fc"] for blocks in (few, many))
    found = names(matched_layers(rows, cols), rows, cols)
    assert (found["stem"], found["fc"]) == ("stem", "fc")
    for stage, (a, b) in enumerate(zip(few, many, strict=True), 1):
        ours = {i: found[stem.format(stage, i)] for i in range(a) if stem.format(stage, i) in found}
        assert ours[a - 1] == stem.format(stage, b - 1)
        assert len(ours) == min(a, b)
        if a > 1:
            assert ours[0] == stem.format(stage, 0)


def test_parts_of_blocks_correspond_to_the_same_parts() -> None:
    inside = ("", ".attn.qkv", ".mlp.fc1", ".mlp.fc1#2", ".mlp")
    rows, cols = (staged(k, stem="blocks.{1}", inside=inside) for k in (6, 12))
    found = names(matched_layers(rows, cols), rows, cols)
    for part in inside:
        assert found[f"blocks.5{part}"] == f"blocks.11{part}"
        assert found[f"blocks.0{part}"] == f"blocks.0{part}"
    assert len(found) == len(rows)


def test_it_reads_the_same_from_both_sides() -> None:
    rows, cols = staged(2, 3, inside=("", ".conv1", ".conv2")), staged(3, 9, inside=("", ".conv1", ".conv2", ".conv3"))
    assert matched_layers(cols, rows) == sorted((j, i) for i, j in matched_layers(rows, cols))


def test_unlike_names_correspond_by_relative_depth_and_between_known_neighbours() -> None:
    rows, cols = ["a", "b", "c"], [f"p{k}q" for k in range(7)]
    assert matched_layers(rows, cols) == [(0, 0), (1, 3), (2, 6)]
    rows, cols = ["stem", "u", "v", "pool", "fc"], ["stem", "p", "q", "r", "pool", "head"]
    assert names(matched_layers(rows, cols), rows, cols) == {
        "stem": "stem",
        "u": "p",
        "v": "r",
        "pool": "pool",
        "fc": "head",
    }


def test_an_equal_name_at_another_depth_corresponds_to_nothing_by_itself() -> None:
    rows, cols = ["norm", "a", "b", "c"], ["p", "q", "r", "norm"]
    assert matched_layers(rows, cols) == [(k, k) for k in range(4)]
    assert matched_layers(["0", "1", "2"], [str(k) for k in range(9)]) == [(0, 0), (1, 4), (2, 8)]


def test_one_architecture_is_matched_by_name_however_few_layers_were_chosen() -> None:
    rows, cols = ["layer1.0", "layer1.1"], staged(3, 3)
    assert matched_layers(rows, cols, same=True) == [(0, 0), (1, 1)]
    assert matched_layers(rows, cols) == [(0, 0), (1, 2)]
    assert matched_layers(rows[1:], cols) == [(0, 1)]
    assert matched_layers(["layer3.1"], cols) == [(0, 5)]
    assert matched_layers(list("xyz"), list("zxy")) == [(0, 1), (1, 2), (2, 0)]
    known = {"architecture": "resnet20", "parameters": 272474}
    assert same_architecture(known, dict(known))
    assert not same_architecture(known, {**known, "parameters": 1})
    assert not same_architecture({"architecture": "ResNet"}, {"architecture": "ResNet"})
    assert not same_architecture({}, {})


def test_no_layer_serves_twice_and_order_is_kept() -> None:
    for few in range(1, 9):
        for many in range(1, 30):
            pairs = matched_layers([f"u{k}u" for k in range(few)], [f"v{k}v" for k in range(many)])
            assert len(pairs) == min(few, many)
            assert pairs == sorted(pairs)
            assert len({j for _, j in pairs}) == len(pairs)
            assert pairs[-1] == (few - 1, many - 1)
