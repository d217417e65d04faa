"""The trained models that come with kgen, each by one command.

    python examples/trained.py dcgan_mnist --mnist mnist.npz
    python examples/trained.py restorer_cifar10 --cifar10 cifar10
    python examples/trained.py pix2pix_emoji --emoji emoji64
    python examples/trained.py soflow_mnist --mnist mnist.npz

Trains in runs/trained (what is there already is not trained again, what was stopped goes on),
evaluates, and writes the preset, its weights in half precision, into kgen/models/trained, where
`kgen list`, `kgen sample NAME` and `kgen.load(NAME)` find it. Scores and minutes stand in the
preset's metadata.json and README.md. `--show` prints the commands.
"""

import argparse
import dataclasses
import pathlib
import shlex
import shutil
import subprocess
import sys

RUNS = pathlib.Path("runs/trained")
TRAINED = pathlib.Path(__file__).resolve().parents[1] / "kgen/models/trained"


@dataclasses.dataclass
class Recipe:
    """Commands of `kgen`, split at spaces: trainings, each with its run's name, and an evaluation.

    `{mnist}`, `{cifar10}` and `{emoji}` are where the data lies, `{runs}` is where the runs do.
    """

    trainings: dict
    license: str
    datasets: tuple
    evaluate: str = ""


MNIST = {"license": "cc-by-sa-3.0", "datasets": ("ylecun/mnist",)}
CIFAR10 = {"license": "other", "datasets": ("uoft-cs/cifar10",)}
EMOJI = {"license": "cc-by-4.0", "datasets": ()}
# The drawings are of 32x32 pixels; the inputs are the same in grey.
TWEMOJI = (
    "--data {emoji}/twemoji --inputs {emoji}/twemoji --image-shape 32x32x3 --input-shape 32x32x1 "
    "--group-by=-1f3f[b-f] --set filters=16"
)

RECIPES = {
    "vae_mnist": Recipe(
        {"vae_mnist": "train vae --data {mnist} --batch-size 128 --epochs 8"}, **MNIST
    ),
    "dcgan_mnist": Recipe(
        {"dcgan_mnist": "train dcgan --data {mnist} --conditional --epochs 5"}, **MNIST
    ),
    # Drawn as black and white: the grey levels of MNIST are taken as probabilities.
    "pixelcnn_pp_mnist": Recipe(
        {
            "pixelcnn_pp_mnist": "train pixelcnn_pp --data {mnist} --conditional --epochs 1 "
            "--batch-size 32 --learning-rate 0.002 --schedule cosine --set num_levels=2 "
            "--set filters=16 --set num_blocks=1 --set dropout=0.0 --set ema_decay=0.99"
        },
        evaluate="--num-samples 2000",
        **MNIST,
    ),
    "maskgit_mnist": Recipe(
        {
            "vqvae_mnist": "train vqvae --data {mnist} --batch-size 128 --epochs 3 "
            "--learning-rate 0.001 --schedule cosine",
            "maskgit_mnist": "train maskgit --data {mnist} --conditional --batch-size 128 "
            "--epochs 4 --learning-rate 0.002 --schedule cosine --set num_layers=3 "
            "--set tokenizer={runs}/vqvae_mnist",
        },
        **MNIST,
    ),
    "flow_matching_mnist": Recipe(
        {"flow_matching_mnist": "train flow_matching --data {mnist} --epochs 3"},
        evaluate="--set num_steps=16",
        **MNIST,
    ),
    "soflow_mnist": Recipe(
        {
            "flow_matching_mnist": "train flow_matching --data {mnist} --epochs 3",
            "soflow_mnist": "distill {runs}/flow_matching_mnist --epochs 1",
        },
        **MNIST,
    ),
    # Colours for drawings in grey.
    "pix2pix_emoji": Recipe(
        {
            "restorer_emoji": f"train restorer {TWEMOJI} --epochs 16",
            "pix2pix_emoji": f"train pix2pix {TWEMOJI} --epochs 10 --learning-rate 0.0003 "
            "--begin-with {runs}/restorer_emoji",
        },
        **EMOJI,
    ),
    "restorer_cifar10": Recipe(
        {
            "restorer_cifar10": "train restorer --data {cifar10} --horizontal-flip --steps 1200 "
            "--degrade noise:5-50"
        },
        **CIFAR10,
    ),
}


def commands(name, places):
    """The commands of a recipe, each a list of arguments of `kgen`."""
    recipe = RECIPES[name]
    for run, training in recipe.trainings.items():
        folder = RUNS / run
        arguments = [part.format(runs=RUNS, **places) for part in training.split()]
        if (folder / "model.keras").is_file():
            continue
        if (folder / "run.json").is_file():
            yield ["train", "--resume", str(folder)]
        else:
            yield [*arguments, "--run", str(folder)]
    run = str(RUNS / name)
    if not (RUNS / name / "evaluation.json").is_file():
        yield ["evaluate", run, *recipe.evaluate.split()]
    datasets = [part for dataset in recipe.datasets for part in ("--dataset", dataset)]
    yield [
        *("publish", run, "--to", str(TRAINED / name), "--weights", "h5", "--dtype", "float16"),
        *("--license", recipe.license, *datasets),
    ]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog=f"Models: {', '.join(RECIPES)}"
    )
    parser.add_argument("names", nargs="+", choices=RECIPES, metavar="NAME")
    parser.add_argument("--mnist", default="mnist.npz", help="mnist.npz in the Keras layout")
    parser.add_argument("--cifar10", default="cifar10", help="a folder of train/CLASS, test/CLASS")
    parser.add_argument("--emoji", default="emoji64", help="a folder of noto/ and twemoji/")
    parser.add_argument("--show", action="store_true", help="print the commands, run none")
    args = parser.parse_args()
    for name in args.names:
        places = {"mnist": args.mnist, "cifar10": args.cifar10, "emoji": args.emoji}
        for command in commands(name, places):
            print("kgen", shlex.join(command), flush=True)
            if args.show:
                continue
            if command[0] == "publish" and (TRAINED / name).exists():
                shutil.rmtree(TRAINED / name)
            subprocess.run([sys.executable, "-m", "kgen", *command], check=True)


if __name__ == "__main__":
    main()
