"""Networks of other libraries by name: timm, Hugging Face, ONNX. From files that are here; nothing is downloaded."""

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from repsim._common.files import sha256_of
from repsim._common.messages import did_you_mean, message, some
from repsim.networks.network import Normalize

#: The version of ONNX's operations that onnx2torch knows best.
_OPSET = 17


@dataclass(frozen=True)
class Found:
    """A network as its own library makes it.

    Attributes:
        net: The network.
        normalize: Of its own configuration; None where that says nothing.
        weights: A file to fill it from; None where it is filled or untrained.
        checkpoint: The name of the file that it was filled from.
        sha256: Of that file.
        notes: What was decided, in words.
        tokenizer: Makes inputs of texts.
    """

    net: nn.Module
    normalize: Normalize = None
    weights: Path | None = None
    checkpoint: str | None = None
    sha256: str | None = None
    notes: tuple[str, ...] = ()
    tokenizer: Callable[..., Any] | None = None


def find_network(architecture: str, num_classes: int | None, *, filled: bool) -> Found | None:
    """The network of "timm:NAME", "hf:FOLDER_OR_ID" or "onnx:FILE"; None for any other name.

    Args:
        architecture: What the user wrote.
        num_classes: Width of the head, for timm alone.
        filled: The caller fills it from a file of their own.

    Raises:
        ValueError: A library that is not installed, a name that it does not know, weights that are not here or ask for
            code of their own.
        FileNotFoundError: A file or folder that is not there.
    """
    kind, _, name = architecture.partition(":")
    if kind not in _KINDS or not name:
        return None
    if num_classes is not None and kind != "timm":
        must, advice = f"{kind}: networks have the head of their file", "Leave num_classes out"
        raise ValueError(message("load_model", must, f"num_classes={num_classes}", advice))
    return _timm(name, num_classes, filled) if kind == "timm" else _KINDS[kind](name)


def _library(module: str, kind: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        advice = f'Install it: pip install "repsim-toolkit[{kind}]"'
        raise ValueError(message("load_model", f"{kind}: needs {module}", "none installed", advice)) from error


def _timm(name: str, num_classes: int | None, filled: bool) -> Found:
    """Of timm by name; a name with a tag, as in resnet18.a1_in1k, means the weights of that tag."""
    timm = _library("timm", "timm")
    if not timm.is_model(name):
        raise ValueError(
            message("load_model", "timm must know the name", repr(name), did_you_mean(name, timm.list_models()))
        )
    extra = {} if num_classes is None else {"num_classes": num_classes}
    net = timm.create_model(name, pretrained=False, **extra)
    own = net.pretrained_cfg
    normalize = (tuple(own["mean"]), tuple(own["std"])) if own.get("mean") and own.get("std") else None
    hub = own.get("hf_hub_id")
    if filled or "." not in name:
        notes = () if filled or not hub else (f"untrained; {hub} has weights for it, which were not downloaded",)
        return Found(net, normalize, notes=notes)
    weights = _cached(hub, "model.safetensors") if hub else None
    if weights is None:
        got, advice = (
            f"none of {hub or name} in this machine's cache",
            "Download model.safetensors and pass checkpoint=",
        )
        raise ValueError(message("load_model", "the weights must be on this machine", got, advice))
    return Found(net, normalize, weights)


def _hugging_face(name: str) -> Found:
    """Of transformers: a folder, or an id that is in the cache."""
    transformers = _library("transformers", "hf")
    folder = Path(name) if Path(name).is_dir() else None
    if folder is None:
        config = _cached(name, "config.json")
        if config is None:
            got = f"no folder {name}, and nothing of that id in the cache"
            advice = "Download config.json and model.safetensors of it into a folder"
            raise FileNotFoundError(message("load_model", "hf: takes a folder or a downloaded id", got, advice))
        folder = config.parent
    config = _json(folder / "config.json")
    named = [c for c in config.get("architectures") or [] if isinstance(c, str)]
    kind: Any = getattr(transformers, named[0], None) if named else None
    network = isinstance(kind, type) and issubclass(kind, nn.Module)
    if not network or config.get("auto_map"):
        got = f"{folder} with {some(named)}" + (" and code of its own" if config.get("auto_map") else "")
        advice = "Load it yourself and pass the module"
        raise ValueError(message("load_model", "hf: takes architectures of transformers", got, advice))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        got, advice = f"none in {folder}", "Save it again with model.save_pretrained(folder)"
        raise ValueError(message("load_model", "hf: takes weights as safetensors", got, advice))
    options = {"local_files_only": True, "trust_remote_code": False}
    made: Any = kind
    net, loaded = made.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **options)
    absent = sorted(loaded["missing_keys"])
    notes = (f"random numbers for {some(absent)}, which the file lacks",) if absent else ()
    looks = _json(folder / "preprocessor_config.json")
    means, stds = looks.get("image_mean"), looks.get("image_std")
    normalize = (means, stds) if means and stds and looks.get("do_normalize", True) else None
    tokenizer = None
    if any((folder / each).is_file() for each in ("tokenizer.json", "vocab.txt", "tokenizer_config.json")):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    return Found(net, normalize, None, files[0].name, sha256_of(files[0]), notes, tokenizer)


def _onnx(name: str) -> Found:
    """Of an ONNX file, by onnx2torch."""
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(message("load_model", "the ONNX file must exist", name, "Check the path"))
    library, onnx = _library("onnx2torch", "onnx"), _library("onnx", "onnx")
    try:
        graph = onnx.load(str(path))
    except Exception as error:  # protobuf's own classes, which move between its versions
        advice = "Check the path, or export it again"
        raise ValueError(message("load_model", "the file must be ONNX", f"{path}: {error}", advice)) from error
    net, notes = _converted(library, onnx, graph, path)
    _check_batches(net, graph, path)
    return Found(net, None, None, path.name, sha256_of(path), notes)


def _converted(library: Any, onnx: Any, graph: Any, path: Path) -> tuple[nn.Module, tuple[str, ...]]:
    """The network, with a note where it took the operations of an older version of ONNX."""
    try:
        return library.convert(graph), ()
    except NotImplementedError as error:
        lacks = str(error)
    # An empty axis is what allowzero is for, and data has none.
    for node in graph.graph.node:
        kept = [a for a in node.attribute if a.name != "allowzero"]
        del node.attribute[:]
        node.attribute.extend(kept)
    has = max((each.version for each in graph.opset_import if not each.domain), default=0)
    for version in (has, _OPSET) if has > _OPSET else (has,):
        try:
            older = graph if version == has else onnx.version_converter.convert_version(graph, version)
            notes = () if version == has else (f"its operations of ONNX {has} were read as those of {version}",)
            return library.convert(older), notes
        except (NotImplementedError, RuntimeError):
            continue
    advice = f"Export it again: torch.onnx.export(…, dynamo=False, opset_version={_OPSET})"
    raise ValueError(message("load_model", "onnx2torch must know the file's operations", f"{path}: {lacks}", advice))


def _check_batches(net: nn.Module, graph: Any, path: Path) -> None:
    """A file that was exported for batches of one size may still take others; if not, it says nothing of samples."""
    weights = {each.name for each in graph.graph.initializer}
    inputs = [each.type.tensor_type for each in graph.graph.input if each.name not in weights]
    sizes = [each.dim_value for each in inputs[0].shape.dim] if len(inputs) == 1 else [0]
    if not all(sizes) or inputs[0].elem_type != 1:  # 1 are numbers of 32 bits
        return
    x = torch.rand(2 * sizes[0], *sizes[1:], generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            part, whole = net.eval()(x[: sizes[0]]), net(x)
        same = torch.allclose(whole[: sizes[0]], part, atol=1e-4, rtol=1e-3)
    except (RuntimeError, IndexError, TypeError):
        same = False
    if not same:
        got, advice = (
            f"{path}, for batches of {sizes[0]}",
            'Export it with dynamic_axes={"x": {0: "n"}}, input_names=["x"]',
        )
        raise ValueError(message("load_model", "an ONNX file must take batches of any size", got, advice))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(message("load_model", f"{path.name} must be JSON", str(path), "Download it again")) from error
    return found if isinstance(found, dict) else {}


def _cached(name: str, file: str) -> Path | None:
    """A file of a hub's cache on this machine."""
    hub = _library("huggingface_hub", "hf")
    try:
        found = hub.try_to_load_from_cache(name, file)
    except (ValueError, OSError):  # no id at all
        return None
    return Path(found) if isinstance(found, str) else None


_KINDS: dict[str, Callable[..., Found]] = {"timm": _timm, "hf": _hugging_face, "onnx": _onnx}
