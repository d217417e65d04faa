"""A search for a VAE's arguments by Optuna, in which every trial trains for so many minutes.

pip install optuna
python examples/tuning.py --data mnist.npz --trials 12 --minutes 1

Minutes of the clock are what trials have in common: a network that is twice as large takes half of
the steps, and its rate falls in time all the same. The study is kept, and goes on with more trials.
"""

import argparse
import pathlib

import keras
import optuna

import kgen
from kgen.training.run import NonFiniteError, train

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", required=True, help="mnist.npz in the Keras layout")
parser.add_argument("--out", default="runs/tuning")
parser.add_argument("--trials", type=int, default=12, help="of the whole study")
parser.add_argument("--minutes", type=float, default=1.0, help="of each trial")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
out = pathlib.Path(args.out)
out.mkdir(parents=True, exist_ok=True)
data = kgen.data.load(args.data)


def objective(trial):
    """The bound on the negative log-likelihood of validation images, in nats."""
    arguments = {
        "latent_dim": trial.suggest_categorical("latent_dim", [8, 16, 32, 64]),
        "filters": trial.suggest_categorical("filters", [16, 32, 64]),
    }
    options = {
        "learning_rate": trial.suggest_float("learning_rate", 3e-4, 1e-2, log=True),
        "batch_size": trial.suggest_categorical("batch_size", [32, 64, 128]),
        "schedule": trial.suggest_categorical("schedule", ["constant", "cosine"]),
    }
    keras.utils.clear_session()
    try:
        run = train(
            "vae_28x28",
            data,
            out / f"trial_{trial.number:03d}",
            minutes=args.minutes,
            model_arguments=arguments,
            seed=args.seed,
            force=True,
            verbose=0,
            **options,
        )
    except NonFiniteError as error:  # the rate was too large
        raise optuna.TrialPruned(str(error)) from error
    trial.set_user_attr("run", str(run.path))
    trial.set_user_attr("steps", run.info["steps"])
    return run.metrics[-1]["val_loss"]


study = optuna.create_study(
    study_name="vae",
    storage=f"sqlite:///{out}/study.db",
    load_if_exists=True,
)
# Of a study that goes on other trials, not the first ones again.
study.sampler = optuna.samplers.TPESampler(seed=args.seed + len(study.trials))
study.optimize(objective, n_trials=max(0, args.trials - len(study.trials)))

finished = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
for trial in sorted(finished, key=lambda trial: trial.value):
    print(f"{trial.value:8.2f} nats, {trial.user_attrs['steps']:6,} steps: {trial.params}")
if not finished:
    raise SystemExit("No trial has come to its end: every rate was too large.")
best = study.best_trial
print(f"Best: {best.user_attrs['run']}. The same for longer:")
print(
    f"kgen train vae_28x28 --data {args.data} --minutes 20 "
    f"--learning-rate {best.params['learning_rate']:.3g} --batch-size {best.params['batch_size']} "
    f"--schedule {best.params['schedule']} --set latent_dim={best.params['latent_dim']} "
    f"--set filters={best.params['filters']}"
)
