"""Training on several devices and on several hosts: one option."""

import contextlib

from kgen.training.step import devices_scope, host_index

__all__ = ["data_parallel", "is_main_host"]


@contextlib.contextmanager
def data_parallel(devices="all", hosts=False):
    """Models that are built inside train on several devices at once.

    Every device has all weights and computes its share of the rows of every batch. What
    comes out is what one device computes from the same batches, but for rounding:
    `batch_size` is that of all devices together, noise goes with the row of the whole
    batch, batch normalisation and metrics take in all rows. Any batch size works; one that
    the number of devices divides keeps them equally busy.

    It is `tf.distribute.MirroredStrategy` (with hosts `MultiWorkerMirroredStrategy`) on
    TensorFlow and `keras.distribution.DataParallel` on JAX. Build, or load, the model in
    the context, and compile, fit and use it there.

    Args:
        devices: `"all"`, or int, how many GPUs of this host to use, or, where it has
            none, CPU devices; `None` for what a model does without the context.
        hosts: Bool, train together with other hosts, which run the same program on the
            same data: each is given whole batches, and takes its rows of them. The hosts
            are named by the environment variable `TF_CONFIG`, on either backend; JAX also
            takes Keras's `KERAS_DISTRIBUTION_JOB_ADDRESSES`, `_NUM_PROCESSES` and
            `_PROCESS_ID`, and finds a cluster that it knows by itself. The context then
            comes before anything else that computes.

    Raises:
        ValueError: There are fewer devices, or the hosts are not named.
        RuntimeError: The hosts do not find each other, or something computed before.

    Example:

    >>> with kgen.training.distribution.data_parallel():
    ...     model = kgen.models.VAE.from_preset("vae_28x28")
    ...     model.compile()
    ...     model.fit(data.train, batch_size=512, epochs=20)
    """
    if devices is None and not hosts:
        yield
        return
    with devices_scope("all" if devices is None else devices, hosts):
        yield


def is_main_host():
    """Whether this is the host that should write files: the first one, or the only one."""
    return host_index() == 0
