"""`repsim certify NETWORK`: certificates by randomised smoothing, as a table, a curve and files."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repsim._common.checks import fraction
from repsim._common.files import whole_file, write_text
from repsim.cli.arguments import NETWORK, NORMALIZE, add_images, asked_images, named_network
from repsim.cli.tables import number, print_table
from repsim.cli.verbs import Verb

if TYPE_CHECKING:
    from repsim.robustness.smoothing import Certificates


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `repsim certify` takes to its parser."""
    parser.add_argument("network", metavar="NETWORK", help=NETWORK)
    text = "standard deviation of the noise, in pixels of [0, 1], as in 0.25 or 64/255"
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--sigma", type=fraction, help=text)
    text = 'another noise: "laplace:0.2", "uniform:0.5", "exponential:0.001", "gaussian:0.25:K"'
    kind.add_argument("--noise", metavar="KIND:SCALE", help=text)
    parser.add_argument("--threat", choices=("l1", "l2", "linf"), default="l2", help="norm of the radii; default l2")
    parser.add_argument("--n0", type=int, default=100, help="draws that select the class; default 100")
    parser.add_argument("--n", type=int, default=10_000, help="draws that certify it; default 10000")
    parser.add_argument("--alpha", type=float, default=0.001, help="chance that a certificate is wrong; default 0.001")
    add_images(parser, seed="the noise")
    parser.add_argument("--normalize", help=NORMALIZE)
    parser.add_argument("--batch-size", type=int, default=1024, help="noisy copies per forward pass; default 1024")
    parser.add_argument("--device", help='where to compute, as in "cuda"')
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="default: out")


def run(arguments: argparse.Namespace) -> None:
    """Certifies as asked, writes everything to the output folder and prints what was found.

    Raises:
        ValueError: Too few draws for alpha, before anything is loaded; or whatever the package finds wrong.
    """
    from matplotlib.figure import Figure

    from repsim.plots import certified_curve
    from repsim.robustness.noises import noise_of
    from repsim.robustness.smoothing import certify, check_settings

    draws = {"n0": arguments.n0, "n": arguments.n}
    noise = noise_of(arguments.noise or arguments.sigma, "certify")
    check_settings("certify", noise.scale, arguments.alpha, **draws)
    network = named_network(arguments.network, arguments.normalize)
    data = asked_images(arguments)
    if arguments.device:
        network.to(arguments.device)
    for note in network.provenance["notes"]:
        print(f"{network.name}: {note}")
    print(repr(data))
    settings = {**draws, "alpha": arguments.alpha, "seed": arguments.seed, "batch_size": arguments.batch_size}
    made = certify(network, data, noise, threat=arguments.threat, **settings)
    path = made.save(arguments.out / "certificates.npz")
    with whole_file(path.with_suffix(".csv")) as temporary:
        made.to_frame().to_csv(temporary, index=False)
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    certified_curve(made, ax=figure.add_subplot())
    with whole_file(arguments.out / "certified_curve.png") as temporary:
        figure.savefig(temporary, dpi=150)
    summary = _summary(made)
    facts = {"network": network.provenance, "data": {"name": data.name, "n": len(data), "digest": data.digest}}
    write_text(arguments.out / "summary.json", json.dumps({**summary, **facts, "run": made.provenance}, indent=1))
    _print(made, summary)
    print(f"written to {arguments.out}: certificates.{{npz,csv}}, certified_curve.png, summary.json")


def _summary(made: "Certificates") -> dict[str, Any]:
    """What the certificates say together."""
    step = made.sigma / 2 if made.threat == "l2" else made.radius_cap / 8
    radii = np.arange(0.0, made.radius_cap, step).tolist()
    counted = np.where(made.correct, made.radius, 0.0)
    m = len(made)
    return {
        "network_name": made.network,
        "sigma": made.sigma,
        "noise": made.noise or f"gaussian:{made.sigma:g}",
        "threat": made.threat,
        "n0": made.n0,
        "n": made.n,
        "alpha": made.alpha,
        "seed": made.seed,
        "images": m,
        "radius_cap": made.radius_cap,
        "abstained": made.abstained,
        "certified": [
            {"radius": r, "accuracy": made.certified_accuracy(r), "interval": list(made.certified_interval(r))}
            for r in radii
        ],
        "average_certified_radius": made.average_certified_radius,
        # Over the choice of images; one image has no spread.
        "standard_error": float(counted.std(ddof=1) / np.sqrt(m)) if m > 1 else None,
    }


def _print(made: "Certificates", summary: dict[str, Any]) -> None:
    print(
        f"certificates of the SMOOTHED network, {made.network} under {_noise(made)}, not of "
        f"{made.network} itself; each holds with confidence 1 - alpha = {1 - made.alpha:.10g}, for its image by itself"
    )
    print(f"draws per image: {made.n0:,} select the class, n = {made.n:,} certify it")
    print(f"radius cap: {made.radius_cap:.4f}, which no image can pass with so many draws")
    print(f"abstained: {made.abstained * len(made):.0f} of {len(made):,} images ({made.abstained:.1%})")
    rows = [
        [f"{at['radius']:g}", number(at["accuracy"]), "[{:.4f}, {:.4f}]".format(*at["interval"])]
        for at in summary["certified"]
    ]
    norm = {"l1": "ℓ1", "l2": "ℓ2", "linf": "ℓ∞"}[made.threat]
    print_table([f"{norm} radius", "certified accuracy", "Wilson 95 % over images"], rows)
    average, error = summary["average_certified_radius"], number(summary["standard_error"])
    print(f"average certified radius: {average:.4f}, standard error over images {error}")


def _noise(made: "Certificates") -> str:
    return f"noise {made.noise}" if made.noise else f"Gaussian noise of σ = {made.sigma:g}"


CERTIFY = Verb(add_arguments, run, "folder")
